"""GeoLRM's frame: z-up, the object in [-0.5, 0.5]^3, the cameras at a mean distance of 1.5."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...data.cameras import Cameras
from ...data.splats import Splats

CAMERA_DISTANCE = 1.5


def geolrm_cameras(cameras: Cameras) -> tuple[Tensor, Tensor, float]:
    """The cameras of one asset in the networks' frame: c2w (V, 4, 4), K (V, 3, 3), and how many world units one of theirs is.

    Raises:
        ValueError: cameras at the centre of the world.
    """
    distance = float(cameras.c2w[:, :3, 3].norm(dim=-1).mean())
    if distance < 1e-6:
        raise ValueError("GeoLRM: the cameras stand in the middle of the object; its scale cannot be told.")
    unit = distance / CAMERA_DISTANCE
    c2w = cameras.c2w[:, [2, 0, 1, 3]].clone()  # net (x, y, z) = world (z, x, y)
    c2w[:, :3, 3] /= unit
    fx, fy, cx, cy = cameras.K.unbind(-1)
    K = torch.zeros(len(c2w), 3, 3)
    # The networks mirror u about the picture's middle; an off-centre principal point is mirrored here beforehand.
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = fx, fy, 1 - cx, cy, 1
    return c2w, K, unit


def from_geolrm(points: Tensor, unit: float) -> Tensor:
    """(..., 3) points of the networks' frame -> world."""
    return points[..., [1, 2, 0]] * unit


def splats_from_geolrm(splats: Splats, unit: float) -> Splats:
    """Gaussians of the networks' frame, of one colour from all sides -> world."""
    w, x, y, z = splats.rotations.unbind(-1)
    # The frames differ by a cyclic turn of the axes: the quaternion (1, -1, -1, -1) / 2 from the left.
    turned = torch.stack([w + x + y + z, x - w - z + y, y + z - w - x, z - y + x - w], dim=-1) / 2
    return replace(splats, positions=from_geolrm(splats.positions, unit), scales=splats.scales * unit, rotations=turned)
