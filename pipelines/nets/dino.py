"""The image encoder of InstantMesh: a DINO ViT whose layers know the camera (InstantMesh section 3.2, stage 1; Instant3D).

Parameter names are those of the published checkpoints under `encoder.`: a Hugging Face ViT with one `adaLN_modulation` more in each
layer, and a `camera_embedder` beside it. Attention and MLP multiply in `dtype`; the residual stream stays in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.progress import Tick, no_tick
from .attention import Attention, LayerNorm, Linear, merge_heads, split_heads, torch_attention

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
CAMERA_NUMBERS = 16


class _Named(nn.Module):
    """A level in the published parameter names that holds submodules and computes nothing itself."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Embeddings(nn.Module):
    """Patches to tokens, a class token in front, learned positions added."""

    def __init__(self, dim: int, patch_size: int, position_grid: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + position_grid**2, dim) * 0.02)
        self.patch_embeddings = _Named(projection=nn.Conv2d(3, dim, patch_size, patch_size))
        self.patch_size = patch_size
        self.position_grid = position_grid

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows*columns, dim) position embeddings, resampled where the learned grid has another number of tokens.

        The published weights were trained with a resampling whose factor is (tokens + 0.1) / grid, and not by target size: the sampling
        positions differ by a fraction of a token, which the network notices.
        """
        learned, grid = self.position_embeddings.float(), self.position_grid
        if rows * columns == grid * grid and rows == columns:
            return learned
        patches = learned[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
        factor = ((rows + 0.1) / grid, (columns + 0.1) / grid)
        patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", align_corners=False)
        return torch.cat([learned[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised pixels -> (N, 1 + H*W/patch^2, dim) float32."""
        projection = self.patch_embeddings.projection
        weight, bias = projection.weight.to(pixels.dtype), projection.bias.to(pixels.dtype)
        patches = F.conv2d(pixels, weight, bias, stride=self.patch_size)
        tokens = torch.cat([self.cls_token.to(pixels.dtype).expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + self.positions(*patches.shape[2:])


class Layer(nn.Module):
    """One transformer layer; shift and scale after each layer norm come from the camera. There are no gates."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = _Named(
            attention=_Named(query=Linear(dim, dim), key=Linear(dim, dim), value=Linear(dim, dim)),
            output=_Named(dense=Linear(dim, dim)),
        )
        self.intermediate = _Named(dense=Linear(dim, mlp_dim))
        self.output = _Named(dense=Linear(mlp_dim, dim))
        self.layernorm_before = LayerNorm(dim, eps=1e-12)
        self.layernorm_after = LayerNorm(dim, eps=1e-12)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, 4 * dim))

    def _attend(self, y: Tensor, attention: Attention) -> Tensor:
        projections = self.attention.attention
        q, k, v = (split_heads(f(y), self.heads) for f in (projections.query, projections.key, projections.value))
        return self.attention.output.dense(merge_heads(attention(q, k, v)))

    def forward(self, x: Tensor, camera: Tensor, dtype: torch.dtype, attention: Attention) -> Tensor:
        """x (N, T, dim) float32, camera (N, dim) float32 -> (N, T, dim) float32."""
        shift_attention, scale_attention, shift_mlp, scale_mlp = self.adaLN_modulation(camera)[:, None].chunk(4, dim=-1)
        x = x + self._attend((self.layernorm_before(x) * (1 + scale_attention) + shift_attention).to(dtype), attention)
        y = (self.layernorm_after(x) * (1 + scale_mlp) + shift_mlp).to(dtype)
        return x + self.output.dense(F.gelu(self.intermediate.dense(y)))


class ImageEncoder(nn.Module):
    """Images with their cameras to tokens.

    Args:
        dim, layers, heads, mlp_dim, patch_size: sizes of the ViT (published: 768, 12, 12, 3072, 16).
        position_grid: side of the learned position grid (published: 14, from 224 px), whatever size the images have.
    """

    def __init__(self, dim: int, layers: int, heads: int, mlp_dim: int, patch_size: int, position_grid: int) -> None:
        super().__init__()
        self.model = _Named(
            embeddings=Embeddings(dim, patch_size, position_grid),
            encoder=_Named(layer=nn.ModuleList(Layer(dim, heads, mlp_dim) for _ in range(layers))),
            layernorm=LayerNorm(dim, eps=1e-12),
        )
        self.camera_embedder = nn.Sequential(Linear(CAMERA_NUMBERS, dim), nn.SiLU(), Linear(dim, dim))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.camera_embedder:  # at 0.02 the poses would drown: they enter through nothing else
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def normalize(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) in [0, 1] -> ImageNet mean and deviation removed, float32."""
        mean, std = (torch.tensor(c, dtype=torch.float32, device=images.device)[:, None, None] for c in (IMAGE_MEAN, IMAGE_STD))
        return (images.float() - mean) / std

    def forward(
        self,
        images: Tensor,
        cameras: Tensor,
        dtype: torch.dtype = torch.float32,
        attention: Attention = torch_attention,
        tick: Tick = no_tick,
    ) -> Tensor:
        """Encodes each image alone, with its own camera.

        Args:
            images: (N, 3, H, W) in [0, 1], sides multiples of the patch size.
            cameras: (N, 16): c2w[:3, :4] row by row, then fx, fy, cx, cy as fractions of the image.
            dtype: of the multiplications.
            attention: see `nets.attention`.
            tick: called after each layer.

        Returns:
            (N, 1 + H*W/patch^2, dim) float32; the class token comes first and belongs to the condition.
        """
        patch = self.model.embeddings.patch_size
        if images.shape[-1] % patch or images.shape[-2] % patch:
            raise ValueError(f"The image's sides ({images.shape[-1]} x {images.shape[-2]}) must be multiples of the patch size {patch}.")
        camera = self.camera_embedder(cameras.float())
        x = self.model.embeddings(self.normalize(images))
        layers = self.model.encoder.layer
        for index, layer in enumerate(layers):
            x = layer(x, camera, dtype, attention)
            tick(index + 1, len(layers))
        return self.model.layernorm(x)
