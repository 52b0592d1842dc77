"""A picture and priors to a field: the coarse stage of Magic123 (arXiv 2306.17843, section 2.1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..nets.distil_net import DistilledField, DistilNet, copy_of
from ..ops import camera_math, distil_losses
from ..ops.ray_march.dispatch import march
from ..ops.ray_march.occupancy import OccupancyGrid, Samples
from .cameras_and_shading import ReferenceView, Shading
from .loop import Distillation, Drawn, adam
from .priors import Prior, at_stage
from .settings import CoarseSettings

ENTROPY_GROWS = 0.5  # share of the steps over which the entropy's weight grows to its full size


class DistilField(Distillation):
    """The coarse stage. See `Distillation`.

    Raises:
        ValueError: neither picture nor prior.
    """

    stage = "Distil Field"

    def __init__(
        self, reference: ReferenceView, prior: Prior | None, settings: CoarseSettings, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(reference, None if prior is None else at_stage(prior, "coarse"), settings, seed, device)
        self.coarse = settings
        self.net = DistilNet(settings.field, seed).to(self.device)
        rates = [(self.net.grid.parameters(), settings.encoding_rate), (self.net.layers.parameters(), settings.network_rate)]
        self._adam = adam([{"params": list(leaves), "first": rate} for leaves, rate in rates], self.device)
        self.occupancy = self._unknown()
        self._progress = 0.0

    def parameters(self) -> dict[str, Tensor]:
        """The network's weights."""
        return dict(self.net.named_parameters())

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam."""
        return self._adam

    def before(self, progress: float) -> None:
        """Levels of the grid in use, and from time to time a look at where anything is."""
        shape = self.coarse.field
        self._progress = progress
        self.net.levels = shape.first_levels if shape.first_levels and progress < shape.all_levels_after else None
        if self.steps_done % self.coarse.march.every == 0:
            self.occupancy.update(self.net.density, self.generator)

    def field(self) -> DistilledField:
        """The field after the last good step, on the CPU. Its surface lies at the density of the settings, or at the mean density of
        occupied cells where that is lower."""
        known = self.occupancy
        if not bool(known.density.isfinite().all()):  # no step was made
            known = self._unknown()
            known.update(self.net.density, torch.Generator().manual_seed(0))
        solid = known.occupied[known.occupied > 0]
        surface = min(self.coarse.field.surface, float(solid.clamp(max=1e6).mean()))
        return DistilledField(copy_of(self.net, "cpu"), surface, self.coarse.field.bound)

    def _unknown(self) -> OccupancyGrid:
        march_settings = self.coarse.march
        return OccupancyGrid(march_settings.grid, self.coarse.field.bound, march_settings.decay, march_settings.threshold, self.device)

    def draw(self, cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
        """Volume rendering."""
        with torch.set_grad_enabled(learning):
            return self._draw(cameras, size, shading, background, learning)

    def _draw(self, cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
        weights, count = self.settings.weights, cameras.n_views
        from_density = self.coarse.normals == "density"
        lit = any(one.kind != "plain" for one in shading)
        smooth = learning and (weights.normal_blur > 0 or weights.normal_tv > 0)
        origins, directions = camera_math.rays(cameras.c2w.to(self.device), cameras.K.to(self.device), size, size)
        flat_directions = directions.reshape(-1, 3)
        samples = march(
            origins.reshape(-1, 3), flat_directions, self.occupancy, self.coarse.march.step, self.generator if learning else None
        )
        density, colors = self.net(samples.points)
        optical = samples.spread(density) * samples.lengths
        passed = torch.exp(-(optical.cumsum(1) - optical))
        opacity = -torch.expm1(-optical)
        shares = passed * opacity
        normals = None
        if from_density and (lit or smooth or (learning and weights.orientation > 0)):
            normals = self.net.normals(samples.points)
        if lit and from_density:
            colors = self._lit(colors, normals, samples, size * size, shading)
        alpha = shares.sum(1, keepdim=True)
        parts = [(shares[..., None] * samples.spread(colors)).sum(1), alpha, (shares * samples.depths).sum(1, keepdim=True)]
        if normals is not None:
            parts.append((shares[..., None] * samples.spread(normals)).sum(1))
        picture = torch.cat(parts, dim=1)
        picture = picture.new_zeros(count * size * size, picture.shape[1]).index_copy(0, samples.rays, picture)
        picture = picture.view(count, size, size, -1).movedim(-1, 1)
        image, alphas, depths = picture[:, :3], picture[:, 3:4], picture[:, 4:5]
        drawn = Drawn(image, alphas, depths, picture[:, 5:8] if normals is not None else None)
        if not from_density and (lit or smooth):
            seen = self.view_normals(drawn, cameras)
            drawn = Drawn(image, alphas, depths, seen if smooth else None)
            if lit:
                unit = torch.nn.functional.normalize(seen, dim=1, eps=1e-8).movedim(1, -1)
                albedo = (image / alphas.clamp(min=1e-3)).movedim(1, -1)
                image = torch.stack([one.apply(albedo[v], unit[v]) for v, one in enumerate(shading)]).movedim(-1, 1) * alphas
        image = image + (1 - alphas) * background.view(1, 3, 1, 1)
        penalty = self._penalty(shares, normals, flat_directions, samples) if learning else None
        return Drawn(image, drawn.alphas, drawn.depths, drawn.normals if smooth else None, penalty)

    def _lit(self, colors: Tensor, normals: Tensor | None, samples: Samples, pixels: int, shading: Sequence[Shading]) -> Tensor:
        """Colours of samples in the light of their view."""
        view = torch.div(samples.rays, pixels, rounding_mode="floor")[samples.ray]
        out = colors
        for number, one in enumerate(shading):
            out = torch.where((view == number)[:, None], one.apply(colors, normals), out)
        return out

    def _penalty(self, shares: Tensor, normals: Tensor | None, directions: Tensor, samples: Samples) -> Tensor | None:
        """Entropy of the samples' weights, and normals that face away from the camera."""
        weights, total = self.settings.weights, None
        own = shares.reshape(-1)[samples.slot]
        if weights.entropy:
            growing = min(1.0, self._progress / ENTROPY_GROWS)
            total = weights.entropy * growing * distil_losses.entropy(own)
        if weights.orientation and normals is not None:
            towards = torch.nn.functional.normalize(directions, dim=-1)[samples.rays][samples.ray]
            facing = weights.orientation * distil_losses.orientation(own, normals, towards)
            total = facing if total is None else total + facing
        return total

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Distillation.state`."""
        tensors, about = super().state()
        return tensors | {"occupancy": self.occupancy.density.cpu().clone()}, about

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """See `Distillation.restore`."""
        density = tensors.get("occupancy")
        if density is None or density.shape != self.occupancy.density.shape:
            raise ValueError(f"{self.stage}: the run state does not fit these settings: its occupancy grid is missing or of another size.")
        super().restore(tensors, about)
        self.occupancy.restore(density)
