"""The loop between splats and diffusion (IM-3D, arXiv 2402.08682, section 3.4 and appendix A.1).

Views that no solid can show at once leave their disagreement in the fitted asset, as blur and doubled parts. Its renders agree with
each other by construction: noised part of the way and denoised, they become likely pictures again and stay nearly consistent, and the
fit goes on with them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..data.progress import Tick, no_tick
from ..data.views import on_background
from ..fitting.perceptual import Perceptual
from ..images import foreground
from ..ops.losses import fitting_size, resize_area
from ..plots.loss_curve import loss_curve
from ..rendering.splats import render_splats
from .fit import SplatFit

log = logging.getLogger(__name__)

FROM_RENDER = "render"
MASKS = (FROM_RENDER, *foreground.METHODS[:2])
WHOLE = 1000  # parts a round is divided into for progress
DENOISING = 250  # of them


class Redenoise(Protocol):
    """A generator that noises views to a level and denoises them."""

    def __call__(self, images: Tensor, masks: Tensor, cameras: Cameras, level: float, seed: int, tick: Tick) -> Tensor:
        """(V, 3, H, W) in [0, 1] and (V, 1, H, W), 1 = object, of one asset -> pictures (V, 3, H, W) in [0, 1] on the CPU.

        `level` lies in (0, 1]: 1 is pure noise.
        """
        ...


class RenoiseLoop:
    """Rounds of rendering, noising, denoising and fitting. Whatever interrupts it, `fit` and the targets stay usable.

    Args:
        fit: of one asset, to views at `cameras`.
        images, masks: what it was fitted to, (V, 3, H, W) and (V, 1, H, W); None for no masks.
        cameras: V views of one asset.
        redenoise: the generator.
        perceptual: measures how far the views and the asset are apart.
        mask_method: how the new views are masked: "render" takes the render's opacity, others as in `images.foreground.mask_views`.

    Attributes:
        images, masks: the targets the fit works on now.
        disagreements: steps of the fit and perceptual distances between the targets and the asset, two for each round: before and after.
    """

    def __init__(
        self,
        fit: SplatFit,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        redenoise: Redenoise,
        perceptual: Perceptual,
        *,
        mask_method: str = FROM_RENDER,
    ) -> None:
        if mask_method not in MASKS:
            raise ValueError(f"New views are masked by {', '.join(MASKS)}, not by {mask_method!r}.")
        self.fit, self.images, self.masks, self.cameras = fit, images, masks, cameras
        self.redenoise, self.perceptual, self.mask_method = redenoise, perceptual, mask_method
        self.disagreements: list[tuple[int, float]] = []

    def round(self, level: float, iterations: int, seed: int, tick: Tick = no_tick) -> tuple[float, float]:
        """One round: the asset's renders noised to `level` and denoised become the targets of `iterations` more steps of the fit.

        Returns the perceptual distance between the targets and the asset, before and after.
        """
        height, width = self.images.shape[2:]
        background, device = self.fit.settings.background, self.fit.device
        with torch.no_grad():
            seen = render_splats(self.fit.splats(), self.cameras, height, width, background=background, device=device)
            before = self._measure(seen.images)
            likelier = self.redenoise(seen.images, seen.masks, self.cameras, level, seed, _stretched(tick, 0, DENOISING))
            if likelier.shape != seen.images.shape:
                raise ValueError(f"The generator made views of shape {tuple(likelier.shape)} from {tuple(seen.images.shape)}.")
        self.images, self.masks = likelier, remask(likelier, seen.masks, self.mask_method)
        self.fit.retarget(self.images, self.masks)
        self.fit.run(iterations, _stretched(tick, DENOISING, WHOLE))
        with torch.no_grad():
            seen = render_splats(self.fit.splats(), self.cameras, height, width, background=background, device=device)
            after = self._measure(seen.images)
        log.info(
            "Re-noise: perceptual distance (%s) between views and asset %.4f before the round, %.4f after.",
            self.perceptual.name, before, after,
        )  # fmt: skip
        return before, after

    def curve(self) -> Tensor:
        """(3, h, w), the loss curve of all rounds, with the distance between views and asset at their ends."""
        steps: list[dict[str, float]] = [dict(step) for step in self.fit.losses]
        for step, value in self.disagreements:
            if 0 < step <= len(steps):
                steps[step - 1]["views / asset"] = value
        return loss_curve(steps, title="Re-noise Refine: losses before their weights")

    def _measure(self, renders: Tensor) -> float:
        found = disagreement(self.perceptual, self.images, self.masks, renders, self.fit.settings.background)
        self.disagreements.append((max(self.fit.steps_done, 1), found))
        return found


def disagreement(
    perceptual: Perceptual,
    images: Tensor,
    masks: Tensor | None,
    renders: Tensor,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    longest: int = 256,
) -> float:
    """Mean perceptual distance between views, outside their masks laid on the background, and renders of the asset fitted to them.

    Args:
        images, renders: (V, 3, H, W) in [0, 1].  masks: (V, 1, H, W), 1 = object, or None.
        longest: larger pictures are compared at this longest side, pixels.
    """
    images = on_background(images, masks, background)
    size = fitting_size(images.shape[2], images.shape[3], longest)
    device = next(perceptual.net.parameters()).device
    with torch.no_grad():
        pairs = ((resize_area(x[v : v + 1].to(device), *size) for x in (images, renders)) for v in range(len(images)))
        return sum(float(perceptual.between(*(perceptual.embed(one) for one in pair))) for pair in pairs) / len(images)


def remask(images: Tensor, opacities: Tensor, method: str) -> Tensor:
    """Masks (V, 1, H, W) of views that came out of a generator, whose renders had these opacities.

    By "render" they are the opacities themselves: below pure noise a generator moves an outline by little, and image models paint a
    ground or a shadow that is not to be fitted. Other methods find the outline anew, view by view; where one finds nothing, the
    render's serves.
    """
    if method == FROM_RENDER:
        return opacities.clone()
    masks, missed = opacities.clone(), []
    for view in range(len(images)):
        try:
            masks[view] = foreground.mask_views(images[view : view + 1], method)[0]
        except ValueError:
            missed.append(view)
    if missed:
        log.warning("Re-noise: no outline was found in the views %s; the render's serves there.", ", ".join(map(str, missed)))
    return masks


def _stretched(tick: Tick, first: int, last: int) -> Tick:
    """A stage's own progress as the parts from `first` to `last` of the whole."""

    def stretched(step: int, total: int, preview: Tensor | None = None) -> None:
        tick(first + (last - first) * step // max(total, 1), WHOLE, preview)

    return stretched
