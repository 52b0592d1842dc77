"""ComfyUI's own MODEL, CONDITIONING and VAE as a generator that noises views to a level and denoises them again.

Everything of core runs inside inference mode and under its memory management; what comes back are ordinary tensors, which a fit may
differentiate.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...pipelines.data.cameras import Cameras
from ...pipelines.data.progress import Tick
from ...pipelines.view_generation.model import turned_apart

SAMPLER = "dpmpp_2m"  # the DPM-Solver++ of the paper, its multistep form of order 2
ROOM = 0.8  # of the device's memory beside the model that a batch may take
AZIMUTHS_AGREE = 3.0  # degrees

log = logging.getLogger(__name__)


class CoreRenoise:
    """Noises views to a level and denoises them with a core model (a `Redenoise` of pipelines/splats/renoise.py).

    Args:
        model, positive, negative, vae: what the sockets carry; the MODEL with its LoRAs and other patches.
        cfg: guidance.
        steps: of the sampler, from the level down to nothing.

    Raises:
        ValueError: a model or VAE of video latents, which have no picture for each view.
    """

    def __init__(self, model: Any, positive: Any, negative: Any, vae: Any, *, cfg: float, steps: int) -> None:
        latents = model.get_model_object("latent_format")
        if getattr(latents, "latent_dimensions", 2) != 2 or getattr(vae, "latent_dim", 2) != 2:
            raise ValueError(
                "This MODEL or VAE works on latents that mix several frames or are no pictures, so single views cannot be noised: "
                "take an image model (SD 1.5, SDXL, SD 3, Flux), or SV3D or SVD with their own VAE."
            )
        self.model, self.vae, self.cfg, self.steps = model, vae, cfg, steps
        self.positive, self.negative = positive, negative
        self.channels = int(latents.latent_channels)

    @property
    def is_video(self) -> bool:
        """Whether all views must be denoised together: SVD and SV3D take the whole batch for one film."""
        return isinstance(self.model.model, comfy.model_base.SVD_img2vid)

    def __call__(self, images: Tensor, masks: Tensor, cameras: Cameras, level: float, seed: int, tick: Tick) -> Tensor:
        """(V, 3, H, W) in [0, 1] -> the same shape on the CPU. The masks are not needed.

        Raises:
            ValueError: conditioning of another number of frames, a VAE of another model.
        """
        for name, conditioning in (("positive", self.positive), ("negative", self.negative)):
            check_frames(conditioning, len(images), name)
        if isinstance(self.model.model, comfy.model_base.SV3D_p):
            _warn_of_other_azimuths(self.positive, cameras)
        with torch.inference_mode():
            small = _whole_cells(images, int(self.vae.spacial_compression_encode()))
            clean = self.vae.encode(small.movedim(1, -1))
            if clean.ndim != 4 or clean.shape[1] != self.channels:
                raise ValueError(
                    f"The VAE makes latents of shape {tuple(clean.shape[1:])}, the model works on {self.channels} channels: "
                    "wire the VAE that belongs to this model."
                )
            sigmas = sigmas_from(self.model.get_model_object("model_sampling"), level, self.steps)
            log.info("Re-noise: level %g is sigma %.3g; %d steps of %s.", level, float(sigmas[0]), len(sigmas) - 1, SAMPLER)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
            pictures = self.vae.decode(self._denoised(clean, noise, sigmas, seed, tick))[..., :3].movedim(-1, 1)
            pictures = _resized(pictures.to("cpu", torch.float32), images.shape[-2:]).clamp(0, 1)
        return pictures.clone()  # outside inference mode: an ordinary tensor

    def _denoised(self, clean: Tensor, noise: Tensor, sigmas: Tensor, seed: int, tick: Tick) -> Tensor:
        size, steps = self._at_once(clean.shape), len(sigmas) - 1
        show = _previewer(self.model)
        parts = []
        for start in range(0, len(clean), size):

            def callback(step: int, estimate: Tensor, noised: Tensor, total: int, start: int = start) -> None:
                done = start * steps + (step + 1) * min(size, len(clean) - start)
                tick(done, len(clean) * steps, show(estimate))

            parts.append(
                comfy.sample.sample_custom(
                    self.model, noise[start : start + size], self.cfg, comfy.samplers.sampler_object(SAMPLER), sigmas, self.positive,
                    self.negative, clean[start : start + size], callback=callback, disable_pbar=True, seed=seed,
                )
            )  # fmt: skip
        return torch.cat(parts)

    def _at_once(self, shape: torch.Size) -> int:
        if self.is_video or differs_by_view(self.positive) or differs_by_view(self.negative):
            return shape[0]
        return views_at_once(self.model, shape)


def views_at_once(model: Any, shape: torch.Size) -> int:
    """How many of a batch of single pictures are denoised together: all, unless memory is short. Core never splits a batch."""
    device = model.load_device
    room = ROOM * mm.get_total_memory(device) - model.model_size()
    room = max(room, mm.get_free_memory(device))
    views = shape[0]
    while views > 1 and model.memory_required([views, *shape[1:]]) > room:
        views = math.ceil(views / 2)
    return views


def sigmas_from(sampling: Any, level: float, steps: int) -> Tensor:
    """(steps + 1,) sigmas from `level` of a model's schedule down to 0, even in its time; fewer where it has fewer.

    Time is the index of the table for models with one (SD 1.5, SDXL) and the flow's time (SD 3, Flux). Models of continuous sigmas (SVD,
    SV3D) get the noise's share sigma / (1 + sigma), which is a flow's time as well, so that a level means about the same everywhere:
    on the logarithmic scale of their own, 0.3 would be a sigma of 0.09, and nothing would change.

    Raises:
        ValueError: a level outside (0, 1], no step.
    """
    if not 0 < level <= 1:
        raise ValueError(f"The noise level must lie above 0 and be at most 1 (pure noise), not {level}.")
    if steps < 1:
        raise ValueError(f"Denoising takes at least 1 step, not {steps}.")
    found = [sigma_at(sampling, level * (1 - i / steps)) for i in range(steps)]
    return torch.tensor([*dict.fromkeys(found), 0.0])


def sigma_at(sampling: Any, time: float) -> float:
    """The sigma of a model's schedule at a time in (0, 1], 1 = pure noise; see `sigmas_from`."""
    if hasattr(sampling, "num_timesteps"):
        return float(sampling.sigmas[round(time * (len(sampling.sigmas) - 1))])
    if float(sampling.sigma_max) <= 1:
        return min(float(sampling.percent_to_sigma(1 - time)), float(sampling.sigma_max))
    least, most = float(sampling.sigma_min), float(sampling.sigma_max)
    return most if time == 1 else min(max(time / (1 - time), least), most)


