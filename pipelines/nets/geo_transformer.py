"""GeoLRM's geometry-aware transformer (section 3.2), which its proposal and its reconstruction network share.

Parameter names are those of the published checkpoint under `serializer.transformer.` and `lrm_generator.transformer.`.

Self-attention has two forms. "tokens" is the paper's: every token attends to every other, with rotary positions. "heads" is what the
published code computes when it runs in float32: the heads of one token attend to each other, and the result is reshaped across tokens;
positions have no effect then, and the order of the tokens has. Released weights may expect either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.progress import Tick, no_tick, part_of
from ..ops.deformable_attention import bytes_per_point, sample_levels
from ..ops.rotary import rotate
from .attention import Attention, Linear, merge_heads, split_heads, torch_attention

Form = Literal["tokens", "heads"]
RMS_EPSILON = 1e-5
LEVELS = 2


@dataclass(frozen=True)
class Geometry:
    """Where the tokens are and what the pictures show; one asset.

    Attributes:
        xyz: (N, 3) points in the network's frame.
        indices: (N, 3) int64 places on the position grid, for the rotary embedding.
        uv: (V, N, 2) projections in [0, 1], x right and y down.
        levels: feature maps (V, C, H_l, W_l), the finest first.
    """

    xyz: Tensor
    indices: Tensor
    uv: Tensor
    levels: Sequence[Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019), in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) float32 -> the same."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPSILON) * self.weight


class SelfAttention(nn.Module):
    """Attention of the tokens to each other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.wo = (Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, indices: Tensor, form: Form, attention: Attention) -> Tensor:
        """x (N, dim), indices (N, 3) -> (N, dim)."""
        q, k, v = (split_heads(f(x)[None], self.heads) for f in (self.wq, self.wk, self.wv))  # (1, heads, N, d)
        if form == "tokens":
            mixed = merge_heads(attention(rotate(q, indices[None]), rotate(k, indices[None]), v))[0]
        else:
            q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))  # (N, heads, d): a batch of tokens, a sequence of heads
            # The turn is the same for all heads of a token and cancels in their products, so none is made.
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(x), -1)
        return self.wo(mixed)


