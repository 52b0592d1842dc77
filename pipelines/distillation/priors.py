"""What tells a loop how its renders should look from everywhere: priors, their combination, and score distillation.

Score distillation (DreamFusion, arXiv 2209.14988; Magic123, arXiv 2306.17843, equations 5 and 6) noises a render, lets a diffusion model
guess what is behind the noise, and pulls the render towards the guess: the gradient is w(t) (predicted noise - noise), without the
derivative of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.cameras import Cameras
from .prior_settings import WEIGHTINGS, SdsSettings

STAGES = ("coarse", "fine")
SQUEEZE = 0.05  # by how much a render may be out of proportion


@dataclass(frozen=True)
class Guidance:
    """What a prior says about V renders.

    Attributes:
        gradient: (V, 3, H, W), d loss / d images, detached, on the images' device; the loss is a mean over the views. The weight of the
            prior's own preset and w(t) are in it, a combination's weights are not. The loop calls `(gradient * images).sum().backward()`.
            NaN or infinite where the network's answer was: see `finite`.
        loss: one number for curves.
        guess: (V, 3, h, w) in [0, 1], what the network sees behind the noise; None where there is no picture of it.
    """

    gradient: Tensor
    loss: float
    guess: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether every number of the gradient is one. A loop skips a step whose gradient is not, and counts it."""
        return bool(torch.isfinite(self.gradient).all())


class Prior(Protocol):
    """Something that knows how an asset should look.

    Two optional members are read by the functions below: `required_cameras: Cameras | None`, the only cameras it can judge views of, and
    `at_stage(stage) -> Prior`, the same prior with the weights of "coarse" or "fine".
    """

    def guide(self, images: Tensor, cameras: Cameras, progress: float, generator: torch.Generator) -> Guidance:
        """Judges renders. `images` need no gradient and are not changed.

        Args:
            images: (V, 3, H, W) in [0, 1], renders of one asset on a plain background.
            cameras: the V cameras that rendered them; azimuth 0 shows the asset from where the reference picture does.
            progress: how much of the loop is done, 0 to 1.
            generator: on the CPU; all that is random is drawn from it.

        Raises:
            ValueError: views or cameras that this prior cannot judge.
        """
        ...


def required_cameras(prior: Prior) -> Cameras | None:
    """The only cameras this prior can judge views of (a loop renders from all of them), or None: any cameras are welcome."""
    found: Cameras | None = getattr(prior, "required_cameras", None)
    return found


