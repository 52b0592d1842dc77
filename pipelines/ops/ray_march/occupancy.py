"""The coarse grid that remembers where a density is empty, and the samples that rays take of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
