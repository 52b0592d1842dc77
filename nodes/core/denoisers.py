"""ComfyUI's own MODEL, CONDITIONING and VAE as the denoisers of score distillation (`distillation.priors.Denoiser`).

Core is asked for each guess through its own guider: it loads and offloads the model as it sees fit, and LoRAs, ControlNets, hooks, areas
and guidance patches do what they do in a sampler. Gradients exist in the VAE's encoder only, which runs on a private copy of its weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.samplers
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...pipelines.data.cameras import Cameras
from ...pipelines.ops.camera_math import relative_pose
from ...pipelines.ops.frozen_copy import FrozenCopy
from .image_models import check_image_model, noise_and_signal, one_frame_latents
from .view_refiner import check_frames, differs_by_view, sigma_at, views_at_once

NOT_ENCODER = ("decoder.", "post_quant_conv.", "taesd_decoder.")  # weights of a VAE that encoding does not need
TRAINED = 2.0  # an encoder needs about twice the memory with a graph
ROOM = 0.5  # of the free memory that the graph of all views may take
FRONT, BACK, OVERHEAD = 45.0, 135.0, 60.0  # degrees at which the words of a view change, threestudio's
STABLE, ZERO123 = "Stable Zero123", "Zero-1-to-3"


class CoreDenoiser:
    """A core MODEL of pictures, asked view by view.

    Args:
        model, positive, negative, vae: what the sockets carry.
        size: side of the pictures the model is asked about, pixels; made whole cells of the VAE.
        by_word: conditioning for views from the "front", "side", "back" and "overhead", in place of `positive` where there is one.

    Raises:
        ValueError: a MODEL or VAE that is not of image diffusion.
    """

    one_time = False

    def __init__(self, model: Any, positive: Any, negative: Any, vae: Any, *, size: int, by_word: Mapping[str, Any] | None = None) -> None:
        check_image_model(model, vae)
        self.model, self.vae, self.positive, self.negative = model, vae, positive, negative
        self.by_word = {word: value for word, value in (by_word or {}).items() if value is not None}
        cell = int(vae.spacial_compression_encode())
        side = max(round(size / cell), 1) * cell
        self.size = (side, side)
        self._framed = one_frame_latents(model)  # core's latents are (V, C, 1, h, w), ours (V, C, h, w)

    @property
    def _sampling(self) -> Any:
        return self.model.get_model_object("model_sampling")

    def _to_core(self, pictures: Tensor) -> Tensor:
        return pictures.unsqueeze(2) if self._framed else pictures

    def _from_core(self, latents: Tensor) -> Tensor:
        return latents.squeeze(2) if self._framed else latents

    @property
    def _format(self) -> Any:
        return self.model.get_model_object("latent_format")

    def encode(self, images: Tensor) -> Tensor:
        """(V, 3, H, W) in [0, 1] -> (V, C, h, w) in the model's space, differentiable; what `VAE.encode` gives, scaled for the model.

        Raises:
            ValueError: the VAE is another model's.
        """
        vae, images = self.vae, self._to_core(images)
        one = int(TRAINED * vae.memory_used_encode(images.shape, vae.vae_dtype))
        apart = len(images) * one > ROOM * mm.get_free_memory(vae.device)
        encoder = FrozenCopy(vae.first_stage_model, vae.device, vae.vae_dtype, NOT_ENCODER)

        def encoded(pixels: Tensor) -> Tensor:
            mm.free_memory(len(pixels) * one, vae.device)
            return encoder(vae.first_stage_model.encode, vae.process_input(pixels).to(vae.device, vae.vae_dtype)).float()

        if apart:  # one view's graph at a time, made anew when its gradient is asked for
            latents = torch.cat([checkpoint(encoded, view, use_reentrant=False) for view in images.split(1)])
        else:
            latents = encoded(images)
        channels = int(self._format.latent_channels)
        if latents.ndim != images.ndim or latents.shape[1] != channels or (self._framed and latents.shape[2] != 1):
            raise ValueError(
                f"The VAE makes latents of shape {tuple(latents.shape[1:])}, the MODEL works on {channels} channels: "
                "wire the VAE that belongs to this MODEL."
            )
        return self._from_core(_differentiable(self._format).process_in(latents))

    def sigmas(self, times: Tensor) -> Tensor:
        """(N,) sigmas of the model's own schedule at these times."""
        return torch.tensor([sigma_at(self._sampling, float(time)) for time in times])

    def noise_ratio(self, times: Tensor) -> Tensor:
        """See `distillation.priors.Denoiser`; read off what the model's own noising does with a signal of 1 and noise of 1."""
        sigmas = self.sigmas(times)
        noise, signal = noise_and_signal(self._sampling, sigmas)
        return noise / signal

    def denoised(self, latents: Tensor, times: Tensor, noise: Tensor, cameras: Cameras, guidance: float | None) -> Tensor:
        """See `distillation.priors.Denoiser`. An ordinary tensor on the device of `latents`."""
        sigmas, answer = self.sigmas(times), torch.empty_like(latents)
        for rows, positive, negative in self._conditions(cameras):
            for part in self._parts(rows, latents.shape, positive, negative):
                answer[part] = self._ask(latents[part], sigmas[part], noise[part], positive, negative, guidance).to(answer)
        return answer

    def _conditions(self, cameras: Cameras) -> list[tuple[list[int], Any, Any]]:
        """Views that share conditioning, and their conditioning."""
        words = view_words(cameras) if self.by_word else [""] * cameras.n_views
        groups = {word: [view for view, own in enumerate(words) if own == word] for word in dict.fromkeys(words)}
        return [(rows, self.by_word.get(word, self.positive), self.negative) for word, rows in groups.items()]

    def _parts(self, rows: list[int], shape: torch.Size, positive: Any, negative: Any) -> list[list[int]]:
        check_frames(positive, len(rows), "positive")
        check_frames(negative, len(rows), "negative")
        whole = differs_by_view(positive) or differs_by_view(negative)
        at_once = len(rows) if whole else self._at_once([len(rows), *shape[1:]])
        return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]

    def _at_once(self, shape: Sequence[int]) -> int:
        return views_at_once(self.model, self._to_core(torch.empty(*shape, device="meta")).shape)

    def _ask(self, latents: Tensor, sigmas: Tensor, noise: Tensor, positive: Any, negative: Any, guidance: float | None) -> Tensor:
        noise = self._to_core(noise)
        with torch.inference_mode(), _told_as_conditioning(type(self.model.model).__name__, positive, negative):
            guider = comfy.samplers.CFGGuider(self.model)
            guider.set_conds(positive, negative)
            guider.set_cfg(1.0 if guidance is None else guidance)
            question = _Question(self._sampling, self._to_core(latents), sigmas)
            # An empty latent image: core would scale it, and inpainting models would look at it.
            ends = torch.cat([sigmas.max()[None], sigmas.new_zeros(1)])
            guider.sample(noise, torch.zeros_like(noise), question, ends, disable_pbar=True, seed=0)
        assert question.answer is not None
        return self._from_core(question.answer).clone().to(latents.device)

    def picture(self, latents: Tensor) -> Tensor | None:
        """(V, 3, h, w): colours by the linear map core knows for this kind of latents."""
        factors = getattr(self._format, "latent_rgb_factors", None)
        if factors is None or getattr(self._format, "latent_rgb_factors_reshape", None) is not None:
            return None
        colors = torch.einsum("vchw,ck->vkhw", latents.float(), torch.tensor(factors).to(latents.device))
        bias = getattr(self._format, "latent_rgb_factors_bias", None)
        if bias is not None:
            colors = colors + torch.tensor(bias).to(colors).view(1, 3, 1, 1)
        return ((colors + 1) / 2).clamp(0, 1)


