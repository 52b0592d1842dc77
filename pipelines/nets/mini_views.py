"""The two small parts that stand in the mini view model where Zero123++ has a variational autoencoder and a CLIP encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class PatchCodec(nn.Module):
    """Linear image codec: each patch is described by its first principal components.

    The best linear code of its length in squared error; it has no noise of its own, and the high frequencies a small
    diffusion model cannot learn are simply absent from its latents.

    Args:
        patch: side of a patch in pixels.  channels: components kept.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.channels = channels
        self.register_buffer("mean", torch.zeros(3 * patch * patch))
        self.register_buffer("basis", torch.zeros(channels, 3 * patch * patch))
        self.register_buffer("scale", torch.ones(channels))

    @classmethod
    def fit(cls, images: Tensor, patch: int, channels: int) -> PatchCodec:
        """The codec of (N, 3, H, W) pictures in [0, 1]. Latents are scaled to deviation sqrt(own / mean): half whitened."""
        codec = cls(patch, channels)
        patches = codec._to_patches(images * 2 - 1).double()
        mean = patches.mean(0)
        covariance = torch.cov((patches - mean).T)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
        deviation = values.clamp_min(1e-8).sqrt()
        wanted = deviation.sqrt() / deviation.mean().sqrt()
        codec.mean.copy_(mean)
        codec.basis.copy_(vectors.T)
        codec.scale.copy_(wanted / deviation)
        return codec

    def _to_patches(self, images: Tensor) -> Tensor:
        p = self.patch
        b, c, h, w = images.shape
        return images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(-1, c * p * p)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, channels, H/patch, W/patch). H and W are multiples of the patch."""
        b, _, h, w = images.shape
        latents = (self._to_patches(images * 2 - 1) - self.mean) @ self.basis.T * self.scale
        return latents.reshape(b, h // self.patch, w // self.patch, self.channels).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, up to what the missing components held; clamped to [0, 1]."""
        b, _, h, w = latents.shape
        p = self.patch
        patches = latents.permute(0, 2, 3, 1).reshape(-1, self.channels) / self.scale @ self.basis + self.mean
        images = patches.reshape(b, h, w, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, 3, h * p, w * p)
        return (images / 2 + 0.5).clamp(0, 1)


class QueryEncoder(nn.Module):
    """The query picture as a few tokens for the cross-attention of the denoiser: strided convolutions, one token a cell.

    Args:
        dim: width of a token.  view_size: side of the query, a multiple of 16; it gives (view_size / 16)^2 tokens.
    """

    def __init__(self, dim: int = 128, view_size: int = 64) -> None:
        super().__init__()
        self.view_size = view_size
        widths = (3, 32, 64, 128, dim)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.position = nn.Parameter(torch.randn(1, (view_size // 16) ** 2, dim) * 0.02)
        self.no_picture = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, view_size, view_size) in [0, 1] -> (B, tokens, dim)."""
        x = images * 2 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = silu(norm(convolution(x)))
        return x.flatten(2).transpose(1, 2) + self.position

    def empty(self, batch: int) -> Tensor:
        """The condition that says no picture was given, (B, tokens, dim): the other side of classifier-free guidance."""
        return self.no_picture.expand(batch, self.position.shape[1], -1)
