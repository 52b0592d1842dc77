"""InstantMesh's reconstruction network: posed views to a triplane, and the small heads that read it (InstantMesh section 3.2; LRM).

`TriplaneLRM(LRMConfig)` has the parameter names and shapes of the published checkpoints (without their `lrm_generator.` prefix), and any
other size. The heads, and what their numbers mean in space, are in `triplane_field`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.cameras import Cameras
from ..data.field import Field
from ..data.progress import Tick, no_tick
from ..ops.coordinate_frames.instantmesh import triplane_cameras
from .attention import Attention, LayerNorm, Linear, linear, merge_heads, split_heads, torch_attention
from .dino import ImageEncoder
from .triplane_field import Decoder, TriplaneField


@dataclass(frozen=True)
class LRMConfig:
    """Sizes of the network; the defaults are the published `base` variants'.

    Attributes:
        kind: "nerf" (one head: density and colour) or "mesh" (four heads: sdf, colour, FlexiCubes deformation and weights).
        image_size: side of the views in pixels, a multiple of patch_size.
        patch_size, encoder_dim, encoder_layers, encoder_heads, encoder_mlp_dim: of the ViT.
        position_grid: side of the ViT's learned position grid in tokens; resampled where image_size / patch_size differs.
        transformer_dim, transformer_layers, transformer_heads: of the triplane transformer (its MLP is 4 times as wide).
        triplane_low_res: T, side of a plane in tokens.
        upsample: factor of the deconvolution from tokens to plane pixels.
        triplane_dim: C, channels of a plane.
        decoder_hidden: width of the three hidden layers of each head.
        samples_per_ray: of the volume renderer it was trained with, one half coarse, the other fine.
        grid_res, grid_scale: cubes along an edge, and edge length, of the FlexiCubes grid.
        volume_channels: channels of a volume a subclass turns into a bias of the triplane tokens; 0 in the published variants.
    """

    kind: Literal["nerf", "mesh"] = "mesh"
    image_size: int = 320
    patch_size: int = 16
    position_grid: int = 14
    encoder_dim: int = 768
    encoder_layers: int = 12
    encoder_heads: int = 12
    encoder_mlp_dim: int = 3072
    transformer_dim: int = 1024
    transformer_layers: int = 12
    transformer_heads: int = 16
    triplane_low_res: int = 32
    upsample: int = 2
    triplane_dim: int = 40
    decoder_hidden: int = 64
    samples_per_ray: int = 96
    grid_res: int = 128
    grid_scale: float = 2.1
    volume_channels: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("nerf", "mesh"):
            raise ValueError(f"LRMConfig: kind must be 'nerf' or 'mesh', not {self.kind!r}.")
        for size, divisor in (("image_size", "patch_size"), ("encoder_dim", "encoder_heads"), ("transformer_dim", "transformer_heads")):
            if getattr(self, size) % getattr(self, divisor):
                raise ValueError(f"LRMConfig: {size} {getattr(self, size)} is not a multiple of {divisor} {getattr(self, divisor)}.")

    @property
    def triplane_res(self) -> int:
        """R, side of a plane in pixels."""
        return self.triplane_low_res * self.upsample

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LRMConfig:
        """The config of these settings, as `dataclasses.asdict` gives them. Raises ValueError on a name it does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"LRMConfig: unknown settings {', '.join(unknown)}; the file was made by another version.")
        return cls(**values)


_LARGE = LRMConfig(transformer_layers=16, triplane_dim=80, samples_per_ray=128)
PUBLISHED: dict[str, LRMConfig] = {
    "instant_mesh_base": LRMConfig(),
    "instant_mesh_large": _LARGE,
    "instant_nerf_base": LRMConfig(kind="nerf"),
    "instant_nerf_large": replace(_LARGE, kind="nerf"),
}


class CrossAttention(nn.Module):
    """Triplane tokens look at image tokens; no biases, keys and values as they come from the encoder."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj_weight = nn.Parameter(torch.empty(dim, dim))
        self.k_proj_weight = nn.Parameter(torch.empty(dim, context_dim))
        self.v_proj_weight = nn.Parameter(torch.empty(dim, context_dim))
        self.out_proj = Linear(dim, dim, bias=False)
        for weight in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, context: Tensor, attention: Attention) -> Tensor:
        """x (B, N, dim), context (B, M, context_dim), both in the dtype to multiply in -> (B, N, dim)."""
        q = split_heads(linear(x, self.q_proj_weight), self.heads)
        k = split_heads(linear(context, self.k_proj_weight), self.heads)
        v = split_heads(linear(context, self.v_proj_weight), self.heads)
        return self.out_proj(merge_heads(attention(q, k, v)))


class SelfAttention(nn.Module):
    """Triplane tokens look at each other; one matrix for queries, keys and values, no biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = Linear(dim, dim, bias=False)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        q, k, v = (split_heads(part, self.heads) for part in linear(x, self.in_proj_weight).chunk(3, dim=-1))
        return self.out_proj(merge_heads(attention(q, k, v)))