class Zero123Denoiser(CoreDenoiser):
    """Stable Zero123 or Zero-1-to-3 as core loads them: asked about a view by its pose relative to a reference picture.

    Args:
        model, clip_vision, vae: what the sockets carry.
        image: (1, 3, H, W) in [0, 1], the reference picture on white.
        size: side of the pictures the model is asked about; it was trained at 256.
        elevation, radius: the reference camera's, degrees and world units; its azimuth is 0.
        fourth: which model it is, `STABLE` or `ZERO123`: what the fourth number of a pose means.
    """

    def __init__(
        self, model: Any, clip_vision: Any, vae: Any, image: Tensor, *, size: int = 256, elevation: float = 0.0, radius: float = 1.8,
        fourth: str = STABLE,
    ) -> None:  # fmt: skip
        if not isinstance(model.model, comfy.model_base.Stable_Zero123):
            raise ValueError(
                f"This MODEL ({type(model.model).__name__}) is not told a pose: load Stable Zero123 or Zero-1-to-3 with Load Checkpoint "
                "(image only), or wire other models to Prior From Model."
            )
        if fourth not in (STABLE, ZERO123):
            raise ValueError(f"The fourth pose value is that of {STABLE} or of {ZERO123}, not {fourth!r}.")
        super().__init__(model, None, None, vae, size=size)
        self.elevation, self.radius, self.fourth = elevation, radius, fourth
        picture = torch.nn.functional.interpolate(image, self.size, mode="bilinear", antialias=True).clamp(0, 1)
        with torch.inference_mode():
            embedding = clip_vision.encode_image(image.movedim(1, -1))["image_embeds"]
            latents = vae.encode(picture.movedim(1, -1))
        self.embedding, self.latents = embedding.detach().float().cpu().clone(), latents.detach().float().cpu().clone()
        if self.embedding.ndim != 2 or self.embedding.shape[1] != 768:
            raise ValueError(
                f"Zero123 looks at a picture through CLIP ViT-L/14 (768 numbers); this CLIP_VISION gives {tuple(self.embedding.shape)}. "
                "Take the one that Load Checkpoint (image only) gives for the Zero123 file."
            )

    def pose(self, cameras: Cameras) -> Tensor:
        """(V, 4): what the network is told of each camera.

        Polar angle minus the reference's, sine and cosine of the azimuth, all in radians, and the fourth value: the polar angle of
        the reference (Stable Zero123), or the distance beyond the reference's (Zero-1-to-3).
        """
        polar, azimuth, further = relative_pose(cameras.c2w, elevation=self.elevation, radius=self.radius)
        own_polar = torch.full_like(polar, math.radians(90 - self.elevation))
        return torch.stack([polar, azimuth.sin(), azimuth.cos(), own_polar if self.fourth == STABLE else further], dim=1)

    def _conditions(self, cameras: Cameras) -> list[tuple[list[int], Any, Any]]:
        pose = self.pose(cameras)
        groups = []
        at_once = self._at_once([len(pose), *self.latents.shape[1:]])
        for start in range(0, len(pose), at_once):
            rows = list(range(start, min(start + at_once, len(pose))))
            tokens = torch.cat([self.embedding.expand(len(rows), -1), pose[rows].float()], dim=1)[:, None]
            # Core projects tokens of another width than 768 by the model's own layer; the unguided ones are zeros behind it.
            without = torch.zeros_like(self.embedding)[:, None]
            positive = [[tokens, {"concat_latent_image": self.latents}]]
            groups.append((rows, positive, [[without, {"concat_latent_image": torch.zeros_like(self.latents)}]]))
        return groups


