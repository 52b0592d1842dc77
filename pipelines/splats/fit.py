"""Views to Gaussians: the fit of IM-3D (arXiv 2402.08682, section 3.3), by losses that compare whole pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..data.progress import Tick, no_tick, part_of
from ..data.splats import Splats
from ..data.views import SOLID, asset_views, count_assets, on_background
from ..fitting.failed_steps import MOST_BAD_STEPS, FitBroken
from ..fitting.perceptual import Perceptual, load_perceptual
from ..fitting.targets import VIEWS_AT_ONCE, Targets
from ..images import sheets
from ..ops.splat_raster.dispatch import Rendered, render_gaussians, splat_cameras
from ..plots.loss_curve import loss_curve
from ..rendering.splats import render_splats
from .density_control import Densify, EveryGaussianPruned
from .fit_settings import FitSettings
from .parameters import SplatParameters
from .start import start_at_centre, start_from_hull

log = logging.getLogger(__name__)

STAGE = "Fit Splats"
PREVIEW_EVERY = 10  # steps
SHOWN_VIEWS = 4  # in the preview of a result


@dataclass(frozen=True)
class SplatFitResult:
    """One fitted asset.

    Attributes:
        splats: the Gaussians, faint ones pruned, on the CPU.
        preview: (3, H, W), a few of the views above what the Gaussians look like from there.
        curve: (3, h, w), the loss curve.
    """

    splats: Splats
    preview: Tensor
    curve: Tensor


class SplatFit:
    """A fit that goes on step by step; whatever interrupts it, the state after the last good step stays.

    Args:
        images: (V, 3, H, W) in [0, 1], the object before `settings.background`.
        masks: (V, 1, H, W), 1 = object, or None, which leaves the mask loss out. Views with an empty mask are left out.
        cameras: V views of one asset.
        start: the Gaussians to begin with.
        seed: the same seed gives the same Gaussians, bit for bit on one CPU thread.
        perceptual: the network of the perceptual loss; None takes the bundled one, where that loss has a weight.

    Raises:
        ValueError: views, masks and cameras that do not belong together, NaN, all masks empty, no Gaussians.

    Attributes:
        losses: one mapping a step, every term before its weight, and "total".
        skipped: steps that changed nothing because their numbers were not finite.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        *,
        start: Splats,
        settings: FitSettings,
        seed: int = 0,
        device: torch.device | str = "cpu",
        perceptual: Perceptual | None = None,
    ) -> None:
        if len(start) == 0:
            raise ValueError("A fit cannot start from no Gaussians at all.")
        self.settings, self.device = settings, torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        if settings.weights.perceptual and perceptual is None:
            perceptual = load_perceptual(device=device)
        self._perceptual, self._cameras = perceptual, cameras
        self._background = torch.tensor(settings.background, device=self.device)
        self.retarget(images, masks)
        self.parameters = SplatParameters(start, settings.sh_degree, settings.rates, self.device)
        self.densify = Densify(settings.densify)
        self._density = self.densify.start(len(start), self.device)
        self.losses: list[dict[str, float]] = []
        self.skipped = self._bad_in_a_row = 0
        self._picture: Tensor | None = None

    @property
    def steps_done(self) -> int:
        """Steps made so far, the skipped ones included."""
        return len(self.losses)

    def retarget(self, images: Tensor, masks: Tensor | None) -> None:
        """Other pictures of the same cameras from now on; Gaussians and optimiser stay as they are.

        Raises:
            ValueError: as at the beginning.
        """
        self._targets = Targets(images, masks, self._cameras, self.settings, self._perceptual, self.generator, self.device, STAGE)
        viewmats, Ks = splat_cameras(self._targets.cameras, self._targets.height, self._targets.width)
        self._viewmats, self._Ks = viewmats.to(self.device), Ks.to(self.device)

    def run(self, steps: int, tick: Tick = no_tick) -> None:
        """That many more steps. A tick that raises ends the fit between two steps.

        Raises:
            FitBroken: too many steps in a row were not finite.
            ValueError: pruning would leave nothing.
        """
        for done in range(1, steps + 1):
            self.step()
            tick(done, steps, self.picture() if done % PREVIEW_EVERY == 0 or done == steps else None)

    def step(self) -> dict[str, float]:
        """Compares some views, and moves the Gaussians. Returns this step's losses, which `losses` keeps as well."""
        number = self.steps_done + 1
        views = self._targets.next_views()
        seen, drawn = number % self.settings.perceptual_every == 0, []
        totals: dict[str, float] = {}
        for part in (views[i : i + VIEWS_AT_ONCE] for i in range(0, len(views), VIEWS_AT_ONCE)):
            rendered = self._render(part)
            rendered.means2d.retain_grad()
            terms = self._targets.compare(rendered.color.movedim(-1, 1), rendered.alpha.movedim(-1, 1), part, seen)
            share = len(part) / len(views)
            (terms["total"] * share).backward()
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) * share
            drawn.append(rendered)
        self.losses.append(totals)
        self._remember_picture(drawn[-1], views[-1])
        if math.isfinite(totals["total"]) and self.parameters.gradients_are_finite():
            self._bad_in_a_row = 0
            self._move(number, drawn, len(views))
        else:
            self._skip()
        self.parameters.clear_gradients()
        return totals

    def splats(self) -> Splats:
        """The Gaussians after the last good step, on the CPU."""
        return self.parameters.splats()

    def picture(self) -> Tensor | None:
        """(H, 2W, 3) what the last step drew, beside its target; None before the first."""
        return self._picture

    def result(self) -> SplatFitResult:
        """What the fit gives: faint Gaussians pruned, a few views compared, and the curve.

        Raises:
            EveryGaussianPruned: all are fainter than `settings.final_opacity`.
        """
        splats = self._pruned()
        curve = loss_curve(self.losses, title="Fit Splats: losses before their weights")
        return SplatFitResult(splats, self._comparison(splats), curve)

    def _render(self, views: Sequence[int]) -> Rendered:
        p, targets, rows = self.parameters, self._targets, list(views)
        return render_gaussians(
            p.tensors["positions"], p.tensors["rotations"], p.scales, p.opacities, p.sh, self._viewmats[rows], self._Ks[rows],
            targets.width, targets.height, sh_degree=p.degree, background=self._background, absgrad=self.settings.densify.absolute,
        )  # fmt: skip

    def _move(self, number: int, drawn: Sequence[Rendered], views: int) -> None:
        if self.densify.observes(number):
            for rendered in drawn:
                self.densify.observe(self._density, rendered, self._targets.width, self._targets.height, views)
        self.parameters.step(number / self.settings.steps)
        if self.densify.due(number):
            with torch.no_grad():
                change = self.densify.change(self._density, self.parameters.scales, self.parameters.opacities)
            self.parameters.apply(change, self.generator)
            self._density = self.densify.start(len(self.parameters), self.device)
        if self.densify.resets(number):
            self.parameters.lower_opacities(self.settings.densify.reset_to)

    def _skip(self) -> None:
        self.skipped += 1
        self._bad_in_a_row += 1
        if self.skipped == 1:
            log.warning("Fit Splats: a step's losses or gradients were not finite; it is skipped, and so are others like it.")
        if self._bad_in_a_row >= MOST_BAD_STEPS:
            raise FitBroken(
                f"{self._bad_in_a_row} steps in a row gave numbers that are not finite, so the fit stopped at step {self.steps_done}. "
                "Lower the weights of the losses, or start from other Gaussians."
            )

    def _remember_picture(self, rendered: Rendered, view: int) -> None:
        pair = [rendered.color[-1].detach(), self._targets.images[view].movedim(0, -1)]
        self._picture = torch.cat(pair, dim=1).clamp(0, 1)

    def _pruned(self) -> Splats:
        splats, least = self.splats(), self.settings.final_opacity
        visible = splats.opacities >= least
        if not bool(visible.any()):
            raise EveryGaussianPruned(
                f"Every Gaussian faded below an opacity of {least:g}: nothing is left of the asset. Check that the masks show the object "
                "in white, that the cameras belong to these views, and that the background colour is not the object's."
            )
        return splats.select(visible)

    def _comparison(self, splats: Splats) -> Tensor:
        targets, columns = self._targets, min(SHOWN_VIEWS, self._cameras.n_views)
        shown = [i * len(targets) // columns for i in range(columns)]
        cameras, background = targets.cameras.select(shown), self.settings.background
        with torch.no_grad():
            drawn = render_splats(splats, cameras, targets.height, targets.width, background=background, device=self.device).images
        return sheets.tile(torch.cat([targets.images[shown].cpu(), drawn]), columns)[0]


def asset_fits(
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    start: Sequence[Splats] | Splats | None = None,
    settings: FitSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: Perceptual | None = None,
    tick: Tick = no_tick,
) -> Iterator[SplatFit]:
    """A fit for each asset of a batch, none of its steps made yet; each is built when it is asked for.

    Args: as for `fit_splats`, but `tick` is called only while a start is made.
    """
    assets = asset_views(images, masks, cameras, STAGE)
    starts = [start] * len(assets) if start is None or isinstance(start, Splats) else list(start)
    if len(starts) != len(assets):
        raise ValueError(f"Fit Splats: the views show {len(assets)} assets, but there are {len(starts)} to start from.")
    for index, (own, given) in enumerate(zip(assets, starts, strict=True)):
        first = default_start(*own, settings, seed, part_of(tick, index, len(assets))) if given is None else given
        yield SplatFit(*own, start=first, settings=settings, seed=seed, device=device, perceptual=perceptual)


def default_start(images: Tensor, masks: Tensor | None, cameras: Cameras, settings: FitSettings, seed: int, tick: Tick = no_tick) -> Splats:
    """What the settings start from: the visual hull where they say so and there are masks of two views or more, else the centre."""
    if settings.start == "hull" and masks is not None and int((masks.flatten(1).amax(1) > SOLID).sum()) > 1:
        shown = on_background(images, masks, settings.background).float()
        return start_from_hull(shown, masks.float(), cameras, settings.points, seed, tick=tick)
    return start_at_centre(settings.points, seed)


def fit_splats(
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    start: Sequence[Splats] | Splats | None = None,
    settings: FitSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: Perceptual | None = None,
    tick: Tick = no_tick,
) -> list[SplatFitResult]:
    """Fits Gaussians to the views of each asset.

    Args:
        images: (B*V, 3, H, W) in [0, 1], asset-major.
        masks: (B*V, 1, H, W), 1 = object, or None.
        cameras: V views.
        start: one for each asset, one for all, or None for what the settings say.
        settings: for instance `load_fit_preset("fast")`.
        seed: the same for every asset: a batch gives what single runs give.
        tick: called while a start is made, and after each step; each tenth has a preview.

    Raises:
        ValueError: as `SplatFit`, and where everything was pruned.
        FitBroken: too many steps in a row were not finite.
    """
    assets = count_assets(len(images), cameras, "views")
    results = []
    fits = asset_fits(images, masks, cameras, start=start, settings=settings, seed=seed, device=device, perceptual=perceptual, tick=tick)
    for index, fit in enumerate(fits):
        fit.run(settings.steps, part_of(tick, index, assets))
        results.append(fit.result())
    return results


def with_changes(settings: FitSettings, *, weights: dict[str, float] | None = None, **changes: Any) -> FitSettings:
    """The settings with other numbers. `weights` changes some of the losses' weights; with other `steps` the time in which density
    changes is stretched, too."""
    factor = changes.get("steps", settings.steps) / settings.steps
    changes.setdefault("densify", replace(settings.densify, last=round(settings.densify.last * factor)))
    return replace(settings, weights=replace(settings.weights, **(weights or {})), **changes)
