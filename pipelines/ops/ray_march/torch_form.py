"""Marching through an occupancy grid in PyTorch: the oracle of the other form. Takes all steps of all rays, then drops those not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .occupancy import OccupancyGrid


def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, first: Tensor, length: Tensor, grid: OccupancyGrid, step: float,
    opaque: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What every form offers: samples of R rays that meet the grid's box.

    Args:
        origins, directions: (R, 3); near, far: (R,) where a ray enters and leaves the box, in units of its direction.
        first: (R, 1) share of a step before the first sample; length: (R, 1) world units of a step.
        step: in units of the directions; opaque: optical depth, by half the grid's densities, behind which nothing is sampled.

    Returns:
        (R',) rays that keep samples, points (P, 3), depths (R', K), slots (P,); as in `occupancy.Samples`.
    """
    count = int(torch.ceil((far - near).max() / step)) if len(near) else 0
    depths = near[:, None] + (torch.arange(count, device=near.device) + first) * step
    points = origins[:, None] + depths[..., None] * directions[:, None]
    known = grid.at(points)
    before = (known * (0.5 * length)).cumsum(1) - known * (0.5 * length)
    keep = (known > 0) & (depths < far[:, None]) & (before < opaque)
    rays = torch.nonzero(keep.any(1))[:, 0]
    if len(rays) < len(near):
        keep, depths, points = keep[rays], depths[rays], points[rays]
    place = keep.long().cumsum(1) - 1
    width = int(place[:, -1].max()) + 1 if len(rays) else 0
    slot = (torch.arange(len(rays), device=near.device)[:, None] * width + place)[keep]
    packed = depths.new_zeros(len(rays) * width).index_copy(0, slot, depths[keep]).view(len(rays), width)
    return rays, points[keep], packed, slot
