"""The frame of InstantMesh's triplane networks: Lathe's world with its axes in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.cameras import Cameras


def to_triplane(xyz: Tensor) -> Tensor:
    """World vectors (..., 3) in the network's axes: network (x, y, z) = world (z, x, y)."""
    return xyz[..., [2, 0, 1]]


def from_triplane(xyz: Tensor) -> Tensor:
    """Network vectors (..., 3) in the world's axes: world (x, y, z) = network (y, z, x)."""
    return xyz[..., [1, 2, 0]]


def triplane_cameras(cameras: Cameras) -> Tensor:
    """Our cameras as the network reads them, (V, 16) or (B, V, 16): c2w[:3, :4] row by row, fx, fy, cx, cy.

    Axes change from +Y up to +Z up. Both worlds are the cube [-1, 1]^3, seen by the published cameras from distance 4 at 30 degrees, so
    lengths stay.
    """
    pose = to_triplane(cameras.c2w[..., :3, :].transpose(-1, -2)).transpose(-1, -2)
    return torch.cat([pose.flatten(-2), cameras.K], dim=-1)
