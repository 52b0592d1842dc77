"""The parts around Zero123++'s U-Net: the autoencoder with its scaled latents, and the CLIP picture and text condition.

Format: the published v1.1 and v1.2 folders (diffusers layout). Numbers are those of its feature extractors and pipeline.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def scale_latents(latents: Tensor) -> Tensor:
    """Autoencoder latents (times its scaling factor) -> the space the denoiser works in."""
    return (latents - 0.22) * 0.75


def unscale_latents(latents: Tensor) -> Tensor:
    """The inverse of `scale_latents`."""
    return latents / 0.75 + 0.22


def scale_image(image: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> the narrower range the view grid is encoded in, where white lies inside what the autoencoder knows."""
    return image * 0.5 / 0.8


def unscale_image(image: Tensor) -> Tensor:
    """The inverse of `scale_image`."""
    return image / 0.5 * 0.8


def resize_and_crop(image: Tensor, size: int, mode: str) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, size, size): shortest edge to `size`, then the centre.

    Width first, then height, each clamped, as imaging libraries do it: a bicubic kernel overshoots at edges, and clamping only at the
    end would differ from the published preprocessing by several grey levels.

    Args:
        mode: "bilinear" or "bicubic", both antialiased.
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    new_height, new_width = height * size // short, width * size // short
    for shape in ((height, new_width), (new_height, new_width)):
        if tuple(image.shape[-2:]) != shape:
            image = F.interpolate(image, size=shape, mode=mode, antialias=True).clamp(0, 1)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return image[..., top : top + size, left : left + size]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


class VaeCodec:
    """Pictures to latents and back through an `AutoencoderKL`, as the published pipeline uses it.

    The reference latent is a raw sample of the posterior, neither scaled nor shifted; the grid's latents are both.

    Args:
        vae: diffusers' AutoencoderKL.
        reference_size: side the reference picture is brought to, pixels.
    """

    def __init__(self, vae: Any, reference_size: int = 512) -> None:
        self.vae = vae
        self.reference_size = reference_size
        self.channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._preview: Tensor | None = None

    def modules(self) -> dict[str, nn.Module]:
        """The network, for the host's memory management."""
        return {"vae": self.vae}

    def pixel_values(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the autoencoder's input for a reference picture."""
        return (resize_and_crop(image, self.reference_size, "bilinear") - 0.5) / 0.8

    def moments(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 2 * channels, s, s): mean and log variance of the posterior."""
        return self.vae.encode(pixel_values.to(_dtype(self.vae))).latent_dist.parameters.float()

    def _sample(self, pixel_values: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_variance = self.moments(pixel_values).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise

    def encode_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, channels, s, s) float32."""
        self._fit_preview(image.device)
        return self._sample(self.pixel_values(image), generator)

    def encode_no_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The reference of the unguided half: a mid-grey picture, whatever `image` shows."""
        return self._sample(torch.zeros_like(self.pixel_values(image)), generator)

    def encode_grid(self, grid: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1], the view grid -> (1, channels, h, w) latents as the denoiser sees them (the posterior's mean)."""
        mean = self.moments(scale_image(grid * 2 - 1)).chunk(2, dim=1)[0]
        return scale_latents(mean * self.vae.config.scaling_factor)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) denoised latents -> (1, 3, H, W), the autoencoder's output before unscaling."""
        latents = unscale_latents(latents) / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(_dtype(self.vae)), return_dict=False)[0].float()

    def decode_grid(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) denoised latents -> (1, 3, H, W) in [0, 1]."""
        return (unscale_image(self.decode_raw(latents)) / 2 + 0.5).clamp(0, 1)

    def _fit_preview(self, device: torch.device) -> None:
        """Fits colour = latent @ A + b to what the decoder makes of a few flat latents: 16 px pictures, a moment of work."""
        if self._preview is None:
            n = self.channels
            flat = torch.cat([torch.zeros(1, n), torch.eye(n), -torch.eye(n)])
            colors = self.decode_grid(flat[:, :, None, None].expand(-1, -1, 2, 2).to(device)).mean((2, 3)).cpu()
            self._preview = torch.linalg.lstsq(torch.cat([flat, torch.ones(len(flat), 1)], dim=1), colors).solution

    def preview(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) estimate of the clean latents -> (h, w, 3) rough picture, without running the decoder."""
        assert self._preview is not None, "encode_reference comes first"
        matrix = self._preview.to(latents)
        return (latents[0].permute(1, 2, 0) @ matrix[:-1] + matrix[-1]).clamp(0, 1)

    def activation_bytes(self, height: int, width: int) -> dict[str, int]:
        """Working memory for a (height, width) picture: six full-size feature maps of the decoder's last level, measured."""
        return {"vae": 6 * height * width * int(self.vae.config.block_out_channels[0]) * _dtype(self.vae).itemsize}


class ClipConditioner:
    """Tokens for the cross-attention: the empty prompt, plus the picture's CLIP embedding weighted along the token axis.

    Args:
        vision_encoder: transformers' CLIPVisionModelWithProjection.
        empty_prompt: (1, L, D) the text encoder's output for the empty prompt. It never changes, so the text encoder itself is not kept.
        ramp: (L,) the published ramping coefficients.
    """

    def __init__(self, vision_encoder: Any, empty_prompt: Tensor, ramp: Tensor) -> None:
        if ramp.shape != empty_prompt.shape[1:2]:
            raise ValueError(f"Zero123++: {empty_prompt.shape[1]} prompt tokens need as many ramping coefficients, got {len(ramp)}.")
        self.vision_encoder = vision_encoder
        self.empty_prompt = empty_prompt.float()
        self.ramp = ramp.float()

    def modules(self) -> dict[str, nn.Module]:
        """The network, for the host's memory management."""
        return {"vision_encoder": self.vision_encoder}

    def pixel_values(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> CLIP's input."""
        image = resize_and_crop(image, int(self.vision_encoder.config.image_size), "bicubic")
        mean, std = (image.new_tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        return (image - mean) / std

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, s, s) -> (B, D) projected picture embeddings."""
        return self.vision_encoder(pixel_values.to(_dtype(self.vision_encoder))).image_embeds.float()

    def tokens(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, L, D) float32."""
        embedding = self.embed(self.pixel_values(image))
        return self.no_tokens(image) + embedding[:, None] * self.ramp.to(image.device)[:, None]

    def no_tokens(self, image: Tensor) -> Tensor:
        """The tokens of the unguided half, on `image`'s device: (1, L, D)."""
        return self.empty_prompt.to(image.device)

    def activation_bytes(self) -> dict[str, int]:
        """Working memory for one picture: about twelve token arrays."""
        config = self.vision_encoder.config
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        return {"vision_encoder": 12 * tokens * int(config.hidden_size) * _dtype(self.vision_encoder).itemsize}