class DeformableAttention(nn.Module):
    """Predicts where around its projection a token looks, and with what weights."""

    def __init__(self, dim: int, feature_dim: int, heads: int, samples: int) -> None:
        super().__init__()
        self.heads, self.samples = heads, samples
        self.sampling_offsets = Linear(dim, heads * LEVELS * samples * 2)
        self.attention_weights = Linear(dim, heads * LEVELS * samples)
        self.value_proj = Linear(feature_dim, dim)

    def values(self, level: Tensor) -> Tensor:
        """(C, H, W) features of one picture -> (heads, d, H, W)."""
        projected = self.value_proj(level.flatten(1).T).T
        return projected.unflatten(0, (self.heads, -1)).unflatten(2, level.shape[1:])

    def places(self, x: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """(N, dim) -> offsets (heads, N, L, K, 2) as shares of the picture, and weights (heads, N, L, K)."""
        offsets = self.sampling_offsets(x).float().unflatten(-1, (self.heads, LEVELS, self.samples, 2)).transpose(0, 1)
        scale = torch.tensor([[w, h] for h, w in sizes], dtype=torch.float32, device=x.device)
        weights = self.attention_weights(x).float().unflatten(-1, (self.heads, LEVELS * self.samples)).softmax(-1)
        return offsets / scale[:, None], weights.unflatten(-1, (LEVELS, self.samples)).transpose(0, 1)


class CrossAttention(nn.Module):
    """Attention of the tokens to the pictures: deformable in each picture, then a softmax over pictures.

    A picture that a token projects outside of gives 0, and still takes its share of the softmax: so it was trained.
    """

    def __init__(self, dim: int, feature_dim: int, heads: int, samples: int) -> None:
        super().__init__()
        self.deformable_attention = DeformableAttention(dim, feature_dim, heads, samples)
        self.output_proj = Linear(dim, dim)
        self.cross_view_weight = Linear(dim, 1)

    def forward(self, x: Tensor, geometry: Geometry, dtype: torch.dtype, chunk: int, tick: Tick = no_tick) -> Tensor:
        """x (N, dim) float32 -> what the pictures add, (N, dim) float32. `chunk` points are worked on at once; a tick follows each picture.

        The softmax over pictures is carried along as a running maximum, so no more than one picture's result is held.
        """
        attend = self.deformable_attention
        sizes = [(level.shape[-2], level.shape[-1]) for level in geometry.levels]
        chunks = list(range(0, len(x), chunk))
        best = [x.new_full((len(x[s : s + chunk]), 1), -torch.inf) for s in chunks]
        mass = [torch.zeros_like(b) for b in best]
        mixed = [torch.zeros_like(x[s : s + chunk]) for s in chunks]
        for view in range(len(geometry.uv)):
            values = [attend.values(level[view].to(dtype)).float() for level in geometry.levels]
            for i, start in enumerate(chunks):
                rows = slice(start, start + chunk)
                offsets, weights = attend.places(x[rows].to(dtype), sizes)
                locations = geometry.uv[view, None, rows, None, None] + offsets
                found = sample_levels(values, locations, weights).transpose(0, 1).flatten(1).float()  # (n, dim)
                score = self.cross_view_weight(found.to(dtype)).float()
                high = torch.maximum(best[i], score)
                before, now = (best[i] - high).exp(), (score - high).exp()
                best[i], mass[i], mixed[i] = high, mass[i] * before + now, mixed[i] * before + now * found
            tick(view + 1, len(geometry.uv))
        parts = [self.output_proj((m / total).to(dtype)).float() for m, total in zip(mixed, mass, strict=True)]
        return torch.cat(parts)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (Shazeer 2020), hidden width 8/3 of dim rounded up to a multiple of 256."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-int(8 * dim / 3) // 256) * 256
        self.w1, self.w2, self.w3 = Linear(dim, hidden, bias=False), Linear(hidden, dim, bias=False), Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim) -> (N, dim)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward. The cross-attention's residual is the normalised token: so it was trained."""

    def __init__(self, dim: int, feature_dim: int, heads: int, samples: int) -> None:
        super().__init__()
        self.self_attention = SelfAttention(dim, heads)
        self.cross_attention = CrossAttention(dim, feature_dim, heads, samples)
        self.feed_forward = FeedForward(dim)
        self.self_attention_norm, self.cross_attention_norm, self.ffn_norm = (RMSNorm(dim) for _ in range(3))

    def forward(
        self, x: Tensor, geometry: Geometry, form: Form, dtype: torch.dtype, attention: Attention, chunk: int, tick: Tick = no_tick
    ) -> Tensor:
        """(N, dim) float32 -> the same."""
        x = x + self.self_attention(self.self_attention_norm(x).to(dtype), geometry.indices, form, attention).float()
        x = self.cross_attention_norm(x)
        x = x + self.cross_attention(x, geometry, dtype, chunk, tick)
        return x + self.feed_forward(self.ffn_norm(x).to(dtype)).float()


class GeoTransformer(nn.Module):
    """Points of space to features of them.

    Args:
        dim, layers, heads: sizes (published: 384, 6, 16 to propose and 768, 16, 16 to reconstruct); dim / heads a multiple of 6.
        feature_dim: channels of the feature maps.
        samples: places a head looks at in each level of a picture.
    """

    def __init__(self, dim: int, layers: int, heads: int, feature_dim: int, samples: int) -> None:
        super().__init__()
        self.dim, self.heads, self.samples = dim, heads, samples
        self.query_token = nn.Parameter(torch.randn(1, 1, dim - 3) * 0.02)
        self.layers = nn.ModuleList(Block(dim, feature_dim, heads, samples) for _ in range(layers))
        self.norm = RMSNorm(dim)

    def forward(
        self,
        geometry: Geometry,
        *,
        form: Form,
        dtype: torch.dtype = torch.float32,
        attention: Attention = torch_attention,
        chunk: int = 4096,
        tick: Tick = no_tick,
    ) -> Tensor:
        """(N, dim) float32 features of the points of `geometry`; `tick` is called after each picture in each layer."""
        x = torch.cat([geometry.xyz.float(), self.query_token[0].expand(len(geometry.xyz), -1)], dim=-1)
        for index, block in enumerate(self.layers):
            x = block(x, geometry, form, dtype, attention, chunk, part_of(tick, index, len(self.layers)))
        return self.norm(x)

    def chunk_for(self, free_bytes: int) -> int:
        """How many points fit into `free_bytes` at once."""
        return max(64, free_bytes // bytes_per_point(self.heads, self.dim, LEVELS, self.samples))
