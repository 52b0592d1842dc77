"""The DINOv2 image backbone (Oquab et al. 2023) under the parameter names that GeoLRM's checkpoint has for it.

The names are those of transformers 4.34 (`attention.attention.query`, ...), whatever version is installed: the network is our own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, LayerNorm, Linear, merge_heads, split_heads, torch_attention
from .dino import Embeddings as DinoEmbeddings
from .dino import _Named

EPSILON = 1e-6
POSITION_GRID = 37  # 518 px / 14


class Embeddings(DinoEmbeddings):
    """Patches to tokens. `mask_token` is a parameter of the published file that inference never reads."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__(dim, patch_size, POSITION_GRID)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) float32."""
        return x * self.lambda1


class Layer(nn.Module):
    """A pre-norm transformer layer with scaled residual branches."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = LayerNorm(dim, eps=EPSILON)
        self.attention = _Named(
            attention=_Named(query=Linear(dim, dim), key=Linear(dim, dim), value=Linear(dim, dim)),
            output=_Named(dense=Linear(dim, dim)),
        )
        self.layer_scale1 = LayerScale(dim)
        self.norm2 = LayerNorm(dim, eps=EPSILON)
        self.mlp = _Named(fc1=Linear(dim, mlp_dim), fc2=Linear(mlp_dim, dim))
        self.layer_scale2 = LayerScale(dim)

    def forward(self, x: Tensor, dtype: torch.dtype, attention: Attention) -> Tensor:
        """x (N, T, dim) float32 -> the same; multiplications in `dtype`."""
        y, projections = self.norm1(x).to(dtype), self.attention.attention
        q, k, v = (split_heads(f(y), self.heads) for f in (projections.query, projections.key, projections.value))
        x = x + self.layer_scale1(self.attention.output.dense(merge_heads(attention(q, k, v))))
        y = self.norm2(x).to(dtype)
        return x + self.layer_scale2(self.mlp.fc2(F.gelu(self.mlp.fc1(y))))


class DinoV2(nn.Module):
    """Pictures to a map of features.

    Args:
        dim, layers, heads: sizes of the ViT (published: 768, 12, 12).
        patch_size: pixels a token is wide (published: 14).
        mlp_ratio: width of the MLP over dim (published: 4).
    """

    def __init__(self, dim: int, layers: int, heads: int, patch_size: int = 14, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.embeddings = Embeddings(dim, patch_size)
        self.encoder = _Named(layer=nn.ModuleList(Layer(dim, heads, mlp_ratio * dim) for _ in range(layers)))
        self.layernorm = LayerNorm(dim, eps=EPSILON)

    def forward(self, pixels: Tensor, dtype: torch.dtype = torch.float32, attention: Attention = torch_attention) -> Tensor:
        """(N, 3, H, W) normalised pixels, sides multiples of the patch -> (N, dim, H/patch, W/patch) float32, without the class token."""
        x = self.embeddings(pixels).float()
        for layer in self.encoder.layer:
            x = layer(x, dtype, attention)
        rows, columns = (side // self.patch_size for side in pixels.shape[-2:])
        return self.layernorm(x)[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
