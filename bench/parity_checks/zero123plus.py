"""Zero123++: the published pipeline's run at a tiny size, stage by stage and as a whole.

Preprocessed pictures come from the golden, since the libraries' preprocessing differs by a grey level between versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...pipelines.nets import zero123plus as parts
from ...pipelines.nets.reference_attention import ReferenceUNet
from ...pipelines.view_generation import model as view_model
from ...pipelines.view_generation import sampling
from ...pipelines.weights import zero123plus as published
from .goldens import Outputs, find_manifest, seed_module

SEED = 123
MAKE = {
    "unet": published.denoiser,
    "vae": published.autoencoder,
    "vision_encoder": published.vision_encoder,
    "text_encoder": published.text_encoder,
}


def build() -> view_model.ViewModel:
    """The tiny view model with the deterministic weights."""
    configs = find_manifest("zero123plus_tiny")["configs"]

    def network(part: str) -> torch.nn.Module:
        def rename(name: str) -> str:
            # transformers 5 dropped this level of the text encoder's names
            level = "text_model." if part == "text_encoder" and not name.startswith("text_model.") else ""
            return f"{part}.{level}{name}"

        return seed_module(MAKE[part](configs[part]), rename)

    prompt = published.empty_prompt(network("text_encoder"))
    conditioner = parts.ClipConditioner(network("vision_encoder"), prompt, torch.tensor(published.ramping_coefficients()))
    codec = parts.VaeCodec(network("vae"), reference_size=64)
    return view_model.ViewModel(network("unet"), codec, conditioner, "zero123plus_v1.2", view_size=64, steps=4)


@contextmanager
def given_pixels(model: view_model.ViewModel, golden: dict[str, Tensor]) -> Iterator[None]:
    """The golden's preprocessed pictures in place of our own preprocessing."""
    kept = model.codec.pixel_values, model.conditioner.pixel_values  # type: ignore[attr-defined]
    model.codec.pixel_values = lambda image: golden["pixel_values_vae"]  # type: ignore[attr-defined]
    model.conditioner.pixel_values = lambda image: golden["pixel_values_clip"]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        model.codec.pixel_values, model.conditioner.pixel_values = kept  # type: ignore[attr-defined]


def outputs(name: str, golden: dict[str, np.ndarray]) -> Outputs:
    """Every stage of the published run."""
    want = {key: torch.from_numpy(np.asarray(value)) for key, value in golden.items()}
    model = build()
    codec, conditioner = model.codec, model.conditioner
    assert isinstance(codec, parts.VaeCodec) and isinstance(conditioner, parts.ClipConditioner)
    image = want["cond_rgb_composited"].permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        yield "ramping_coefficients", conditioner.ramp
        yield "text_embeds", conditioner.empty_prompt
        yield "pixel_values_vae", codec.pixel_values(image)
        yield "pixel_values_clip", conditioner.pixel_values(image)
        yield "vae_moments", codec.moments(want["pixel_values_vae"])
        yield "vae_moments_neg", codec.moments(torch.zeros_like(want["pixel_values_vae"]))
        embedding = conditioner.embed(want["pixel_values_clip"])
        yield "image_embeds", embedding
        yield "prompt_embeds_cond", conditioner.empty_prompt + embedding[:, None] * conditioner.ramp[:, None]
        for steps, prefix in ((4, ""), (28, "sched28_"), (75, "sched75_")):
            scheduler = model.schedule.scheduler("euler_ancestral", steps)
            yield f"{prefix}timesteps", scheduler.timesteps
            yield f"{prefix}sigmas", scheduler.sigmas
        yield "init_noise_sigma", model.schedule.scheduler("euler_ancestral", 4).init_noise_sigma
        for scale in ("scale_latents", "unscale_latents", "scale_image", "unscale_image"):
            yield scale, getattr(parts, scale)(want["scale_in"])
        yield from _denoiser(model, want)
        yield from _sampling(model, want, image)
        raw = codec.decode_raw(want["latents_after_step3"])
        yield "decoded_raw", raw
        yield "decoded_unscaled", parts.unscale_image(raw)
    with given_pixels(model, want):
        views = sampling.generate_views(model, image[0], seed=SEED)
    yield "final_image01", view_model.grid_from_views(views, model.rows, model.columns)


def _denoiser(model: view_model.ViewModel, want: dict[str, Tensor]) -> Outputs:
    """Single calls of the denoiser on the golden's own inputs."""
    network = ReferenceUNet(model.unet)
    for i in range(4):
        sigma = want["sigmas"][i]
        reference = (want[f"unet{i}_cond_lat"] + sigma * want[f"draw{3 + 2 * i:02d}"]) / (sigma**2 + 1) ** 0.5
        yield f"unet{i}_out", network(want[f"unet{i}_sample"], want[f"unet{i}_t"], want[f"unet{i}_ehs"], reference)
    yield "noref_unet_out", network(want["unet1_sample"], want["unet1_t"], want["unet1_ehs"], None)


def _sampling(model: view_model.ViewModel, want: dict[str, Tensor], image: Tensor) -> Outputs:
    """The loop, with our own random draws."""
    calls: list[Tensor] = []
    hook = model.unet.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0]))
    try:
        with given_pixels(model, want):
            generator = torch.Generator().manual_seed(SEED)
            (condition,) = sampling.encode(model, image, [generator], guided=True)
            final = sampling.denoise(model, condition, generator, steps=4, guidance=4.0)
    finally:
        hook.remove()
    inputs = calls[1::2]  # the write pass on the reference comes first in each step
    yield "unet0_cond_lat", condition.reference
    yield "unet0_ehs", condition.tokens
    for i in range(1, 4):
        yield f"unet{i}_sample", inputs[i]
        yield f"latents_after_step{i - 1}", inputs[i][:1] * (want["sigmas"][i] ** 2 + 1) ** 0.5
    yield "latents_after_step3", final
    yield "latents_unscaled_before_postprocess", parts.unscale_latents(final)
    yield "pipe_output_latent_type", parts.unscale_latents(final)
