"""Visibility by nvdiffrast (Laine et al. 2020) on CUDA; everything after it is the PyTorch form, on the same device.

nvdiffrast numbers faces from 1, with 0 for the background, and its row 0 is the bottom of the picture. Its own
antialiasing is not used: it finds a silhouette only where the face seen at a pixel centre owns the edge, and so loses
most of them on meshes finer than the pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import nvdiffrast.torch as nvdiffrast  # type: ignore[import-not-found]
import torch
from torch import Tensor

from . import torch_form
from .torch_form import barycentrics, crossings, interpolate

__all__ = ["barycentrics", "crossings", "interpolate", "visibility"]

SNAP = 1 / 16
"""Pixels whose centres lie this near to an edge may show the face on its other side: it draws corners on a grid of parts of a pixel, as
graphics hardware does (Laine and Karras 2011, "High-performance software rasterization on GPUs")."""


@lru_cache
def _context(device: torch.device) -> Any:
    return nvdiffrast.RasterizeCudaContext(device=device)


def visibility(pos: Tensor, tri: Tensor, height: int, width: int, behind: Tensor | None = None) -> Tensor:
    """Nearest face at each pixel centre: (B, V, 4) clip positions, (F, 3) faces -> (B, H, W) int64, -1 where there is none. `behind`
    (B, H, W): the least depth z/w that counts, which nvdiffrast knows only as its own layers, so PyTorch answers."""
    if behind is not None:
        return torch_form.visibility(pos, tri, height, width, behind)
    if not len(tri):
        return torch.full((len(pos), height, width), -1, device=pos.device)
    positions = pos.detach().float().contiguous()
    raster, _ = nvdiffrast.rasterize(_context(pos.device), positions, tri.int().contiguous(), resolution=[height, width], grad_db=False)
    return raster[..., 3].flip(1).long() - 1
