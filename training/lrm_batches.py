"""Batches for the reconstruction network: input views, and patches of other views to render against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..pipelines.data.cameras import Cameras
from ..pipelines.ops import camera_math
from .rendered import RenderedObjects, framed

FOV, RADIUS = 30.0, 4.0


@dataclass(frozen=True)
class Sample:
    """One asset: what the network sees, and the views it is judged by.

    Attributes:
        images, masks: (V, 3, S, S), (V, 1, S, S) input views on white.  cameras: theirs.
        target_images (T, 3, S, S), target_masks, target_depths (T, 1, S, S), target_normals (T, 3, S, S): views to render;
            depth is 0 on the background, normals are in camera space.
        target_cameras: theirs.  scale: factor by which the asset was scaled about the origin.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras
    target_images: Tensor
    target_masks: Tensor
    target_depths: Tensor
    target_normals: Tensor
    target_cameras: Cameras
    scale: float


def posed(c2w: Tensor) -> Cameras:
    """Cameras of the rendered set at the given poses."""
    return Cameras(c2w, camera_math.intrinsics(FOV, len(c2w)), tuple(f"view {i}" for i in range(len(c2w))))


def _turned(c2w: Tensor, degrees: float) -> Tensor:
    """Poses after the world was turned about +Y so that azimuth `degrees` becomes 0."""
    angle = torch.deg2rad(torch.tensor(-degrees, dtype=torch.float64))
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    return (turn @ c2w.double()).float()


def _blurred(images: Tensor, masks: Tensor, coarsest: int, finest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Views as a small view model makes them: details below a random size gone, each shifted by up to a pixel."""
    size = images.shape[-1]
    small = int(torch.randint(coarsest, finest + 1, (), generator=generator))
    stacked = torch.cat([images, masks], dim=1)
    soft = interpolate(interpolate(stacked, (small, small), mode="area"), (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    shifts = torch.randint(-1, 2, (len(soft), 2), generator=generator).tolist()
    stacked = torch.stack([picture.roll(shift, (1, 2)) for picture, shift in zip(soft, shifts, strict=True)])
    mask = ((stacked[:, 3:] - 0.5) * 3 + 0.5).clamp(0, 1)  # a mask keyed from a soft picture has a soft edge in the same place
    return stacked[:, :3], mask


def _reframed(cameras: Cameras, view: int, zoom: float, centre: Tensor) -> Cameras:
    """The cameras after one view was given the frame that `rendered.framed` speaks of."""
    K = cameras.K.clone()
    K[view, :2] /= zoom
    K[view, 2:] = 0.5 + (K[view, 2:] - 0.5 - centre / 2) / zoom
    return Cameras(cameras.c2w, K, cameras.names)


def _loosely_placed(cameras: Cameras, view: int, generator: torch.Generator) -> Cameras:
    """The cameras with one view's elevation, zoom and centre a little wrong, as they are when estimated from a picture."""
    noise = torch.randn(4, generator=generator)
    c2w, K = cameras.c2w.clone(), cameras.K.clone()
    axis = c2w[view, :3, 0].double()
    angle = torch.deg2rad(4.0 * noise[0].double())
    cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3)).T
    turn = torch.eye(3, dtype=torch.float64) + angle.sin() * -cross + (1 - angle.cos()) * (cross @ cross)
    c2w[view, :3] = (turn @ c2w[view, :3].double()).float()
    K[view, :2] *= 1 + 0.03 * float(noise[1])
    K[view, 2:] += 0.01 * noise[2:]
    return Cameras(c2w, K, cameras.names)


MODES = ("true", "imagined")


