"""Which of core's MODELs make single pictures, and how they want to be asked."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.supported_models
import torch
from torch import Tensor

FILMS = (comfy.model_base.SVD_img2vid,)
# Models whose latents have an axis for frames, as films have, and which make pictures of one frame. Newer cores know more of them.
ONE_FRAME = tuple(
    kind for name in ("QwenImage", "CosmosPredict2", "Anima", "JoyImage") if (kind := getattr(comfy.model_base, name, None)) is not None
)
TAKE = "Take an image model (SD 1.5, SDXL, SD 3, Flux, Qwen-Image) and its own VAE."


def one_frame_latents(model: Any) -> bool:
    """Whether the latents of a model of pictures are (V, C, 1, h, w) instead of (V, C, h, w)."""
    return _dimensions(model) == 3


def _dimensions(model: Any) -> int:
    return int(getattr(model.get_model_object("latent_format"), "latent_dimensions", 2))


def check_image_model(model: Any, vae: Any) -> None:
    """Refuses what does not denoise single pictures.

    Raises:
        ValueError: what it is, and what is expected.
    """
    kind, dimensions = type(model.model).__name__, _dimensions(model)
    if dimensions not in (2, 3):
        raise ValueError(f"This MODEL ({kind}) is not image diffusion: its latents are sound or shapes. {TAKE}")
    film = not isinstance(model.model, ONE_FRAME) if dimensions == 3 else isinstance(model.model, FILMS)
    if film or getattr(model.model, "image_to_video", False):
        raise ValueError(f"This MODEL ({kind}) denoises films, and single pictures are asked for. {TAKE}")
    if getattr(vae, "latent_dim", 2) != dimensions:
        what = "does not encode single pictures" if dimensions == 2 else "encodes pictures without the axis for frames of its latents"
        raise ValueError(f"This VAE {what}, so it is not that of this MODEL ({kind}): wire the VAE that belongs to it.")
    noise, signal = noise_and_signal(model.get_model_object("model_sampling"), torch.full((1,), 0.5))
    if not (float(noise) > 0 and float(signal) > 0):
        raise ValueError(f"This MODEL ({kind}) is not image diffusion: it does not mix noise into what it makes. {TAKE}")


def noise_and_signal(sampling: Any, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """By what a model's own noising multiplies noise and signal at these sigmas (N,): (N,) float32 each."""
    one, nothing = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    return tuple(sampling.noise_scaling(sigmas, *pair).float() for pair in ((one.clone(), nothing), (nothing.clone(), one)))  # type: ignore[return-value]


def is_guidance_distilled(model: Any) -> bool:
    """Whether a model was distilled to answer as if guided, so that classifier-free guidance on top of that exaggerates.

    It has an input for the strength of its guidance (Flux dev, Flux 2, HunyuanImage), or none at all (Flux schnell).
    """
    net = model.model.diffusion_model
    own_input = getattr(net, "guidance_in", None)
    told = own_input is not None and any(True for _ in own_input.parameters())
    return told or type(model.model.model_config) is comfy.supported_models.FluxSchnell
