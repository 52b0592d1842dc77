"""An occupancy grid as a picture for people."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 256
DARKEST = 0.25


def occupancy_picture(occupancy: Tensor, threshold: float, size: int = SIZE) -> Tensor:
    """Occupied cells (Z, Y, X) from the front, from the object's left and from above, nearer ones brighter: (3, size, 3 * size) on white.

    From the front +X is to the right and +Y up; from the left +Z is to the left; from above +Z is down.
    """
    occupied = occupancy > threshold
    sides = [
        occupied.flip(0, 1),  # depth from +Z, rows from +Y, columns from -X
        occupied.permute(2, 1, 0).flip(0, 1, 2),  # depth from +X, rows from +Y, columns from +Z
        occupied.permute(1, 0, 2).flip(0),  # depth from +Y, rows from -Z, columns from -X
    ]
    return torch.cat([_seen(side, size) for side in sides], dim=2)


def _seen(cells: Tensor, size: int) -> Tensor:
    """(depth, rows, columns) bool, the nearest first -> (3, size, size)."""
    depth = cells.float().argmax(0) / max(1, len(cells) - 1)
    shade = torch.where(cells.any(0), DARKEST + 0.6 * (1 - depth) ** 1.5, torch.ones_like(depth))
    return F.interpolate(shade[None, None], (size, size), mode="nearest")[0].expand(3, -1, -1)
