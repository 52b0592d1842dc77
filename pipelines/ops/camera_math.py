"""Pinhole camera geometry. Axes and intrinsics as in `data.cameras`; pixel centres lie at +0.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEAR, FAR = 0.05, 100.0  # of clip space, world units


def look_at(eye: Tensor, target: Tensor | None = None) -> Tensor:
    """Camera-to-world matrices of cameras at `eye` (V, 3) that look at `target` (3,), +Y up. Returns (V, 4, 4).

    A camera exactly above or below its target takes +Z (from above: -Z) as the direction of its image's top, which is
    the limit of an orbit at azimuth 0.
    """
    eye = eye.to(torch.float64)
    target = torch.zeros(3, dtype=torch.float64) if target is None else target.to(torch.float64)
    backward = torch.nn.functional.normalize(eye - target, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand_as(backward)
    right = torch.linalg.cross(up, backward)
    pole = right.norm(dim=-1, keepdim=True) < 1e-8
    right = torch.where(pole, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(eye.shape[0], 1, 1)
    c2w[:, :3, 0] = right
    c2w[:, :3, 1] = torch.linalg.cross(backward, right)
    c2w[:, :3, 2] = backward
    c2w[:, :3, 3] = eye
    return c2w.to(torch.float32)


def orbit(azimuths: Tensor, elevations: Tensor, radius: float | Tensor) -> Tensor:
    """Camera-to-world matrices on an orbit around the origin, (V, 4, 4).

    Args:
        azimuths: (V,) degrees, 0 in front of the object (on +Z), growing counter-clockwise seen from above (towards +X).
        elevations: (V,) degrees above the horizon.
        radius: distance from the origin, world units.
    """
    azimuth, elevation = torch.deg2rad(azimuths.double()), torch.deg2rad(elevations.double())
    direction = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], dim=-1)
    radius = torch.as_tensor(radius, dtype=torch.float64)
    return look_at(direction * radius.reshape(-1, 1))


def relative_pose(c2w: Tensor, *, elevation: float = 0.0, radius: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Cameras that look at the origin, relative to a reference camera at azimuth 0, as Zero-1-to-3 is told them.

    Args:
        c2w: (V, 4, 4).
        elevation, radius: the reference's, degrees and world units.

    Returns:
        Polar angle (from +Y) minus the reference's, azimuth in (-pi, pi], counter-clockwise seen from above, and distance from the
        origin minus the reference's: (V,) each, float64, radians and world units.
    """
    eye = c2w[..., :3, 3].double()
    distance = eye.norm(dim=-1)
    height = torch.asin((eye[..., 1] / distance).clamp(-1, 1))
    return math.radians(elevation) - height, torch.atan2(eye[..., 0], eye[..., 2]), distance - radius


def focal_from_fov(fov_degrees: float) -> float:
    """Normalised focal length of a field of view: 0.5 / tan(fov / 2)."""
    return 0.5 / math.tan(math.radians(fov_degrees) / 2)


def intrinsics(fov_degrees: float, n_views: int) -> Tensor:
    """(V, 4) centred square-pixel intrinsics of a square image with the given field of view."""
    focal = focal_from_fov(fov_degrees)
    return torch.tensor([[focal, focal, 0.5, 0.5]], dtype=torch.float32).repeat(n_views, 1)


def world_to_camera(c2w: Tensor) -> Tensor:
    """Inverse of rigid (..., 4, 4) poses."""
    rotation = c2w[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(c2w)
    out[..., :3, :3] = rotation
    out[..., :3, 3:] = -rotation @ c2w[..., :3, 3:]
    out[..., 3, 3] = 1
    return out


def project(points: Tensor, c2w: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """World points (N, 3) into V views: image coordinates (V, N, 2) in [0, 1], x right and y down, and z-depth (V, N).

    Depth is positive in front of the camera. Points on the camera plane give coordinates far outside the image.
    """
    w2c = world_to_camera(c2w)
    camera = points @ w2c[:, :3, :3].transpose(1, 2) + w2c[:, None, :3, 3]
    depth = -camera[..., 2]
    safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
    u = K[:, None, 2] + K[:, None, 0] * camera[..., 0] / safe
    v = K[:, None, 3] - K[:, None, 1] * camera[..., 1] / safe
    return torch.stack([u, v], dim=-1), depth


def rays(c2w: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of V views: origins and directions, each (V, H, W, 3), world space.

    Directions are not normalised: their length along the optical axis is 1, so the ray parameter is z-depth.
    """
    v, u = torch.meshgrid(
        (torch.arange(height, dtype=c2w.dtype, device=c2w.device) + 0.5) / height,
        (torch.arange(width, dtype=c2w.dtype, device=c2w.device) + 0.5) / width,
        indexing="ij",
    )
    focal, centre = K[:, None, None, :2], K[:, None, None, 2:]
    xy = (torch.stack([u, v], dim=-1)[None] - centre) / focal
    camera = torch.cat([xy[..., :1], -xy[..., 1:], -torch.ones_like(xy[..., :1])], dim=-1)
    directions = torch.einsum("vij,vhwj->vhwi", c2w[:, :3, :3], camera)
    return c2w[:, None, None, :3, 3].expand_as(directions), directions


def clip_matrices(c2w: Tensor, K: Tensor, near: float = NEAR, far: float = FAR) -> Tensor:
    """World-to-clip matrices (V, 4, 4), OpenGL clip space: y up, z in [-w, w], w = z-depth."""
    projection = torch.zeros_like(c2w)
    projection[:, 0, 0] = 2 * K[:, 0]
    projection[:, 1, 1] = 2 * K[:, 1]
    projection[:, 0, 2] = 1 - 2 * K[:, 2]
    projection[:, 1, 2] = 2 * K[:, 3] - 1
    projection[:, 2, 2] = (near + far) / (near - far)
    projection[:, 2, 3] = 2 * near * far / (near - far)
    projection[:, 3, 2] = -1
    return projection @ world_to_camera(c2w)
