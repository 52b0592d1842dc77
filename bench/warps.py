"""Views that disagree with each other as a view model's do: each is bent by a smooth displacement field of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

CELLS = 6  # control points an edge: a bend is a sixth of the picture wide


def displacement_fields(count: int, size: int, most: float, seed: int) -> Tensor:
    """(count, size, size, 2) displacements in pixels, x and y, smooth, the longest of each field `most` long.

    Normal draws on a grid of control points, interpolated bicubically.
    """
    generator = torch.Generator().manual_seed(seed)
    control = torch.randn((count, 2, CELLS, CELLS), generator=generator)
    fields = interpolate(control, size=(size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return fields * (most / fields.norm(dim=-1).amax(dim=(1, 2)))[:, None, None, None]


def warped(pictures: Tensor, fields: Tensor) -> Tensor:
    """Pictures (N, C, S, S) that show at each pixel what stood `fields` away from it; the border is repeated outside."""
    size = pictures.shape[-1]
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + fields * 2 / size
    return grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)
