"""One random asset for a step of GeoLRM's training: views that go in, views to be judged by, where its surface is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...pipelines.data.cameras import Cameras
from ...pipelines.ops.coordinate_frames.geolrm import geolrm_cameras
from ..lrm_batches import posed
from ..rendered import RenderedObjects
from .occupancy import surface_points

DEPTH_VIEWS = 32  # the first 32 views see the object from all around


@dataclass(frozen=True)
class Sample:
    """One asset in the networks' frame.

    Attributes:
        images: (V, 3, S, S) on white.  c2w (V, 4, 4), K (V, 3, 3): as the networks take them.
        targets (T, 3, s, s) on white, masks, depths (T, 1, s, s): of the views it is judged by; z-depth, 0 on the background.
        cameras: of the targets.
        surface: (P, 3) places on the surface, from depth maps.
    """

    images: Tensor
    c2w: Tensor
    K: Tensor
    targets: Tensor
    masks: Tensor
    depths: Tensor
    cameras: Cameras
    surface: Tensor


def turned(c2w: Tensor, degrees: float) -> Tensor:
    """Poses (..., 4, 4) after the world was turned about +Y."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    return turn @ c2w


def sample_of(data: RenderedObjects, item: int, inputs: list[int], targets: list[int], size: int, degrees: float = 0.0) -> Sample:
    """An object seen by `inputs` and judged by `targets`, the world turned about +Y by some degrees."""
    views = inputs + targets
    images, masks = data.on_white(item, views)
    depths = torch.from_numpy(data.depth[item].astype("float32"))[:, None]
    c2w = turned(torch.from_numpy(data.c2w[item].copy()), degrees)
    poses, K, unit = geolrm_cameras(posed(c2w))
    seen = interpolate(images[: len(inputs)], (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    surface = surface_points(depths[:DEPTH_VIEWS] / unit, poses[:DEPTH_VIEWS], posed(c2w[:DEPTH_VIEWS]).K)
    return Sample(
        seen, poses[inputs], K[inputs], images[len(inputs) :], masks[len(inputs) :], depths[targets] / unit, posed(poses[targets]), surface
    )


def draw(data: RenderedObjects, generator: torch.Generator, size: int, most_inputs: int, most_targets: int) -> Sample:
    """A random object, randomly turned, mirrored and recoloured; 1 to `most_inputs` random views go in, others judge."""
    item = int(torch.randint(len(data), (), generator=generator))
    order = torch.randperm(44, generator=generator).tolist()
    count = int(torch.randint(1, most_inputs + 1, (), generator=generator))
    degrees = 360 * float(torch.rand((), generator=generator))
    sample = sample_of(data, item, order[:count], order[count : count + most_targets], size, degrees)
    if float(torch.rand((), generator=generator)) < 0.5:
        sample = _mirrored(sample)
    if float(torch.rand((), generator=generator)) < 0.5:
        channels = torch.randperm(3, generator=generator)
        sample = Sample(**{**vars(sample), "images": sample.images[:, channels], "targets": sample.targets[:, channels]})
    return sample


def _mirrored(sample: Sample) -> Sample:
    """The sample in a mirror: left becomes right, which is the networks' y."""
    flip = torch.diag(torch.tensor([1.0, -1, 1, 1]))
    own = torch.diag(torch.tensor([-1.0, 1, 1, 1]))  # a mirrored camera is left-handed; its picture is turned over too
    cameras = Cameras(flip @ sample.cameras.c2w @ own, sample.cameras.K, sample.cameras.names)
    return Sample(
        sample.images.flip(-1), flip @ sample.c2w @ own, sample.K, sample.targets.flip(-1), sample.masks.flip(-1), sample.depths.flip(-1),
        cameras, sample.surface * torch.tensor([1.0, -1, 1]),
    )  # fmt: skip
