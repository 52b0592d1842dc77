"""Where the camera of the input picture stands among the views imagined from it, so that the picture can join them.

Generated views have cameras; the picture they come from has none: it was cropped and resized, and its elevation is the
photographer's. Given an elevation, what is left is how large the object stands in the picture and where. Both follow from
its silhouette and the visual hull of the views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..ops import camera_math
from ..ops.visual_hull import cell_centres, hull_volume, sample_views

HULL_RES = 48
COVERAGE_RES = 32  # coarser than the hull's cells in a view, so that their projections leave no gaps
ZOOMS = 33
KEPT = 0.985


def place_picture(
    picture_mask: Tensor, masks: Tensor, cameras: Cameras, *, elevation: float, azimuth: float = 0.0, radius: float = 4.0, fov: float = 30.0
) -> Cameras:
    """The camera of a picture of an object that V views show too.

    The camera stands on the orbit. The box around the views' visual hull is centred on the box around the picture's
    silhouette; of the zooms around the one at which these boxes have one size, the largest is taken at which the part of the hull
    that the picture leaves standing still fills the views' silhouettes. (A hull is larger than its object: boxes alone err.)

    Args:
        picture_mask: (1, h, w), 1 = object.  masks: (V, 1, H, W).  cameras: of the V views.
        elevation, azimuth: of the picture, degrees, in the frame of `cameras`.
        radius, fov: distance, and vertical field of view in degrees that a picture without cropping would have.

    Returns:
        One camera named "picture", for pictures of the mask's proportions.

    Raises:
        ValueError: the picture's mask is empty, or the views' silhouettes have no volume in common.
    """
    silhouette = picture_mask[0] > 0.5
    if not silhouette.any():
        raise ValueError("The picture's mask is empty: 1 marks the object (invert a transparency mask).")
    cameras = cameras.for_pictures(*masks.shape[2:])
    occupancy, _ = hull_volume(torch.zeros(len(masks), 3, *masks.shape[2:]), masks.float(), cameras, HULL_RES)
    inside = cell_centres(HULL_RES)[occupancy > 0.5]
    if len(inside) == 0:
        raise ValueError(
            "The silhouettes of the views have no volume in common, so the picture cannot be placed among them: "
            "look at the views' masks, or reconstruct from the views alone."
        )
    c2w = camera_math.orbit(torch.tensor([azimuth]), torch.tensor([elevation]), radius)
    plain = Cameras(c2w, camera_math.intrinsics(fov, 1), ("plain",)).for_pictures(*silhouette.shape).K
    uv, _ = camera_math.project(inside, c2w, plain)
    hull_low, hull_high = uv[0].amin(0), uv[0].amax(0)
    size = torch.tensor([silhouette.shape[1], silhouette.shape[0]])
    where = torch.nonzero(silhouette).flip(1)
    low, high = where.amin(0) / size, (where.amax(0) + 1) / size
    rough = float((high - low).sum() / (hull_high - hull_low).sum())

    def zoomed(zoom: float) -> Tensor:
        K = plain.clone()
        K[0, 2:] = (low + high) / 2 - zoom * ((hull_low + hull_high) / 2 - 0.5)
        K[0, :2] *= zoom
        return K

    whole = _coverage(inside, cameras).sum((1, 2)).clamp_min(1)
    best = zoomed(0.85 * rough)
    for zoom in (torch.linspace(0.85, 1.3, ZOOMS) * rough).tolist():
        left = sample_views(inside, silhouette[None, None].float(), c2w, zoomed(zoom))[0, :, 0] > 0.5
        if float((_coverage(inside[left], cameras).sum((1, 2)) / whole).mean()) >= KEPT:
            best = zoomed(zoom)
    return Cameras(c2w, best, ("picture",))


def _coverage(points: Tensor, cameras: Cameras) -> Tensor:
    """(V, COVERAGE_RES, COVERAGE_RES): which cells of each view some point projects into."""
    uv, depth = camera_math.project(points, cameras.c2w, cameras.K)
    cell = (uv * COVERAGE_RES).floor().long()
    valid = (depth > 0) & ((cell >= 0) & (cell < COVERAGE_RES)).all(-1)
    covered = torch.zeros(cameras.n_views, COVERAGE_RES * COVERAGE_RES, dtype=torch.bool)
    for view in range(cameras.n_views):
        column, row = cell[view][valid[view]].unbind(1)
        covered[view, row * COVERAGE_RES + column] = True
    return covered.reshape(-1, COVERAGE_RES, COVERAGE_RES)
