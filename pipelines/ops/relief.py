"""From a relief, a picture with depths in front and behind, to solid coloured points in the world, and to splatted views."""

from __future__ import annotations

import torch
from torch import Tensor

from . import camera_math

LAYERS = 9
RADIUS = 0.95
"""The farthest point of an object lies this far from the middle of its bounding box, as in the training renders."""


def solid_points(
    image: Tensor, mask: Tensor, front: Tensor, back: Tensor, back_color: Tensor, elevation: float, *, distance: float = 4.0
) -> tuple[Tensor, Tensor]:
    """Points that fill the relief from front to back, normalised like the objects the networks know.

    Args:
        image, back_color: (3, S, S).  mask: (1, S, S).  front, back: (1, S, S) in half frames (see `nets.mini_relief.Relief`).
        elevation: of the camera, radians; its azimuth is the world's 0.
        distance: of the camera a normalised object is seen from; it sets the perspective.

    Returns:
        points (N, 3) in the world and their colours (N, 3).
    """
    size = mask.shape[-1]
    inside = mask[0] > 0.5
    axis = (torch.arange(size, device=mask.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    share = torch.linspace(0, 1, LAYERS, device=mask.device)[:, None]
    depth = front[0][inside] * (1 - share) + back[0][inside] * share
    half_frame = RADIUS  # of a frame that just holds the object; only the perspective depends on it
    perspective = 1 + depth * half_frame / distance
    points = torch.stack([x[inside] * perspective, y[inside] * perspective, -depth], dim=-1)
    nearer_front = (share < 0.5)[..., None]
    colors = torch.where(nearer_front, image.permute(1, 2, 0)[inside], back_color.permute(1, 2, 0)[inside])
    rotation = camera_math.orbit(torch.zeros(1), torch.tensor([elevation]).rad2deg(), distance)[0, :3, :3].to(points)
    points, colors = points.reshape(-1, 3) @ rotation.T, colors.reshape(-1, 3)
    if not len(points):
        return points, colors
    points = points - (points.amax(0) + points.amin(0)) / 2
    return points * (RADIUS / points.norm(dim=1).max().clamp_min(1e-6)), colors


def splat_points(points: Tensor, colors: Tensor, c2w: Tensor, K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Nearest points as 2 x 2 pixel squares: pictures (V, 3, size, size) on white and masks (V, 1, size, size)."""
    uv, depth = camera_math.project(points, c2w, K)
    corner = (uv * size - 1).round().long()
    pictures, masks = [], []
    for view in range(len(c2w)):
        z = torch.full((size * size,), torch.inf, device=points.device)
        picture = torch.ones(size * size, 3, device=points.device)
        places, depths, rows = [], [], []
        for dy in (0, 1):
            for dx in (0, 1):
                place = corner[view] + torch.tensor([dx, dy], device=points.device)
                valid = ((place >= 0) & (place < size)).all(-1) & (depth[view] > 0)
                places.append((place[:, 1] * size + place[:, 0])[valid])
                depths.append(depth[view][valid])
                rows.append(torch.nonzero(valid).flatten())
        place, near, row = torch.cat(places), torch.cat(depths), torch.cat(rows)
        z = z.scatter_reduce(0, place, near, "amin")
        seen = near <= z[place] + 1e-6
        picture[place[seen]] = colors[row[seen]]
        pictures.append(picture.T.reshape(3, size, size))
        masks.append(torch.isfinite(z).float().reshape(1, size, size))
    return torch.stack(pictures), torch.stack(masks)
