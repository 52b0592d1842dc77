"""The tile lists of the CUDA form: for each tile of all pictures the Gaussians that touch it, front to back, in bands of tile rows.

A band holds as many pairs of tile and Gaussian as one launch may work on: so that their memory is bounded, and a launch is meant to
stay far below the two seconds after which Windows resets a card that also draws the screen. Pictures and gradients are the same to the bit
however many bands there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cuda import card as cards

LISTS = Path(__file__).with_name("cuda_lists.cu")
TILE, THREADS = 16, 256  # as in the .cu files
INT_MAX = 2**31 - 1
BAND_PAIRS = 1 << 23
"""Pairs in a band of more than one row, and on average in a launch of more than one tile: 8 million, of 256 pixels each."""
SORT_BYTES = 48
"""Memory that a pair takes while its band is sorted: tile, owner, sorted tile and place, and as much again inside the sort."""
KEPT_BYTES = 8
"""Memory that a pair takes until the gradients are made: owner and slot."""
UNASKED_BYTES = 1 << 28
"""Below this the card is not asked how much is free, for asking takes time."""


@dataclass(frozen=True)
class Band:
    """Tiles of the rows begin .. end - 1; rows are counted through all cameras. Indices are int32, i = camera * N + Gaussian.

    Attributes:
        begin, end: the rows.
        starts: (tiles + 1,) where each tile's list starts.
        owners: (pairs,) the Gaussians, tile after tile, front to back.
        slots: (pairs,) the place of each pair when ordered by Gaussian, as `TileLists.order` orders them.
        ends: (C * N,) where the pairs of each Gaussian end in that order.
    """

    begin: int
    end: int
    starts: Tensor
    owners: Tensor
    slots: Tensor
    ends: Tensor

    def launches(self) -> Iterator[tuple[int, int]]:
        """First tile and number of tiles of each launch: all tiles, or fewer where a single row holds more pairs than a launch may."""
        tiles = len(self.starts) - 1
        step = max(1, tiles * BAND_PAIRS // max(len(self.owners), BAND_PAIRS))
        return ((first, min(step, tiles - first)) for first in range(0, tiles, step))


@dataclass(frozen=True)
class TileLists:
    """All bands of C pictures.

    Attributes:
        across, down: tiles of a picture.
        order: (C * N,) int32, front to back, ties by index, the unseen last.
    """

    across: int
    down: int
    order: Tensor
    bands: tuple[Band, ...]


def tile_lists(means2d: Tensor, depths: Tensor, extents: Tensor, width: int, height: int, row_bytes: int) -> TileLists:
    """The lists of Gaussians (C, N) with centres means2d (C, N, 2) and half sizes extents (C, N, 2). Waits for the card once.

    Args:
        row_bytes: memory that backward takes for each pair of a band.

    Raises:
        ValueError: more pairs than memory or 32 bits hold.
    """
    views, n = depths.shape
    card, entries = cards.card(means2d.device), views * n
    across, down = -(-width // TILE), -(-height // TILE)
    if entries > INT_MAX // 4:
        raise ValueError(f"Splats: {n:,} Gaussians for {views} cameras are too many for one call; draw fewer cameras at once.")
    program, blocks = card.program(LISTS), -(-entries // THREADS)
    changes = torch.zeros(views * down + 1, dtype=torch.int64, device=means2d.device)
    program.launch("count_rows", blocks, THREADS, [means2d, extents, n, entries, across, down, changes])
    pairs = changes.cumsum(0)[:-1].tolist()
    most = _band_pairs(pairs, row_bytes, card, f"{views} pictures of {width} x {height}")
    nearest_first = torch.where(extents[..., 0] > 0, depths, torch.inf).flatten()
    order = torch.sort(nearest_first, stable=True).indices.int()
    made = []
    for begin, end, total in _bands(pairs, most):
        where = [n, entries, across, down, begin, end]
        counts = torch.empty(entries, dtype=torch.int32, device=means2d.device)
        program.launch("count_pairs", blocks, THREADS, [means2d, extents, order, *where, counts])
        ends = counts.cumsum(0, dtype=torch.int32)
        tiles, owners = torch.empty((2, total), dtype=torch.int32, device=means2d.device).unbind()
        program.launch("list_pairs", blocks, THREADS, [means2d, extents, order, ends, *where, tiles, owners])
        tiles, slots = torch.sort(tiles, stable=True)
        numbers = torch.arange((end - begin) * across + 1, dtype=torch.int32, device=means2d.device)
        starts = torch.searchsorted(tiles, numbers, out_int32=True)
        made.append(Band(begin, end, starts, owners[slots], slots.int(), ends))
    return TileLists(across, down, order, tuple(made))


def _band_pairs(pairs: list[int], row_bytes: int, card: cards.Card, pictures: str) -> int:
    """How many pairs a band may hold, from the pairs of each row."""
    total, widest, each = sum(pairs), max(pairs), SORT_BYTES + row_bytes
    if total * (each + KEPT_BYTES) <= UNASKED_BYTES:
        return total
    free = card.free_bytes() - total * KEPT_BYTES
    if widest > min(free // each, INT_MAX):
        raise ValueError(
            f"Splats: the Gaussians touch {total:,} tiles of {pictures} in all, for which the card has no room (a row of tiles has up to "
            f"{widest:,}). Many are far too large: check the scales (linear, not logarithms), draw smaller pictures or free memory."
        )
    return min(BAND_PAIRS, free // 2 // each)


def _bands(pairs: list[int], most: int) -> Iterator[tuple[int, int, int]]:
    """Cuts rows into (begin, end, pairs) of at most `most` pairs, or of one row."""
    begin, total = 0, 0
    for row, count in enumerate(pairs):
        if total and total + count > most:
            yield begin, row, total
            begin, total = row, 0
        total += count
    yield begin, len(pairs), total
