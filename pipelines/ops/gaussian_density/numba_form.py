"""Sums of Gaussians at points, compiled by numba: boxes sorted into cells once, then each point walks the list of its cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..numba_jit import for_each, jit
from .torch_form import CUTOFF, Gaussians

MOST_CELLS, MOST_ENTRIES = 64, 1 << 25
POINTS_AT_ONCE = 1 << 14


class Cells(NamedTuple):
    """A box of cells: `low` corner, `size` of a cell, `counts` along x, y, z; Gaussians of cell c: order[starts[c] : starts[c + 1]]."""

    low: NDArray[np.float32]
    size: NDArray[np.float32]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]
    order: NDArray[np.int32]


@jit
def _ranges(means, radii, low, size, counts, first, last):  # type: ignore[no-untyped-def]
    """Cells that each box touches, per axis, and how many in all."""
    total = 0
    for g in range(means.shape[0]):
        touched = 1
        for axis in range(3):
            a = np.int64(np.floor((means[g, axis] - radii[g, axis] - low[axis]) / size[axis]))
            b = np.int64(np.floor((means[g, axis] + radii[g, axis] - low[axis]) / size[axis]))
            first[g, axis] = min(max(a, 0), counts[axis] - 1)
            last[g, axis] = min(max(b, 0), counts[axis] - 1)
            touched *= last[g, axis] - first[g, axis] + 1
        total += touched
    return total


@jit
def _fill(first, last, counts, starts, order):  # type: ignore[no-untyped-def]
    """Counting sort of (cell, Gaussian) pairs; within a cell Gaussians keep their order, so sums are the same everywhere."""
    for g in range(first.shape[0]):
        for x in range(first[g, 0], last[g, 0] + 1):
            for y in range(first[g, 1], last[g, 1] + 1):
                for z in range(first[g, 2], last[g, 2] + 1):
                    starts[(x * counts[1] + y) * counts[2] + z + 1] += 1
    for c in range(len(starts) - 1):
        starts[c + 1] += starts[c]
    place = starts.copy()
    for g in range(first.shape[0]):
        for x in range(first[g, 0], last[g, 0] + 1):
            for y in range(first[g, 1], last[g, 1] + 1):
                for z in range(first[g, 2], last[g, 2] + 1):
                    c = (x * counts[1] + y) * counts[2] + z
                    order[place[c]] = g
                    place[c] += 1


@jit
def _sum(points, means, inverse, peaks, values, low, size, counts, starts, order, cutoff, total, out):  # type: ignore[no-untyped-def]
    channels = values.shape[1]
    for p in range(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        i = np.int64(np.floor((x - low[0]) / size[0]))
        j = np.int64(np.floor((y - low[1]) / size[1]))
        k = np.int64(np.floor((z - low[2]) / size[2]))
        if i < 0 or j < 0 or k < 0 or i >= counts[0] or j >= counts[1] or k >= counts[2]:
            continue
        c = (i * counts[1] + j) * counts[2] + k
        for entry in range(starts[c], starts[c + 1]):
            g = order[entry]
            dx, dy, dz = x - means[g, 0], y - means[g, 1], z - means[g, 2]
            squared = inverse[g, 0] * dx * dx + inverse[g, 3] * dy * dy + inverse[g, 5] * dz * dz
            squared += 2 * (inverse[g, 1] * dx * dy + inverse[g, 2] * dx * dz + inverse[g, 4] * dy * dz)
            if squared < cutoff:
                weight = peaks[g] * np.exp(-0.5 * squared)
                total[p] += weight
                for channel in range(channels):
                    out[p, channel] += weight * values[g, channel]


def sort_into_cells(gaussians: Gaussians) -> Cells:
    """The cells of these Gaussians, about as large as a typical box. Fewer cells where lists would grow too long in all."""
    means, radii = gaussians.means.cpu().numpy(), gaussians.radii.cpu().numpy()
    low, high = (means - radii).min(0), (means + radii).max(0)
    typical = np.maximum(np.median(radii), 1e-6)
    most = MOST_CELLS
    while True:
        counts = np.clip(np.ceil((high - low) / (2 * typical)), 1, most).astype(np.int64)
        size = np.maximum((high - low) / counts, 1e-9).astype(np.float32)
        first, last = np.empty(means.shape, np.int64), np.empty(means.shape, np.int64)
        total = _ranges(means, radii, low, size, counts, first, last)
        if total <= MOST_ENTRIES or most == 1:
            break
        most //= 2
    starts, order = np.zeros(int(counts.prod()) + 1, np.int64), np.empty(total, np.int32)
    _fill(first, last, counts, starts, order)
    return Cells(low, size, counts, starts, order)


def sum_of(gaussians: Gaussians) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """See `torch_form.sum_of`. The Gaussians are sorted into cells here, once."""
    cells = sort_into_cells(gaussians)
    parts = [t.cpu().contiguous().numpy() for t in (gaussians.means, gaussians.inverse, gaussians.peaks, gaussians.values)]

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        total = np.zeros(len(points), np.float32)
        out = np.zeros((len(points), parts[3].shape[1]), np.float32)
        rows = points.detach().float().cpu().contiguous().numpy()

        def work(index: int) -> None:
            span = slice(index * POINTS_AT_ONCE, (index + 1) * POINTS_AT_ONCE)
            _sum(rows[span], *parts, *cells, np.float32(CUTOFF**2), total[span], out[span])

        for_each(work, -(-len(points) // POINTS_AT_ONCE))
        return torch.from_numpy(total).to(points.device), torch.from_numpy(out).to(points.device)

    return evaluate
