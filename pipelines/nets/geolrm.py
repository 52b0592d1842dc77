"""GeoLRM's two networks (Zhang et al. 2024): one proposes where there is matter, the other turns those places into Gaussians.

Parameter names are those of the published `geolrm.ckpt`: `serializer.*` proposes, `lrm_generator.*` reconstructs. Both work in a frame of
their own, z-up, with the object in [-0.5, 0.5]^3; `ops/coordinate_frames/geolrm.py` turns Lathe's world into it and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.progress import Tick, no_tick
from .attention import Attention, Linear, torch_attention
from .dino import IMAGE_MEAN, IMAGE_STD
from .dinov2 import DinoV2
from .geo_transformer import Form, Geometry, GeoTransformer

HALF = 0.5  # half the side of the networks' cube
LOW_STRIDE = 4  # pixels a cell of the fine feature map is wide
FAR = 1e4  # sides of a picture: nothing is seen there


@dataclass(frozen=True)
class GeoLRMConfig:
    """Sizes of one of the two networks. The defaults are shared by the published ones.

    Attributes:
        dim, layers, heads: of the transformer.
        vit: dim, layers and heads of the image backbone.
        feature_dim: channels of the feature maps.
        samples: places a head looks at in each level of a picture.
        grid: side of the occupancy grid.
        token_cells: cells along the side of the cube that one proposal token speaks for.
        gaussians: Gaussians a token becomes.
        offset_max, scale_max: bounds of a Gaussian's offset from its token and of its deviations.
    """

    dim: int
    layers: int
    heads: int = 16
    vit: tuple[int, int, int] = (768, 12, 12)
    feature_dim: int = 384
    samples: int = 8
    grid: int = 128
    token_cells: int = 8
    gaussians: int = 32
    offset_max: float = 0.2
    scale_max: float = 0.02


PROPOSAL = GeoLRMConfig(dim=384, layers=6)
RECONSTRUCTION = GeoLRMConfig(dim=768, layers=16)


def image_rays(c2w: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """Pluecker coordinates of the pixels' rays, (V, 6, H, W): direction (not normalised), then origin x direction.

    As the published weights were trained: one focal length for both axes (the horizontal one) and the picture's centre as principal point.

    Args:
        c2w: (V, 4, 4) OpenGL camera-to-world in the network's frame.  K: (V, 3, 3) in fractions of the picture.
    """
    v, u = torch.meshgrid(
        torch.arange(height, dtype=c2w.dtype, device=c2w.device) + 0.5,
        torch.arange(width, dtype=c2w.dtype, device=c2w.device) + 0.5,
        indexing="ij",
    )
    focal = (K[:, 0, 0] * width)[:, None, None]
    x, y = (u - width / 2) / focal, -(v - height / 2) / focal
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    direction = torch.einsum("vij,vhwj->vhwi", c2w[:, :3, :3], local)
    moment = torch.linalg.cross(c2w[:, None, None, :3, 3].expand_as(direction), direction)
    return torch.cat([direction, moment], dim=-1).permute(0, 3, 1, 2)


def project(xyz: Tensor, c2w: Tensor, K: Tensor) -> Tensor:
    """(N, 3) points -> (V, N, 2) places in the pictures. Points behind a camera project too: so it was trained.

    A point in a camera's own plane has no place; it goes far out of the picture, so that no infinity spreads to the other points.
    """
    w2c = torch.linalg.inv(c2w)[:, :3]
    pixels = torch.cat([xyz, torch.ones_like(xyz[:, :1])], dim=-1) @ (K @ w2c).transpose(1, 2)
    uv = pixels[..., :2] / pixels[..., 2:]
    uv = torch.cat([1 - uv[..., :1], uv[..., 1:]], dim=-1)
    return torch.nan_to_num(uv, nan=FAR, posinf=FAR, neginf=-FAR).clamp(-FAR, FAR)


def grid_indices(xyz: Tensor, grid: int, scale: float) -> Tensor:
    """Places of points on the position grid, (N, 3) int64, cut and not rounded, in this order of float32 operations: so it was trained."""
    return ((xyz / scale + 1) * (grid - 1) / 2).long()


def cube_points(side: int) -> Tensor:
    """(side^3, 3) corner-aligned points of the networks' cube, x slowest."""
    axis = torch.linspace(-1, 1, side) * HALF
    return torch.cartesian_prod(axis, axis, axis)