class _Question(comfy.samplers.Sampler):
    """A sampler that asks the model once."""

    def __init__(self, sampling: Any, latents: Tensor, sigmas: Tensor) -> None:
        self.sampling, self.latents, self.at = sampling, latents, sigmas
        self.answer: Tensor | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False, **kw):
        at = self.at.to(noise.device)
        noised = self.sampling.noise_scaling(at, noise.clone(), self.latents.to(noise.device), False)
        self.answer = model_wrap(noised, at, **extra_args)
        return noise


def _differentiable(latent_format: Any) -> Any:
    """A latent format through which gradients pass: the numbers some keep as tensors were made in inference mode, as the MODEL was."""
    ordinary = copy.copy(latent_format)
    for name, value in vars(latent_format).items():
        if isinstance(value, Tensor):
            setattr(ordinary, name, value.clone())
    return ordinary


@contextmanager
def _told_as_conditioning(model: str, *texts: Any) -> Iterator[None]:
    """Core does not compare a text encoder's output with its models: where a network fails on it, the error names sizes of matrices."""
    try:
        yield
    except mm.OOM_EXCEPTION:
        raise
    except (RuntimeError, KeyError, TypeError, AttributeError, AssertionError) as error:
        if "memory" in str(error):
            raise
        given, why = " and ".join(dict.fromkeys(map(_described, texts))), f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"The MODEL ({model}) cannot compute with this conditioning, {given} ({why}). Make positive and negative with the CLIP that "
            "belongs to this MODEL, by the nodes with which it is sampled."
        ) from error


def _described(conditioning: Any) -> str:
    if not conditioning:
        return "nothing"
    tokens, options, *_ = conditioning[0]
    pooled = options.get("pooled_output")
    return f"tokens of {tokens.shape[-1]} numbers with {'no' if pooled is None else f'a pooled one of {pooled.shape[-1]}'}"


def view_words(cameras: Cameras) -> list[str]:
    """For each view "overhead" (above 60 degrees), "front" (within 45 of the reference's azimuth), "back" (beyond 135) or "side"."""
    polar, azimuth, _ = relative_pose(cameras.c2w)
    words = []
    for elevation, turn in zip((-torch.rad2deg(polar)).tolist(), torch.rad2deg(azimuth).abs().tolist(), strict=True):
        if elevation > OVERHEAD:
            words.append("overhead")
        else:
            words.append("front" if turn < FRONT else "back" if turn > BACK else "side")
    return words
