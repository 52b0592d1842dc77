"""Views as GeoLRM's networks read them, and the grid of cells that their cameras' distance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.cameras import Cameras
from ...data.views import count_assets
from ...nets.geolrm import HALF, cube_points
from ...ops import camera_math
from ...ops.coordinate_frames.geolrm import from_geolrm, geolrm_cameras
from ...ops.square_pictures import square_views

MOST_VIEWS = 24
SAME_EXTENT = 1e-4  # relative


@dataclass(frozen=True)
class NetworkViews:
    """One asset's views in the networks' frame: pictures (V, 3, S, S), poses (V, 4, 4), intrinsics (V, 3, 3), world units per net unit."""

    images: Tensor
    c2w: Tensor
    K: Tensor
    unit: float


def grid_extents(grid: int, cameras: Cameras, assets: int) -> list[float]:
    """Half the side, in world units, of the cube that a network's cells tile, for each asset: their centres fill the network's own cube."""
    return [HALF * geolrm_cameras(cameras.of_asset(asset))[2] * grid / (grid - 1) for asset in range(assets)]


def on_grid(occupancy: Tensor, extents: Sequence[float], grid: int, wanted: Sequence[float]) -> Tensor:
    """An occupancy on cells of other cubes, or of another number, brought onto a network's grid; what fits already comes back as it is.

    Args:
        occupancy: (B, Z, Y, X); its cells tile [-extent, extent]^3 of the world.
        extents: of each asset.
        grid, wanted: cells along a side, and the extents to bring it to.

    Returns:
        (B, grid, grid, grid): trilinear, 0 outside; of cells finer than the grid's the highest near each point.
    """
    made = []
    for volume, extent, target in zip(occupancy, extents, wanted, strict=True):
        if tuple(volume.shape) == (grid,) * 3 and abs(extent - target) <= SAME_EXTENT * target:
            made.append(volume)
            continue
        reach = [int(target / grid / (extent / cells) / 2) for cells in volume.shape]
        fine = volume.float()[None, None]
        if any(reach):
            fine = F.max_pool3d(fine, [2 * r + 1 for r in reach], stride=1, padding=reach)
        axis = ((torch.arange(grid) + 0.5) / grid * 2 - 1) * (target / extent)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        points = torch.stack([x, y, z], dim=-1)[None]
        made.append(F.grid_sample(fine, points, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0])
    return torch.stack(made)


def check_views(images: Tensor, masks: Tensor | None, cameras: Cameras) -> int:
    """The number of assets.

    Raises:
        ValueError: images, masks and cameras that make none, in words.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"GeoLRM needs images of shape (N, 3, H, W), not {tuple(images.shape)}.")
    assets = count_assets(len(images), cameras)
    if cameras.n_views > MOST_VIEWS:
        raise ValueError(f"GeoLRM takes 1 to {MOST_VIEWS} views, not {cameras.n_views}: choose some with Select Views.")
    if not torch.isfinite(images).all():
        raise ValueError("The images hold NaN or infinite pixels: a stage before this one failed. Look at its output.")
    if masks is not None:
        expected = (len(images), 1, *images.shape[2:])
        if tuple(masks.shape) != expected:
            raise ValueError(f"Masks must have shape {expected} like the images, not {tuple(masks.shape)}.")
        if not torch.isfinite(masks).all():
            raise ValueError("The masks hold NaN or infinite numbers.")
        for asset, own in enumerate(masks.split(cameras.n_views)):
            if not (own > 0).any():
                raise ValueError(f"All {cameras.n_views} masks of asset {asset + 1} are empty: 1 marks the object.")
    for asset, own in enumerate(images.split(cameras.n_views) if masks is None else ()):
        if bool((own == own[:1, :, :1, :1]).all()):
            raise ValueError(f"The views of asset {asset + 1} show one flat colour: there is nothing to reconstruct.")
    for asset, away in enumerate(looking_away(cameras.for_pictures(*images.shape[2:]), assets), 1):
        if len(away) == cameras.n_views:
            raise ValueError(
                f"The cameras of asset {asset} look away: none of its {len(away)} views sees the middle of the world, where the object is. "
                "Check that the cameras belong to these views and that their axes are OpenGL's (looking along -Z)."
            )
    return assets


def looking_away(cameras: Cameras, assets: int) -> list[list[str]]:
    """For each asset, the names of the cameras that do not see the networks' cube."""
    found = []
    for asset in range(assets):
        own = cameras.of_asset(asset)
        points = from_geolrm(cube_points(8), geolrm_cameras(own)[2])
        uv, depth = camera_math.project(points, own.c2w, own.K)
        seen = ((depth > 0) & (uv >= 0).all(-1) & (uv <= 1).all(-1)).any(-1)
        found.append([name for name, there in zip(own.names, seen.tolist(), strict=True) if not there])
    return found


def network_views(
    images: Tensor, masks: Tensor | None, cameras: Cameras, asset: int, size: int, background: Sequence[float], device: torch.device | str
) -> NetworkViews:
    """The views of one asset of a batch: on the background where there are masks, on a square canvas, at the network's size.

    The cameras are for pictures of this size (`data.views.match_cameras`).
    """
    own = cameras.of_asset(asset)
    rows = slice(asset * own.n_views, (asset + 1) * own.n_views)
    pictures = images[rows].float().clamp(0, 1)
    color = torch.tensor(list(background), dtype=torch.float32)
    if masks is not None:
        pictures = pictures * masks[rows] + color[:, None, None] * (1 - masks[rows])
    pictures, K = square_views(pictures, own.K, color)
    own = replace(own, K=K)
    if pictures.shape[-1] != size:
        pictures = F.interpolate(pictures, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    c2w, K, unit = geolrm_cameras(own)
    return NetworkViews(pictures.to(device), c2w.to(device), K.to(device), unit)