def draw(data: RenderedObjects, generator: torch.Generator, mode: str, n_views: int = 6, n_targets: int = 2) -> Sample:
    """A random asset under random rotation, mirroring, colours and scale, with noise on its input cameras.

    Modes: "true", `n_views` true views, Zero123++'s for a random query two times in three where they are six, else any of
    the ring; one set in four is slightly blurred. "imagined", the six views as the mini view model drew them (blurred true
    ones where `imagine_views.py` has not run), and the sharp query picture as the seventh, framed as Prepare Image does.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    item = int(torch.randint(len(data), (), generator=generator))
    step = int(torch.randint(12, (), generator=generator))
    imagined = mode == "imagined" and data.imagined is not None
    if data.imagined is not None and imagined:
        query = int(torch.randint(data.imagined[0].shape[1], (), generator=generator))
        step = int(data.imagined[0][item, query])
    if mode == "imagined":
        inputs = [*data.targets(step), data.query_views[step]]
    elif n_views == 6 and uniform(0, 1) < 0.67:
        inputs = data.targets(step)
    else:
        inputs = torch.randperm(24, generator=generator)[:n_views].tolist()
    n_views = len(inputs)
    targets = torch.randperm(44, generator=generator)[:n_targets].tolist()
    images, masks = data.on_white(item, inputs + targets)
    if data.imagined is not None and imagined:
        rgba = torch.from_numpy(data.imagined[1][item, query].copy()).permute(0, 3, 1, 2).float() / 255
        images[:6], masks[:6] = rgba[:, :3], rgba[:, 3:]
    depths = torch.from_numpy(data.depth[item, inputs + targets].astype("float32"))[:, None]
    normals = torch.from_numpy(data.normal[item, targets].astype("float32") / 127).permute(0, 3, 1, 2)
    c2w = _turned(torch.from_numpy(data.c2w[item, inputs + targets].copy()), 30.0 * step)
    if uniform(0, 1) < 0.5:
        flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
        images, masks, depths, c2w = images.flip(-1), masks.flip(-1), depths.flip(-1), flip @ c2w @ flip
        normals = normals.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    if uniform(0, 1) < 0.5:
        images = images[:, torch.randperm(3, generator=generator)]
    scale = uniform(0.9, 1.05)
    c2w = torch.cat([torch.cat([c2w[:, :3, :3], c2w[:, :3, 3:] * scale], dim=2), c2w[:, 3:]], dim=1)
    seen_images, seen_masks = images[:n_views].clone(), masks[:n_views].clone()
    size = images.shape[-1]
    if mode == "imagined" and not imagined:
        seen_images[:6], seen_masks[:6] = _blurred(seen_images[:6], seen_masks[:6], size // 10, size // 4, generator)
    elif mode == "true" and uniform(0, 1) < 0.25:
        seen_images, seen_masks = _blurred(seen_images, seen_masks, size // 4, size // 2, generator)
    seen = c2w[:n_views].clone()
    seen[:, :3, 3] += torch.randn(n_views, 3, generator=generator) * 0.01
    seen_cameras = posed(seen)
    if mode == "imagined":
        picture, zoom, centre = framed(seen_images[6], seen_masks[6], 0.85)
        seen_masks[6] = 1 - framed(1 - seen_masks[6], seen_masks[6], 0.85)[0]
        seen_images[6] = picture
        seen_cameras = _loosely_placed(_reframed(seen_cameras, 6, zoom, centre), 6, generator)
    return Sample(
        seen_images, seen_masks, seen_cameras, images[n_views:], masks[n_views:], depths[n_views:] * scale, normals,
        posed(c2w[n_views:]), scale,
    )  # fmt: skip


def patch_rays(sample: Sample, view: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A square patch of a target view, placed so that its middle lies on the object where there is one.

    Returns:
        origins, directions: (size^2, 3).  truth: (size^2, 5): colour on white, mask, depth.
    """
    height = sample.target_masks.shape[-1]
    inside = torch.nonzero(sample.target_masks[view, 0] > 0.5)
    centre = inside[int(torch.randint(len(inside), (), generator=generator))] if len(inside) else torch.tensor([height // 2, height // 2])
    jitter = torch.randint(-size // 2, size // 2 + 1, (2,), generator=generator)
    top, left = (centre + jitter - size // 2).clamp(0, height - size).tolist()
    cameras = sample.target_cameras
    origins, directions = camera_math.rays(cameras.c2w[view : view + 1], cameras.K[view : view + 1], height, height)
    box = (slice(top, top + size), slice(left, left + size))
    truth = torch.cat([sample.target_images[view], sample.target_masks[view], sample.target_depths[view]])
    truth = truth[:, top : top + size, left : left + size]
    return origins[0][box].reshape(-1, 3), directions[0][box].reshape(-1, 3), truth.flatten(1).T
