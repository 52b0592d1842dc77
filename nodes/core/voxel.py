"""VOXEL at sockets: the payload where the core has none, and the size of its cells.

A VOXEL holds probabilities (B, Z, Y, X) on cells that tile [-1, 1]^3 of the world. Where they tile another cube, as GeoLRM's do, the object
carries that as an attribute, half the cube's side for each asset; a VOXEL of other nodes has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import Types
from torch import Tensor

EXTENTS = "lathe_extents"


class OwnVoxel:
    """What VOXEL carries on cores without `Types.VOXEL`: `data` (B, Z, Y, X)."""

    def __init__(self, data: Tensor) -> None:
        self.data = data


def to_core_voxel(occupancy: Tensor, extents: Sequence[float]) -> Any:
    """Probabilities (B, Z, Y, X) whose cells tile [-extent, extent]^3 for each asset -> one VOXEL on the CPU."""
    voxel = getattr(Types, "VOXEL", OwnVoxel)(occupancy.detach().to("cpu", torch.float32).contiguous())
    setattr(voxel, EXTENTS, tuple(map(float, extents)))
    return voxel


def voxels_in(voxel: Any) -> tuple[Tensor, tuple[float, ...]]:
    """A VOXEL (ours or another node's) -> probabilities (B, Z, Y, X) float32 on the CPU, and the extents of its cubes.

    Raises:
        ValueError: no VOXEL, sparse cells, numbers that are not finite.
    """
    data = getattr(voxel, "data", None)
    if not isinstance(data, Tensor):
        raise ValueError(f"A VOXEL is expected, not a {type(voxel).__name__}.")
    if data.ndim == 3:
        data = data[None]
    if data.ndim != 4 or 0 in data.shape:
        raise ValueError(
            f"This VOXEL has the shape {tuple(data.shape)}; one with a probability for each cell, (assets, Z, Y, X), is expected. "
            "Lists of coordinates, as sparse models make them, are not read."
        )
    data = data.to("cpu", torch.float32)
    if not bool(torch.isfinite(data).all()):
        raise ValueError("The VOXEL holds numbers that are NaN or infinite; the node before made them.")
    extents = getattr(voxel, EXTENTS, None)
    return data, tuple(extents) if extents is not None and len(extents) == len(data) else (1.0,) * len(data)