class ImageEncoder(nn.Module):
    """Pictures with their rays to two levels of features: fine from a convolution, coarse from DINOv2."""

    def __init__(self, config: GeoLRMConfig) -> None:
        super().__init__()
        dim = config.vit[0]
        self.model = DinoV2(*config.vit)
        width = config.feature_dim
        self.deconv = nn.Sequential(nn.ConvTranspose2d(dim, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width))
        self.low_level_encoder = nn.Sequential(nn.Conv2d(9, width, LOW_STRIDE, LOW_STRIDE, bias=False), nn.BatchNorm2d(width))

    def forward(
        self, images: Tensor, c2w: Tensor, K: Tensor, dtype: torch.dtype = torch.float32, attention: Attention = torch_attention
    ) -> list[Tensor]:
        """(V, 3, H, W) in [0, 1] -> [(V, C, H/4, W/4), (V, C, H/7, W/7)] float32."""
        mean, std = (torch.tensor(c, device=images.device)[:, None, None] for c in (IMAGE_MEAN, IMAGE_STD))
        pixels = (images.float() - mean) / std
        rays = image_rays(c2w, K, *images.shape[-2:])
        fine = self.low_level_encoder(torch.cat([pixels, rays], dim=1))
        return [fine, self.deconv(self.model(pixels, dtype, attention))]


class _Network(nn.Module):
    """What both networks share: encoder, transformer, and how points meet pictures."""

    def __init__(self, config: GeoLRMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.transformer = GeoTransformer(config.dim, config.layers, config.heads, config.feature_dim, config.samples)

    def latents(
        self,
        xyz: Tensor,
        levels: Sequence[Tensor],
        c2w: Tensor,
        K: Tensor,
        *,
        form: Form,
        scale: float,
        dtype: torch.dtype = torch.float32,
        attention: Attention = torch_attention,
        chunk: int = 4096,
        tick: Tick = no_tick,
    ) -> Tensor:
        """(N, 3) points and the encoder's features -> (N, dim). `scale` is the positional one: half the side of the position grid."""
        geometry = Geometry(xyz, grid_indices(xyz, self.config.grid, scale), project(xyz, c2w, K), levels)
        return self.transformer(geometry, form=form, dtype=dtype, attention=attention, chunk=chunk, tick=tick)


class ProposalNetwork(_Network):
    """Pictures to occupancy: `serializer.*`."""

    def __init__(self, config: GeoLRMConfig = PROPOSAL) -> None:
        super().__init__(config)
        self.upsample = Linear(config.dim, config.token_cells**3)

    def occupancy(self, latents: Tensor) -> Tensor:
        """Latents of the coarse grid's points (in `cube_points` order) -> (grid, grid, grid) logits, indexed [x, y, z]."""
        fine = self.config.token_cells
        coarse = self.config.grid // fine
        cells = self.upsample(latents).reshape(coarse, coarse, coarse, fine, fine, fine)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(self.config.grid, self.config.grid, self.config.grid)

    def points(self) -> Tensor:
        """The proposal's own points, (n, 3)."""
        return cube_points(self.config.grid // self.config.token_cells)


class _Clamp(torch.autograd.Function):
    """Colours cut to [-0.5, 0.5]; gradients pass as if they were not, or a colour that left the range in training could never return."""

    @staticmethod
    def forward(ctx: Any, color: Tensor) -> Tensor:
        return color.clamp(-0.5, 0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class GaussianHead(nn.Module):
    """Features of a token to its Gaussians."""

    def __init__(self, config: GeoLRMConfig) -> None:
        super().__init__()
        self.config = config
        width = 14 * config.gaussians
        self.latent_decoder = nn.Sequential(Linear(config.dim, width), nn.SiLU(), Linear(width, width))

    def forward(self, latents: Tensor, xyz: Tensor) -> Tensor:
        """(N, dim), (N, 3) -> (N * gaussians, 14): position, opacity, deviations, quaternion (w first), RGB in [0, 1]."""
        raw = self.latent_decoder(latents).unflatten(-1, (self.config.gaussians, 14)).float()
        offset, opacity, scale, rotation, color = raw.split([3, 1, 3, 4, 3], dim=-1)
        parts = [
            xyz[:, None] + offset.sigmoid() * self.config.offset_max,
            opacity.sigmoid(),
            scale.sigmoid() * self.config.scale_max,
            nn.functional.normalize(rotation, dim=-1),
            _Clamp.apply(color) + 0.5,
        ]
        return torch.cat(parts, dim=-1).flatten(0, 1)


class ReconstructionNetwork(_Network):
    """Pictures and anchor points to Gaussians: `lrm_generator.*`."""

    def __init__(self, config: GeoLRMConfig = RECONSTRUCTION) -> None:
        super().__init__(config)
        self.renderer = GaussianHead(config)
