"""Samples along rays through a density that is mostly empty (Müller et al. 2022, "Instant neural graphics primitives", section E).

A coarse grid remembers how dense each cell was found. Rays take even steps, skip cells that are empty, and end where what lies before,
by the grid's own account, lets nothing through: so that the network is asked only where its answer shows.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from .occupancy import OccupancyGrid, Samples

log = logging.getLogger(__name__)


OPAQUE = 7.0  # optical depth behind which nothing is sampled; the grid's densities count half, as they are the highest of late


@lru_cache
def _kernels() -> ModuleType | None:
    """The compiled form, a tenth of the work on a CPU; None where numba is missing."""
    try:
        from . import numba_form
    except Exception as error:  # a broken installation may raise anything
        log.info("ray marching: plain PyTorch (numba not usable: %s)", error)
        return None
    return numba_form


@torch.no_grad()
def march(origins: Tensor, directions: Tensor, grid: OccupancyGrid, step: float, generator: torch.Generator | None = None) -> Samples:
    """Even steps along rays (R, 3), each ray's first at random within one step (in the middle without a generator).

    Args:
        step: in units of the directions, which need no unit length.
    """
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    low, high = (grid.low - origins) / safe, (grid.high - origins) / safe
    near, far = torch.minimum(low, high).amax(-1).clamp(min=0), torch.maximum(low, high).amin(-1)
    hit = torch.nonzero(far > near)[:, 0]
    near, far, origins, directions = near[hit], far[hit], origins[hit], directions[hit]
    length = step * directions.norm(dim=-1, keepdim=True)
    count = int(torch.ceil((far - near).max() / step)) if len(hit) else 0
    first = torch.full_like(length, 0.5) if generator is None else torch.rand(len(hit), 1, generator=generator).to(near)
    kernels = _kernels() if near.device.type == "cpu" and near.dtype == torch.float32 else None
    if kernels is not None:
        rays, points, packed, slot = kernels.march(origins, directions, near, far, first, length, grid, step, OPAQUE)
        return Samples(hit[rays], points, packed, length[rays], slot)
    depths = near[:, None] + (torch.arange(count, device=near.device) + first) * step
    points = origins[:, None] + depths[..., None] * directions[:, None]
    known = grid.at(points)
    before = (known * (0.5 * length)).cumsum(1) - known * (0.5 * length)
    keep = (known > 0) & (depths < far[:, None]) & (before < OPAQUE)
    any_kept = keep.any(1)
    if not bool(any_kept.all()):
        hit, keep, depths, points, length = hit[any_kept], keep[any_kept], depths[any_kept], points[any_kept], length[any_kept]
    place = keep.long().cumsum(1) - 1
    width = int(place[:, -1].max()) + 1 if len(hit) else 0
    slot = (torch.arange(len(hit), device=near.device)[:, None] * width + place)[keep]
    packed = depths.new_zeros(len(hit) * width).index_copy(0, slot, depths[keep]).view(len(hit), width)
    return Samples(hit, points[keep], packed, length, slot)
