"""Samples along rays through a density that is mostly empty (Müller et al. 2022, "Instant neural graphics primitives", section E).

A coarse grid remembers how dense each cell was found. Rays take even steps, skip cells that are empty, and end where what lies before,
by the grid's own account, lets nothing through: so that the network is asked only where its answer shows.

Forms, chosen by `choose_backend`: on the CPU numba, a tenth of the work; elsewhere, and in float64, the PyTorch form on the device.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..choose_backend import RAY_MARCH, choose
from . import torch_form
from .occupancy import OccupancyGrid, Samples

OPAQUE = 7.0  # optical depth behind which nothing is sampled; the grid's densities count half, as they are the highest of late


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(RAY_MARCH, device)


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
    first = torch.full_like(length, 0.5) if generator is None else torch.rand(len(hit), 1, generator=generator).to(near)
    form = backend_for(near.device) if near.dtype == torch.float32 else torch_form
    rays, points, packed, slot = form.march(origins, directions, near, far, first, length, grid, step, OPAQUE)
    return Samples(hit[rays], points, packed, length[rays], slot)
