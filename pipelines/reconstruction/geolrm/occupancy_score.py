"""How well occupied cells fit the outlines of an object in posed views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.cameras import Cameras
from ...ops.visual_hull import cell_centres, sample_views

OCCUPIED = 0.5
LIKELY_SHARE = 1e-4  # of the cells; a proposal of less is nothing


@dataclass(frozen=True)
class OccupancyScore:
    """How well cells fit posed outlines.

    Attributes:
        share: of all cells, how many are occupied.
        inside: of the occupied ones, how many lie within all outlines.
        covered: of the outlines' pixels, how many have an occupied cell before or behind them.
        connected: of the occupied ones, how many belong to the largest piece.
    """

    share: float
    inside: float
    covered: float
    connected: float

    @property
    def score(self) -> float:
        """0 to 1: the harmonic mean of inside and covered, times connected."""
        if self.share < LIKELY_SHARE:
            return 0.0
        return 2 * self.inside * self.covered / max(self.inside + self.covered, 1e-9) * self.connected

    def __str__(self) -> str:
        return (
            f"{self.score:.3f} ({100 * self.share:.1f} % of the cells; {100 * self.inside:.0f} % of them within the outlines, which they "
            f"cover to {100 * self.covered:.0f} %; {100 * self.connected:.0f} % in one piece)"
        )


def occupancy_score(occupancy: Tensor, extent: float, masks: Tensor, cameras: Cameras, threshold: float = OCCUPIED) -> OccupancyScore:
    """How well an occupancy (Z, Y, X), whose cells tile [-extent, extent]^3, fits the outlines in masks (V, 1, H, W)."""
    from skimage.measure import label

    grid = len(occupancy)
    occupied = occupancy > threshold
    share = float(occupied.float().mean())
    if share == 0:
        return OccupancyScore(0.0, 0.0, 0.0, 0.0)
    points = cell_centres(grid, extent)[occupied]
    # an outline as coarse as the cells, so that a cell on the rim is neither in nor out by chance
    rough = F.interpolate(masks, (grid, grid), mode="area")
    wide = F.max_pool2d(rough, 3, 1, 1)
    inside = float((sample_views(points, wide, cameras.c2w, cameras.K)[..., 0] > 0.5).all(0).float().mean())
    drawn = torch.stack([_drawn(points, cameras.select([view]), grid) for view in range(cameras.n_views)])
    outline = rough[:, 0] > 0.5
    covered = float((drawn & outline).sum() / outline.sum().clamp_min(1))
    pieces = torch.from_numpy(label(occupied.numpy(), connectivity=3)).flatten()
    largest = int(torch.bincount(pieces[pieces > 0]).max())
    return OccupancyScore(share, inside, covered, largest / int(occupied.sum()))


def _drawn(points: Tensor, camera: Cameras, size: int) -> Tensor:
    """(size, size) bool: pixels near which a point projects."""
    from ...ops.camera_math import project

    uv, depth = project(points, camera.c2w, camera.K)
    place = (uv[0] * size).long()
    place = place[((place >= 0) & (place < size)).all(-1) & (depth[0] > 0)]
    picture = torch.zeros(size, size)
    picture[place[:, 1], place[:, 0]] = 1
    return F.max_pool2d(picture[None, None], 3, 1, 1)[0, 0] > 0
