"""Samples along rays through a density that is mostly empty (Müller et al. 2022, "Instant neural graphics primitives", section E).

A coarse grid remembers how dense each cell was found. Rays take even steps, skip cells that are empty, and end where what lies before,
by the grid's own account, lets nothing through: so that the network is asked only where its answer shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

log = logging.getLogger(__name__)

OPAQUE = 7.0  # optical depth behind which nothing is sampled; the grid's densities count half, as they are the highest of late
POINTS_AT_ONCE = 1 << 18


class OccupancyGrid:
    """What is known of a density in [-bound, bound]^3.

    Args:
        resolution: cells along an edge.  bound: half the cube's side.
        decay: of remembered densities at each update.  threshold: density of an occupied cell, or the mean density where that is lower.

    Attributes:
        density: (R, R, R) highest density found of late, indexed [x, y, z].
        occupied: the same, 0 where a cell counts as empty.
        low, high: (3,) corners of the box around the occupied cells.
    """

    def __init__(self, resolution: int, bound: float, decay: float, threshold: float, device: torch.device | str = "cpu") -> None:
        self.resolution, self.bound, self.decay, self.threshold = resolution, bound, decay, threshold
        self.density = torch.full((resolution,) * 3, float("inf"), device=device)
        self._settle()

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        """Asks the density at a random place in each cell."""
        n = self.resolution
        places = torch.rand(n**3, 3, generator=generator)
        cells = torch.stack(torch.unravel_index(torch.arange(n**3), (n, n, n)), dim=-1)
        places = ((places + cells) * (2 * self.bound / n) - self.bound).to(self.density.device)
        found = torch.cat([density(part) for part in places.split(POINTS_AT_ONCE)]).view(n, n, n)
        known = self.density.isfinite()
        self.density = torch.where(known, torch.maximum(self.density * self.decay, found), found)
        self._settle()

    def restore(self, density: Tensor) -> None:
        """Goes on with remembered densities."""
        self.density = density.to(self.density)
        self._settle()

    def at(self, points: Tensor) -> Tensor:
        """(..., 3) world points -> remembered density; 0 in cells that count as empty."""
        cell = ((points + self.bound) * (self.resolution / (2 * self.bound))).long().clamp(0, self.resolution - 1)
        return self.occupied.take((cell[..., 0] * self.resolution + cell[..., 1]) * self.resolution + cell[..., 2])

    def _settle(self) -> None:
        level = min(float(self.density.mean()), self.threshold)
        self.occupied = torch.where(self.density > level, self.density, torch.zeros_like(self.density))
        if not bool(self.density.isfinite().all()):  # nothing is known yet
            self.occupied = torch.full_like(self.density, 1e-6)
        cells = self.occupied.nonzero()
        if len(cells) == 0:
            self.occupied = torch.full_like(self.density, 1e-6)
            cells = self.occupied.nonzero()
        size = 2 * self.bound / self.resolution
        self.low = cells.amin(0) * size - self.bound
        self.high = (cells.amax(0) + 1) * size - self.bound


@dataclass(frozen=True)
class Samples:
    """P samples of R rays.

    Attributes:
        rays: (R',) rays that have any, of those given.
        points: (P, 3) world.
        depths: (R', K) along the rays, 0 in empty places.
        lengths: (R', 1) world units of a step of each ray.
        slot: (P,) place of each sample in (R', K), flattened.
    """

    rays: Tensor
    points: Tensor
    depths: Tensor
    lengths: Tensor
    slot: Tensor

    @property
    def ray(self) -> Tensor:
        """(P,) the row of `rays` that each sample lies on."""
        return torch.div(self.slot, max(self.depths.shape[1], 1), rounding_mode="floor")

    def spread(self, values: Tensor) -> Tensor:
        """(P, ...) -> (R', K, ...), 0 in empty places."""
        full = values.new_zeros((self.depths.numel(), *values.shape[1:]))
        return full.index_copy(0, self.slot, values).view(*self.depths.shape, *values.shape[1:])


@lru_cache
def _kernels() -> ModuleType | None:
    """The compiled form, a tenth of the work on a CPU; None where numba is missing."""
    try:
        from .backends import ray_march_numba
    except Exception as error:  # a broken installation may raise anything
        log.info("ray marching: plain PyTorch (numba not usable: %s)", error)
        return None
    return ray_march_numba


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