def at_stage(prior: Prior, stage: str) -> Prior:
    """The prior with the weights, times and guidance its preset has for "coarse" or "fine"; priors that know no stages stay themselves.

    Raises:
        ValueError: no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"A prior has the stages {' and '.join(STAGES)}, not {stage!r}.")
    change = getattr(prior, "at_stage", None)
    return prior if change is None else change(stage)


# ---- combination -----------------------------------------------------------------------------------------------------


class _Combined:
    """Weighted sum of priors."""

    def __init__(self, parts: Sequence[tuple[Prior, float]]) -> None:
        self.parts = list(parts)
        wanted = [cameras for prior, _ in self.parts if (cameras := required_cameras(prior)) is not None]
        if any(not _same_cameras(wanted[0], other) for other in wanted[1:]):
            raise ValueError("Two of the combined priors judge views from different fixed cameras only: combine at most one such prior.")
        self.required_cameras = wanted[0] if wanted else None

    def at_stage(self, stage: str) -> Prior:
        return _Combined([(at_stage(prior, stage), weight) for prior, weight in self.parts])

    def guide(self, images: Tensor, cameras: Cameras, progress: float, generator: torch.Generator) -> Guidance:
        gradient, loss, guess = torch.zeros_like(images), 0.0, None
        heaviest = max(weight for _, weight in self.parts)
        for prior, weight in self.parts:
            told = prior.guide(images, cameras, progress, generator)
            gradient = gradient + weight * told.gradient
            loss += weight * told.loss
            if weight == heaviest and guess is None:
                guess = told.guess
        return Guidance(gradient.detach(), loss, guess)


def combine(priors: Sequence[tuple[Prior, float]]) -> Prior:
    """One prior from several and their weights: gradients and losses are summed, the guess is the heaviest one's (Magic123, equation 7).

    Priors of weight 0 are left out, unless all are.

    Raises:
        ValueError: no prior, a weight that is negative or no number, priors that require different cameras.
    """
    if not priors:
        raise ValueError("There is no prior to combine.")
    if any(not 0 <= weight < float("inf") for _, weight in priors):
        raise ValueError(f"Weights of priors are numbers of at least 0, not {', '.join(str(weight) for _, weight in priors)}.")
    return _Combined([part for part in priors if part[1] > 0] or priors[:1])


def trade(imagination: float) -> tuple[float, float]:
    """Weights of the 2D and of the 3D prior for one slider from 0 (3D alone) over 0.5 (both in full) to 1 (2D alone).

    Up to the middle this is Magic123's lambda_2D/3D, from 0 to its 1 (equation 8); beyond, the 3D prior is weakened.

    Raises:
        ValueError: a slider outside [0, 1].
    """
    if not 0 <= imagination <= 1:
        raise ValueError(f"The slider between the priors runs from 0 to 1, not to {imagination}.")
    return min(1.0, 2 * imagination), min(1.0, 2 * (1 - imagination))


def _same_cameras(one: Cameras, other: Cameras) -> bool:
    return one.c2w.shape == other.c2w.shape and torch.allclose(one.c2w, other.c2w, atol=1e-4) and torch.allclose(one.K, other.K, atol=1e-4)


# ---- score distillation ----------------------------------------------------------------------------------------------


class Denoiser(Protocol):
    """A diffusion model as score distillation asks it. Latents may be pictures themselves (`encode` then is the identity).

    Attributes:
        size: (height, width) the renders are resized to before `encode`.
        one_time: whether all views must be noised to the same level, because they are denoised together.
    """

    size: tuple[int, int]
    one_time: bool

    def encode(self, images: Tensor) -> Tensor:
        """(V, 3, height, width) in [0, 1] -> latents (N, C, h, w), differentiable. N is V unless several views share one latent."""
        ...

    def noise_ratio(self, times: Tensor) -> Tensor:
        """(N,) times in (0, 1) -> (N,) float32, the standard deviation of the noise over that of the signal: sqrt((1 - abar) / abar)."""
        ...

    def denoised(self, latents: Tensor, times: Tensor, noise: Tensor, cameras: Cameras, guidance: float | None) -> Tensor:
        """The clean latents the model guesses when `latents` (N, C, h, w) are noised to `times` (N,) with `noise`, standard normal.

        `guidance` is ordinary classifier-free guidance; None takes the model's own.
        """
        ...

    def picture(self, latents: Tensor) -> Tensor | None:
        """A small cheap picture of clean latents, (V, 3, h', w') in [0, 1]; None where there is none."""
        ...


def time_weight(weighting: str, ratio: Tensor) -> Tensor:
    """w(t) from the noise ratio sqrt((1 - abar) / abar): one of `WEIGHTINGS`."""
    kept = 1 / (1 + ratio**2)
    if weighting == "one_minus_alpha_bar":
        return 1 - kept
    if weighting == "one_minus_sqrt_alpha_bar":
        return 1 - kept.sqrt()
    if weighting == "one":
        return torch.ones_like(kept)
    raise ValueError(f"There is no weighting {weighting!r} of noise levels; choose one of {', '.join(WEIGHTINGS)}.")


def sds_gradient(clean: Tensor, denoised: Tensor, ratio: Tensor, weight: Tensor) -> Tensor:
    """w(t) (predicted noise - noise), from what a model guesses behind the noise.

    With x = a (clean + ratio * noise), whatever a is, and the guess D: (clean - D) / ratio is the predicted noise minus the noise,
    for networks that predict noise, v or a flow alike.

    Args:
        clean, denoised: (N, C, h, w).  ratio, weight: (N,).
    """
    shape = (-1, *[1] * (clean.ndim - 1))
    return (weight / ratio).view(shape).to(clean) * (clean - denoised)


class ScoreDistillation:
    """The prior of a diffusion model.

    Args:
        model: the diffusion model.
        stages: settings by stage; a stage that is missing has those of the other.
        stage: whose settings are in force.
        required_cameras: the only cameras it can judge views of; None for any.
        elevation: of the reference picture, degrees; its azimuth is 0.
    """

    def __init__(
        self,
        model: Denoiser,
        stages: Mapping[str, SdsSettings],
        stage: str = "coarse",
        *,
        required_cameras: Cameras | None = None,
        elevation: float = 0.0,
    ) -> None:
        self.model, self.stages, self.required_cameras, self.elevation = model, dict(stages), required_cameras, elevation
        self.settings = self.stages[stage] if stage in self.stages else next(iter(self.stages.values()))

    def at_stage(self, stage: str) -> Prior:
        """The same with another stage's settings."""
        return ScoreDistillation(self.model, self.stages, stage, required_cameras=self.required_cameras, elevation=self.elevation)

    def guide(self, images: Tensor, cameras: Cameras, progress: float, generator: torch.Generator) -> Guidance:
        """See `Prior.guide`."""
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != cameras.n_views or cameras.n_assets is not None:
            raise ValueError(f"A prior judges the views of one asset: {cameras.n_views} cameras do not fit {tuple(images.shape)}.")
        wanted = self.required_cameras
        if wanted is not None and not _same_cameras(wanted, cameras):
            raise ValueError(f"This prior judges only the {wanted.n_views} views of its own cameras ({', '.join(wanted.names)}).")
        settings = self.settings
        with torch.inference_mode(False), torch.enable_grad():
            pixels = images.detach().clone().float().requires_grad_()
            latents = self.model.encode(resized(pixels, self._fitting(images)))
            with torch.no_grad():
                clean = latents.detach()
                times = settings.draw_times(1 if self.model.one_time else len(clean), progress, generator).expand(len(clean))
                noise = torch.randn(clean.shape, generator=generator).to(clean)
                denoised = self.model.denoised(clean, times, noise, cameras, settings.guidance)
                if denoised.shape != clean.shape:
                    raise ValueError(f"The model answered latents of shape {tuple(clean.shape)} with {tuple(denoised.shape)}.")
                ratio = self.model.noise_ratio(times).to(clean)
                weight = time_weight(settings.weighting, ratio) * settings.weight * self._by_view(cameras).to(clean)
                residual = sds_gradient(clean, denoised.to(clean), ratio, torch.ones_like(ratio))
                loss = float((weight * residual.flatten(1).square().mean(1)).mean())
                towards = weight.view(-1, 1, 1, 1) * residual / len(images)
                guess = self.model.picture(denoised)
            (gradient,) = torch.autograd.grad(latents, pixels, towards)
        return Guidance(gradient.detach().to(images.dtype), loss, None if guess is None else guess.detach().clamp(0, 1).float().cpu())

    def _fitting(self, images: Tensor) -> tuple[int, int]:
        (height, width), (wanted_height, wanted_width) = images.shape[-2:], self.model.size
        if abs(height * wanted_width / (width * wanted_height) - 1) > SQUEEZE:
            raise ValueError(
                f"Renders of {width}x{height} pixels do not fit this prior, which works on {wanted_width}x{wanted_height}: they would be "
                "squeezed. Render views of the same proportions; square ones fit every prior here."
            )
        return self.model.size

    def _by_view(self, cameras: Cameras) -> Tensor:
        """(V,) or (1,): how much each view counts. By angle, views near the reference, which is known already, count little."""
        if not self.settings.by_angle:
            return torch.ones(1)
        eyes = torch.nn.functional.normalize(cameras.c2w[:, :3, 3], dim=-1)
        height = math.radians(self.elevation)
        front = torch.tensor([0.0, math.sin(height), math.cos(height)])
        return torch.acos((eyes @ front).clamp(-1, 1)) / torch.pi


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(V, 3, H, W) at another size; bilinear as Magic123 (section 2.2), averaging where it shrinks."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