class TransformerLayer(nn.Module):
    """Cross-attention, self-attention, MLP, each behind its own layer norm."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        # the published settings file asks for eps 1e-6 here, but the published code never passes it on
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim, eps=1e-5) for _ in range(3))
        self.cross_attn = CrossAttention(dim, context_dim, heads)
        self.self_attn = SelfAttention(dim, heads)
        self.mlp = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor, attention: Attention) -> Tensor:
        """x (B, N, dim) float32; context (B, M, context_dim), whose dtype is the one to multiply in."""
        dtype = context.dtype
        x = x + self.cross_attn(self.norm1(x).to(dtype), context, attention)
        x = x + self.self_attn(self.norm2(x).to(dtype), attention)
        return x + self.mlp(self.norm3(x).to(dtype))


class TriplaneTransformer(nn.Module):
    """3*T*T learned tokens that read the views and become three feature planes."""

    def __init__(self, config: LRMConfig) -> None:
        super().__init__()
        self.low_res = config.triplane_low_res
        dim = config.transformer_dim
        # a small deviation here drowns the position in the first residual branches when trained from scratch
        self.pos_embed = nn.Parameter(torch.randn(1, 3 * self.low_res**2, dim) * 0.5)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, config.encoder_dim, config.transformer_heads) for _ in range(config.transformer_layers)
        )
        self.norm = LayerNorm(dim, eps=1e-6)
        self.deconv = nn.ConvTranspose2d(dim, config.triplane_dim, config.upsample, config.upsample)

    def forward(self, context: Tensor, token_bias: Tensor | None, attention: Attention, tick: Tick = no_tick) -> Tensor:
        """Image tokens (B, M, encoder_dim) -> planes (B, 3, C, R, R) float32."""
        x = self.pos_embed.float().expand(len(context), -1, -1)
        if token_bias is not None:
            x = x + token_bias
        for index, layer in enumerate(self.layers):
            x = layer(x, context, attention)
            tick(index + 1, len(self.layers))
        x = self.norm(x).unflatten(1, (3, self.low_res, self.low_res)).permute(0, 1, 4, 2, 3)
        bias = self.deconv.bias
        assert bias is not None
        planes = F.conv_transpose2d(x.flatten(0, 1), self.deconv.weight.to(x.dtype), bias.to(x.dtype), stride=self.deconv.stride)
        return planes.unflatten(0, (-1, 3))


class Synthesizer(nn.Module):
    """The level of the published names under which the heads live."""

    def __init__(self, config: LRMConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config.kind, config.triplane_dim, config.decoder_hidden)


class TriplaneLRM(nn.Module):
    """The whole network.

    Attributes:
        config: the sizes.
        attention: the attention function of every layer; assign another one to change it (it is no part of the state).
    """

    def __init__(self, config: LRMConfig) -> None:
        super().__init__()
        self.config = config
        self.attention: Attention = torch_attention
        self.encoder = ImageEncoder(
            config.encoder_dim,
            config.encoder_layers,
            config.encoder_heads,
            config.encoder_mlp_dim,
            config.patch_size,
            config.position_grid,
        )
        self.transformer = TriplaneTransformer(config)
        self.synthesizer = Synthesizer(config)

    @property
    def decoder(self) -> Decoder:
        """The heads."""
        return self.synthesizer.decoder

    def cast_trunk(self, dtype: torch.dtype) -> TriplaneLRM:
        """Stores encoder and transformer in `dtype`, in place. The heads stay in float32: they are small, and sit next to the surface."""
        self.encoder.to(dtype)
        self.transformer.to(dtype)
        self.synthesizer.to(torch.float32)
        return self

    def planes(
        self,
        images: Tensor,
        cameras: Tensor,
        token_bias: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
        attention: Attention | None = None,
        tick: Tick = no_tick,
    ) -> Tensor:
        """Posed views to a triplane.

        Args:
            images: (B, V, 3, H, W) in [0, 1] on white; any V.
            cameras: (B, V, 16) in the network's space: c2w[:3, :4] row by row (OpenGL axes, +Z up), then fx, fy, cx, cy as fractions.
            token_bias: (B, 3*T*T, transformer_dim) added to the learned position of the triplane tokens, or None.
            dtype: of the multiplications in both transformers; None takes the dtype the weights are stored in. Residual streams, norms
                and the result are float32 in any case.
            attention: replaces `self.attention` for this call.
            tick: called after every layer of both transformers.

        Returns:
            (B, 3, C, R, R) float32.
        """
        if images.ndim != 5 or cameras.shape != (*images.shape[:2], 16):
            raise ValueError(
                f"planes: needs images (B, V, 3, H, W) and cameras (B, V, 16), not {tuple(images.shape)} and {tuple(cameras.shape)}."
            )
        dtype = dtype or self.transformer.pos_embed.dtype
        attention = attention or self.attention
        n_encoder, n_transformer = self.config.encoder_layers, self.config.transformer_layers

        def first(step: int, total: int, preview: Tensor | None = None) -> None:
            tick(step, n_encoder + n_transformer, preview)

        def second(step: int, total: int, preview: Tensor | None = None) -> None:
            tick(n_encoder + step, n_encoder + n_transformer, preview)

        tokens = self.encoder(images.flatten(0, 1), cameras.flatten(0, 1), dtype, attention, first)
        tokens = tokens.unflatten(0, images.shape[:2]).flatten(1, 2).to(dtype)
        return self.transformer(tokens, token_bias, attention, second)

    def field(
        self,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        *,
        dtype: torch.dtype | None = None,
        attention: Attention | None = None,
        tick: Tick = no_tick,
    ) -> Field:
        """The views of one asset to its field.

        Args:
            images: (V, 3, H, W) in [0, 1] on the network's background and at its size, on the CPU.
            masks: (V, 1, H, W) or None; the published networks do not look at them.
            cameras: V cameras in the world.
            dtype, attention, tick: as `planes` takes them.

        Returns:
            the field, on the CPU, independent of this network.
        """
        device = self.transformer.pos_embed.device
        views, poses = images[None].to(device), triplane_cameras(cameras)[None].to(device)
        planes = self.planes(views, poses, dtype=dtype, attention=attention, tick=tick)
        decoder = copy.deepcopy(self.decoder).to("cpu", torch.float32).requires_grad_(False)
        config = self.config
        return TriplaneField(
            planes[0].cpu(),
            decoder,
            grid_res=config.grid_res,
            grid_scale=config.grid_scale,
            samples_per_ray=config.samples_per_ray,
        )
