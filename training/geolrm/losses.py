"""What the reconstruction network's renders are judged by (GeoLRM section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...pipelines.data.cameras import Cameras
from ...pipelines.fitting.perceptual import Perceptual
from ...pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras

PERCEPTUAL, DEPTH = 2.0, 0.2


@dataclass(frozen=True)
class Pictures:
    """T renders: images (T, 3, s, s) on white, masks and z-depths (T, 1, s, s), depth 0 where nothing is."""

    images: Tensor
    masks: Tensor
    depths: Tensor


def draw_gaussians(gaussians: Tensor, cameras: Cameras, size: int) -> Pictures:
    """(N, 14) Gaussians of the network as its cameras see them, differentiable."""
    position, opacity, scale, rotation, color = gaussians.split([3, 1, 3, 4, 3], dim=-1)
    viewmats, Ks = splat_cameras(cameras, size, size)
    drawn = render_gaussians(position, rotation, scale, opacity[:, 0], color, viewmats, Ks, size, size, background=torch.ones(3))
    images, masks, depths = (part.permute(0, 3, 1, 2) for part in (drawn.color, drawn.alpha, drawn.depth))
    return Pictures(images, masks, depths)


def image_gradient(images: Tensor) -> Tensor:
    """(T, 3, s, s) -> (T, 1, s, s): how much a pixel differs from its right and lower neighbours, mean of the channels."""
    right = (images[..., :, 1:] - images[..., :, :-1]).abs().mean(1, keepdim=True)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(1, keepdim=True)
    return torch.nn.functional.pad(right, (0, 1, 0, 0)) + torch.nn.functional.pad(down, (0, 0, 0, 1))


def depth_loss(depths: Tensor, truth: Tensor, images: Tensor) -> Tensor:
    """mean of exp(-gradient of the true picture) * log(1 + |difference|)."""
    return (torch.exp(-image_gradient(images)) * torch.log1p((depths - truth).abs())).mean()


def reconstruction_loss(
    drawn: Pictures, truth: Pictures, perceptual: Perceptual, perceptual_weight: float = PERCEPTUAL
) -> tuple[Tensor, dict[str, float]]:
    """Squared error and perceptual distance of the pictures, squared error of the masks, and the depth's."""
    parts = {
        "color": (drawn.images - truth.images).square().mean(),
        "perceptual": perceptual.between(perceptual.embed(drawn.images), perceptual.embed(truth.images)).mean(),
        "mask": (drawn.masks - truth.masks).square().mean(),
        "depth": depth_loss(drawn.depths, truth.depths, truth.images),
    }
    loss = parts["color"] + perceptual_weight * parts["perceptual"] + parts["mask"] + DEPTH * parts["depth"]
    return loss, {name: float(value.detach()) for name, value in parts.items()}
