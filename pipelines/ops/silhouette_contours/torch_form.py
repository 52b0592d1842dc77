"""Silhouette contours, their rays, and by how much these miss the other silhouettes, in PyTorch: the oracle of the other form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from ...data.cameras import Cameras
from .. import camera_math

BEHIND = 1e-6  # z-depth below which a point counts as missed by as much as can be


@dataclass(frozen=True)
class Rim:
    """Silhouettes as `rim_misses` reads them.

    Attributes:
        distances: (V, H, W) float32, distance in pixels to the silhouette, 0 inside.
        view: (R,) int64, which silhouette a rim pixel belongs to.
        place: (R, 2) float64, centre of the rim pixel, (x, y) as fractions of the picture.
    """

    distances: Tensor
    view: Tensor
    place: Tensor


def find_rim(masks: Tensor, count: int) -> Rim:
    """The rim pixels of V silhouettes: inside, beside a pixel outside. The picture's own border is no rim.

    Args:
        masks: (V, 1, H, W) in [0, 1], object above one half. An empty one has no rim, and excludes everything.
        count: about how many rim pixels to take, evenly spread; at least this many where there are as many.
    """
    from scipy.ndimage import distance_transform_edt

    inside = masks[:, 0] > 0.5
    height, width = inside.shape[1:]
    distances = torch.full(inside.shape, float(height + width))
    for view, own in enumerate(inside):
        if own.any():
            # a pixel's centre lies half a pixel nearer to the silhouette's edge than to the centre of the pixel behind it
            distances[view] = torch.from_numpy(distance_transform_edt(~own.numpy())).float().sub(0.5).clamp_min(0)
    framed = pad(inside, (1, 1, 1, 1), value=True)
    kept = framed[:, :-2, 1:-1] & framed[:, 2:, 1:-1] & framed[:, 1:-1, :-2] & framed[:, 1:-1, 2:]
    rows = torch.nonzero(inside & ~kept)
    rows = rows[:: max(len(rows) // count, 1)]
    size = torch.tensor([width, height], dtype=torch.float64)
    return Rim(distances, rows[:, 0], (rows[:, [2, 1]].double() + 0.5) / size)


def rim_rays(rim: Rim, cameras: Cameras, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """The rays of the rim pixels: origins and directions (R, 3) float64 with depth as parameter, and its range (R, 2)."""
    c2w, K = cameras.c2w.double()[rim.view], cameras.K.double()[rim.view]
    xy = (rim.place - K[:, 2:]) / K[:, :2]
    camera = torch.stack([xy[:, 0], -xy[:, 1], -torch.ones(len(xy), dtype=torch.float64)], dim=-1)
    directions = torch.einsum("rij,rj->ri", c2w[:, :3, :3], camera)
    middle = (c2w[:, :3, 2] * c2w[:, :3, 3]).sum(-1)  # depth of the origin
    return c2w[:, :3, 3], directions, torch.stack([(middle - reach).clamp_min(BEHIND), middle + reach], dim=-1)


def rim_misses(rim: Rim, cameras: Cameras, reach: float, samples: int, worst: float) -> Tensor:
    """`dispatch.rim_misses` as its definition says it."""
    origins, directions, span = rim_rays(rim, cameras, reach)
    shares = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    depth = span[:, :1] + (span[:, 1:] - span[:, :1]) * shares
    points = origins[:, None] + depth[..., None] * directions[:, None]
    c2w, K = cameras.c2w.double(), cameras.K.double()
    found = torch.zeros(depth.shape, dtype=torch.float64)
    for view in range(cameras.n_views):
        uv, z = camera_math.project(points.reshape(-1, 3), c2w[view, None], K[view, None])
        pixels = rim.distances[view].double()[None, None]
        missed = grid_sample(pixels, uv[:, None] * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False).flatten()
        missed = torch.where(z[0] > BEHIND, missed, torch.full_like(missed, worst)).reshape(depth.shape)
        found = torch.where(rim.view[:, None] == view, found, torch.maximum(found, missed))
    return found.amin(1).clamp_max(worst)
