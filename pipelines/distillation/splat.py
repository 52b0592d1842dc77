"""A picture and priors to Gaussians: Magic123's loop on splats, for speed (after DreamGaussian, arXiv 2309.16653)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..data.splats import Splats
from ..ops.splat_raster.dispatch import Rendered, render_gaussians, splat_cameras
from ..splats.density_control import Densify, EveryGaussianPruned
from ..splats.fit import with_changes
from ..splats.fit_settings import load_fit_preset
from ..splats.parameters import SplatParameters
from ..splats.start import start_at_centre
from .cameras_and_shading import ReferenceView, Shading
from .loop import Distillation, Drawn
from .priors import Prior, at_stage
from .settings import SplatSettings


class DistilSplat(Distillation):
    """The loop on Gaussians. See `Distillation`. Views show plain colours: Gaussians have no surface that light could fall on.

    Args:
        start: the Gaussians to begin with, or None for a faint ball at the centre.

    Raises:
        ValueError: neither picture nor prior, or no Gaussians to start from.
    """

    stage = "Distil Splat"

    def __init__(
        self, start: Splats | None, reference: ReferenceView, prior: Prior | None, settings: SplatSettings, *, seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__(reference, None if prior is None else at_stage(prior, "coarse"), settings, seed, device)
        if start is not None and len(start) == 0:
            raise ValueError(f"{self.stage}: there are no Gaussians to start from.")
        self.fit = with_changes(load_fit_preset(settings.fit), steps=settings.steps)
        first = start_at_centre(settings.points, seed) if start is None else start
        self.splat = SplatParameters(first, self.fit.sh_degree, self.fit.rates, self.device)
        self.grow = settings.grow
        self._density = Densify(self.fit.densify).start(len(first), self.device)
        self._drawn: list[tuple[Rendered, int, int]] = []

    def parameters(self) -> dict[str, Tensor]:
        """Positions, scales, rotations, opacities and colours as they are optimised."""
        return self.splat.tensors

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam."""
        return self.splat.adam

    def before(self, progress: float) -> None:
        """Forgets what the last step drew."""
        self._drawn = []

    def draw(self, cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
        """Splatted."""
        with torch.set_grad_enabled(learning):
            p = self.splat
            viewmats, Ks = (part.to(self.device) for part in splat_cameras(cameras, size, size))
            rendered = render_gaussians(
                p.tensors["positions"], p.tensors["rotations"], p.scales, p.opacities, p.sh, viewmats, Ks, size, size,
                sh_degree=p.degree, background=background,
            )  # fmt: skip
            penalty = None
            if learning:
                rendered.means2d.retain_grad()
                self._drawn.append((rendered, size, cameras.n_views))
                if self.settings.weights.scale:
                    penalty = self.settings.weights.scale * p.scales.square().mean()
            images, alphas, depths = (part.movedim(-1, 1) for part in (rendered.color, rendered.alpha, rendered.depth))
            return Drawn(images, alphas, depths, None, penalty)

    def move(self, number: int, progress: float) -> None:
        """Adam's step, and now and then Gaussians that come and go."""
        density = Densify(self.fit.densify)
        if density.observes(number):
            for rendered, size, views in self._drawn:
                density.observe(self._density, rendered, size, size, views)
        self.splat.step(progress)
        if not density.due(number):
            return
        seen = self._density["seen"] > 0
        pull = self._density["gradient"] / self._density["seen"].clamp_min(1)
        threshold = float(torch.quantile(pull[seen][: 1 << 20], 1 - self.grow)) if bool(seen.any()) else float("inf")
        with torch.no_grad():
            change = Densify(replace(self.fit.densify, gradient=threshold)).change(self._density, self.splat.scales, self.splat.opacities)
        self.splat.apply(change, self.generator)
        self._density = density.start(len(self.splat), self.device)

    def splats(self) -> Splats:
        """The Gaussians after the last good step, without faint ones, on the CPU.

        Raises:
            EveryGaussianPruned: all are faint.
        """
        splats = self.splat.splats()
        visible = splats.opacities >= self.fit.final_opacity
        if not bool(visible.any()):
            raise EveryGaussianPruned(
                f"{self.stage}: every Gaussian faded below an opacity of {self.fit.final_opacity:g}. Check that mask and prior show the "
                "same object, or give the reference view more weight."
            )
        return splats.select(visible)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Distillation.state`."""
        tensors, about = super().state()
        return tensors | {f"density.{name}": value.cpu().clone() for name, value in self._density.items()}, about

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """See `Distillation.restore`. Any number of Gaussians fits."""
        if about.get("stage") == self.stage and "parameter.positions" in tensors:
            count = len(tensors["parameter.positions"])
            kept = [tensors.get(f"density.{name}") for name in self._density]
            if count == 0 or any(part is None or part.shape != (count,) for part in kept):
                raise ValueError(f"{self.stage}: the run state holds no Gaussians, or not of each how it was seen. Save the run again.")
            self.splat = SplatParameters(start_at_centre(count, 0), self.fit.sh_degree, self.fit.rates, self.device)
            self._density = {name: tensors[f"density.{name}"].to(self.device).clone() for name in self._density}
        super().restore(tensors, about)
