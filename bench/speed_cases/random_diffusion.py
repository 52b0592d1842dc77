"""Latent diffusion models with random weights, as score distillation asks them: the time of a network does not depend on its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...pipelines.data.cameras import Cameras
from ...pipelines.ops.frozen_copy import FrozenCopy
from .. import noise_schedule

LATENT_SCALE = 0.18215
PROMPT = 77  # tokens
FULL_UNET = {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)}  # SD 1.5's
FULL_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
SMALL_UNET = {
    "cross_attention_dim": 64, "attention_head_dim": 4, "block_out_channels": (32, 64), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
SMALL_VAE = {"block_out_channels": (16, 16, 16, 16), "layers_per_block": 1, "norm_num_groups": 8}


class RandomDiffusion:
    """A U-Net and a VAE of diffusers, made from nothing; see `priors.Denoiser`.

    Args:
        size: side of the pictures it is asked about, a multiple of 8.
        full: Stable Diffusion 1.5's size, else a small one of the same form.
        seen: whether it is told a picture by four further input channels, as Zero-1-to-3 is.
        device: CUDA computes in half precision, the VAE in bfloat16 where there is any.
        seed: of the weights.
    """

    one_time = False

    def __init__(self, size: int, *, full: bool, seen: bool, device: torch.device | str, seed: int = 0) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.size, self.device, self.seen = (size, size), torch.device(device), seen
        half = self.device.type == "cuda"
        self.dtype = torch.float16 if half else torch.float32
        encoder_dtype = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float32
        config: dict[str, Any] = FULL_UNET if full else SMALL_UNET
        blocks = len((FULL_VAE if full else SMALL_VAE)["block_out_channels"])  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(in_channels=8 if seen else 4, out_channels=4, **config)
            vae = AutoencoderKL(
                latent_channels=4, down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
                **(FULL_VAE if full else SMALL_VAE),
            )  # fmt: skip
            self._prompt = torch.randn(1, PROMPT, config["cross_attention_dim"]).to(self.device, self.dtype)
        self.unet = unet.eval().requires_grad_(False).to(self.device, self.dtype)
        self._vae = vae.eval().requires_grad_(False)
        self._encoder = FrozenCopy(self._vae, self.device, encoder_dtype, ("decoder.", "post_quant_conv."))
        self._encoder_dtype = encoder_dtype

    @property
    def weights(self) -> int:
        """Number of the U-Net's weights."""
        return sum(weight.numel() for weight in self.unet.parameters())

    def encode(self, images: Tensor) -> Tensor:
        """(V, 3, size, size) in [0, 1] -> latents (V, 4, size / 8, size / 8), differentiable."""
        pixels = (images * 2 - 1).to(self.device, self._encoder_dtype)
        latents: Tensor = self._encoder(lambda part: self._vae.encode(part).latent_dist.mode(), pixels)
        return latents.float() * LATENT_SCALE

    def noise_ratio(self, times: Tensor) -> Tensor:
        """Of Stable Diffusion's schedule."""
        return noise_schedule.noise_ratio(times)

    @torch.no_grad()
    def denoised(self, latents: Tensor, times: Tensor, noise: Tensor, cameras: Cameras, guidance: float | None) -> Tensor:
        """With classifier-free guidance: the network sees each latent twice."""
        ratio = self.noise_ratio(times).view(-1, 1, 1, 1).to(latents)
        noised = (latents + ratio * noise) * (1 + ratio**2).rsqrt()
        asked = torch.cat([noised, torch.zeros_like(noised)], dim=1) if self.seen else noised
        twice = torch.cat([asked, asked]).to(self.device, self.dtype)
        steps = noise_schedule.steps_of(times).repeat(2).to(self.device)
        told = self.unet(twice, steps, encoder_hidden_states=self._prompt.expand(len(twice), -1, -1)).sample.to(latents)
        without, with_prompt = told.chunk(2)
        predicted = without + (1.0 if guidance is None else guidance) * (with_prompt - without)
        return latents + ratio * (noise - predicted)

    def picture(self, latents: Tensor) -> Tensor | None:
        """None: random weights draw nothing."""
        return None
