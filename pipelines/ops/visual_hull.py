"""What posed pictures say about points of space: projected colours and the soft visual hull.

Laurentini, "The visual hull concept for silhouette-based image understanding", 1994: a point can be inside the object
only if every silhouette covers it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..data.cameras import Cameras
from . import camera_math


def sample_views(points: Tensor, pictures: Tensor, c2w: Tensor, K: Tensor) -> Tensor:
    """Bilinear samples of V pictures at the projections of points.

    Args:
        points: (N, 3), in the frame of `c2w`.
        pictures: (V, C, H, W).
        c2w, K: (V, 4, 4) and (V, 4), as in `data.cameras`.

    Returns:
        (V, N, C); 0 where a point projects outside a picture or lies behind its camera.
    """
    uv, depth = camera_math.project(points, c2w, K)
    grid = torch.where(depth[..., None] > 1e-6, uv * 2 - 1, torch.full_like(uv, 2.0))
    sampled = grid_sample(pictures, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def cell_centres(resolution: int, bound: float = 1.0) -> Tensor:
    """Centres of the cells that tile [-bound, bound]^3: (R, R, R, 3), indexed [z, y, x], holding (x, y, z)."""
    axis = ((torch.arange(resolution) + 0.5) / resolution * 2 - 1) * bound
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def hull_volume(
    images: Tensor, masks: Tensor, cameras: Cameras, resolution: int, *, bound: float = 1.0, chunk: int = 262144
) -> tuple[Tensor, Tensor]:
    """Soft visual hull of one asset and the mean projected colour, on the cells of [-bound, bound]^3.

    Args:
        images: (V, 3, H, W) in [0, 1].  masks: (V, 1, H, W) in [0, 1], 1 = object.  cameras: V views.

    Returns:
        occupancy: (R, R, R) in [0, 1], the smallest mask value over the views, indexed [z, y, x].
        color: (R, R, R, 3), the mask-weighted mean colour over the views; visibility is not considered.
    """
    points = cell_centres(resolution, bound).reshape(-1, 3).to(images)
    c2w, K = cameras.c2w.to(images), cameras.K.to(images)
    pictures = torch.cat([images, masks], dim=1)
    occupancy, color = [], []
    for part in points.split(chunk):
        sampled = sample_views(part, pictures, c2w, K)
        mask = sampled[..., 3:]
        occupancy.append(mask.amin(dim=0)[:, 0])
        color.append((sampled[..., :3] * mask).sum(0) / mask.sum(0).clamp_min(1e-6))
    shape = (resolution, resolution, resolution)
    return torch.cat(occupancy).reshape(shape), torch.cat(color).reshape(*shape, 3)