def check_frames(conditioning: Any, views: int, name: str) -> None:
    """Refuses conditioning made for another number of frames, which core would stretch or cut to length without a word.

    Raises:
        ValueError: what is of another length, and how long it should be.
    """
    for tokens, options, *_ in conditioning:
        found = {"tokens": tokens, **{key: options.get(key) for key in ("concat_latent_image", "pooled_output", "azimuth", "elevation")}}
        lengths = {what: len(value) for what, value in found.items() if isinstance(value, (Tensor, list, tuple))}
        for what, length in lengths.items():
            if length not in (1, views):
                raise ValueError(
                    f"The {name} conditioning is for {length} frames ({what}), but there are {views} views. Set video_frames of the "
                    f"conditioning node to {views}, or take cameras and images of {length} views."
                )


def differs_by_view(conditioning: Any) -> bool:
    """Whether parts of a batch cannot be denoised apart: something in the conditioning belongs to the view of its index."""
    return any(
        "control" in options or any(isinstance(v, Tensor) and v.ndim > 1 and len(v) > 1 for v in (tokens, *options.values()))
        for tokens, options, *_ in conditioning
    )


def _warn_of_other_azimuths(conditioning: Any, cameras: Cameras) -> None:
    """SV3D_p draws the azimuths of its conditioning: views from elsewhere would be mended into something else."""
    for _, options, *_ in conditioning:
        azimuths = options.get("azimuth")
        if not isinstance(azimuths, (list, tuple)) or len(azimuths) != cameras.n_views:
            continue
        apart = turned_apart(cameras, [float(azimuth) for azimuth in azimuths])
        if apart > AZIMUTHS_AGREE:
            log.warning(
                "Re-noise: the conditioning's azimuths differ from the cameras' by up to %.0f degrees. For core's SV3D conditioning "
                "take the cameras of the preset sv3d_p_core.", apart,
            )  # fmt: skip


def _whole_cells(images: Tensor, cell: int) -> Tensor:
    """Pictures at the next size that the VAE's cells fill: it would crop them, and cropped views no longer fit their cameras."""
    height, width = (-(-side // cell) * cell for side in images.shape[-2:])
    return _resized(images, (height, width)).clamp(0, 1)


def _resized(images: Tensor, size: Any) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return torch.nn.functional.interpolate(images, tuple(size), mode="bicubic", antialias=True)


def _previewer(model: Any) -> Any:
    """Core's preview of the first view, (H, W, 3) in [0, 1]; None each time where previews are switched off."""
    import latent_preview
    import numpy as np

    found = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def show(estimate: Tensor) -> Tensor | None:
        picture = None if found is None else found.decode_latent_to_preview(estimate[:1])
        return None if picture is None else torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)

    return show
