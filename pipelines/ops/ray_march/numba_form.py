"""Marching through an occupancy grid, compiled by numba: each ray stops where it is done, and only kept samples are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..numba_jit import for_each, jit

if TYPE_CHECKING:
    from .occupancy import OccupancyGrid

RAYS_AT_ONCE = 1 << 10


@jit
def _known(point, occupied, bound, per_unit):  # type: ignore[no-untyped-def]
    top = occupied.shape[0] - 1
    i = min(max(np.int64((point[0] + bound) * per_unit), 0), top)
    j = min(max(np.int64((point[1] + bound) * per_unit), 0), top)
    k = min(max(np.int64((point[2] + bound) * per_unit), 0), top)
    return occupied[i, j, k]


@jit
def _count(r0, r1, rays, occupied, bound, per_unit, step, opaque, counts):  # type: ignore[no-untyped-def]
    """How many samples rays r0 to r1 keep. A row of rays: origin, direction, near, far, first step's share, half a step's length."""
    point = np.empty(3, np.float32)
    for r in range(r0, r1):
        ray, number, before = rays[r], np.float32(0), 0.0
        while before < opaque:
            depth = ray[6] + (number + ray[8]) * step
            if not depth < ray[7]:
                break
            for axis in range(3):
                point[axis] = ray[axis] + depth * ray[3 + axis]
            known = _known(point, occupied, bound, per_unit)
            counts[r] += known > 0
            before += known * ray[9]
            number += np.float32(1)


@jit
def _fill(r0, r1, rays, occupied, bound, per_unit, step, starts, rows, width, points, packed, slot):  # type: ignore[no-untyped-def]
    """Writes the samples that `_count` counted, starts[r] to starts[r + 1], and their depths into row rows[r] of (rows, width)."""
    point = np.empty(3, np.float32)
    for r in range(r0, r1):
        ray, number, place = rays[r], np.float32(0), starts[r]
        while place < starts[r + 1]:
            depth = ray[6] + (number + ray[8]) * step
            for axis in range(3):
                point[axis] = ray[axis] + depth * ray[3 + axis]
            if _known(point, occupied, bound, per_unit) > 0:
                points[place] = point
                slot[place] = rows[r] * width + place - starts[r]
                packed[slot[place]] = depth
                place += 1
            number += np.float32(1)


def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, first: Tensor, length: Tensor, grid: OccupancyGrid, step: float,
    opaque: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `torch_form.march`."""
    rays = torch.cat([origins, directions, near[:, None], far[:, None], first, 0.5 * length], dim=1).contiguous().numpy()
    about: tuple[Any, ...] = (
        grid.occupied.contiguous().numpy(), np.float32(grid.bound), np.float32(grid.resolution / (2 * grid.bound)), np.float32(step),
    )  # fmt: skip
    counts = np.zeros(len(rays), np.int64)
    chunks = -(-len(rays) // RAYS_AT_ONCE)

    def ends(chunk: int) -> tuple[int, int]:
        return chunk * RAYS_AT_ONCE, min((chunk + 1) * RAYS_AT_ONCE, len(rays))

    for_each(lambda chunk: _count(*ends(chunk), rays, *about, opaque, counts), chunks)
    kept = np.flatnonzero(counts)
    starts, rows = np.zeros(len(rays) + 1, np.int64), np.zeros(len(rays), np.int64)
    np.cumsum(counts, out=starts[1:])
    rows[kept] = np.arange(len(kept))
    width = int(counts.max()) if len(kept) else 0
    points, slot = np.empty((starts[-1], 3), np.float32), np.empty(starts[-1], np.int64)
    packed = np.zeros(len(kept) * width, np.float32)
    for_each(lambda chunk: _fill(*ends(chunk), rays, *about, starts, rows, width, points, packed, slot), chunks)
    return torch.from_numpy(kept), torch.from_numpy(points), torch.from_numpy(packed).view(len(kept), width), torch.from_numpy(slot)
