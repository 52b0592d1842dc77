"""What the three distillations share: the reference view and random views, a prior's gradient on the latter, steps that go wrong."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.progress import Tick, no_tick
from ..fitting.failed_steps import MOST_BAD_STEPS, FitBroken
from ..fitting.out_of_memory import FittingSize
from ..ops import distil_losses
from .cameras_and_shading import PLAIN, ReferenceView, Shading, depth_normals, random_cameras, random_shading
from .priors import Prior, required_cameras
from .settings import LoopSettings

log = logging.getLogger(__name__)

WHITE = (1.0, 1.0, 1.0)
PREVIEW_EVERY = 10  # steps
PREVIEW_SIDE = 192  # pixels at most
PREVIEW_TURN = 12.0  # degrees from one preview to the next
LEAST_SIZE = 16  # pixels
LEAST_ALPHA = 1e-3  # and most, from 1, in a cross-entropy
MOST_SCALE = 1.15  # that a prior's own cameras may frame the object larger or smaller than the reference camera


@dataclass(frozen=True)
class Drawn:
    """V views as a loop sees them.

    Attributes:
        images: (V, 3, H, W) over the background.  alphas: (V, 1, H, W).
        depths: (V, 1, H, W) z-depth, weighted by opacity (0 on the background), or None.
        normals: (V, 3, H, W) world, weighted by opacity, or None.
        penalty: what this representation adds to the loss of these views, or None.
    """

    images: Tensor
    alphas: Tensor
    depths: Tensor | None = None
    normals: Tensor | None = None
    penalty: Tensor | None = None


def adam(groups: Sequence[Mapping[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Adam with Müller et al.'s numbers (2022, section 4). `groups` hold "params" and "first", the rate at the start.

    On the CPU it is PyTorch's fused form, which goes over a large table once; it gives the same at any number of threads.
    """
    rated = [{**group, "lr": group["first"]} for group in groups]
    return torch.optim.Adam(rated, betas=(0.9, 0.99), eps=1e-15, fused=True if device.type == "cpu" else None)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number is one. A finite norm says so at a twentieth of the cost; the norm alone may overflow."""
    return all(bool(torch.isfinite(tensor.norm())) or bool(torch.isfinite(tensor).all()) for tensor in tensors)


class Distillation(ABC):
    """A distillation that goes on step by step; whatever interrupts it, the state after the last good step stays.

    Args:
        reference: the picture, where there is one, and where it was taken from.
        prior: judges random views; None leaves them out, and only the reference counts.
        settings: of this loop.
        seed: the same seed gives the same result, bit for bit on one CPU thread.

    Attributes:
        losses: one mapping a step, every term before its weight, and "total".
        skipped: steps that changed nothing because their numbers were not finite.
        fitting: the side of random views, halved once where memory runs out.
    """

    stage: str

    def __init__(
        self, reference: ReferenceView, prior: Prior | None, settings: LoopSettings, seed: int, device: torch.device | str
    ) -> None:
        if reference.image is None and prior is None:
            raise ValueError(f"{self.stage}: there is neither a reference picture nor a prior, so there is nothing to learn from.")
        if prior is None:
            log.warning("%s: without a prior nothing says how the object looks from elsewhere.", self.stage)
        elif (wanted := required_cameras(prior)) is not None and reference.image is not None:
            self._warn_of_scale(reference, wanted)
        if reference.depth is not None and not settings.weights.depth:
            log.warning("%s: this preset gives the reference's depth no weight, so the wired depth changes nothing.", self.stage)
        self.reference, self.prior, self.settings = reference, prior, settings
        self.device = torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[dict[str, float]] = []
        self.skipped = self._bad_in_a_row = self._heard = 0
        self.fitting = FittingSize(settings.size, LEAST_SIZE)
        self.guess: Tensor | None = None
        self._scaled: dict[int, ReferenceView] = {}

    # ---- what a representation says ----------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
        """Renders views (V, ., size, size), differentiable where `learning`. background: (3,)."""

    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """The leaves by name."""

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """What moves them."""

    def before(self, progress: float) -> None:  # noqa: B027  (not every representation has something to prepare)
        """Called at the start of a step."""

    def finish(self, totals: dict[str, float]) -> None:  # noqa: B027
        """Called after the views' backward: adds what concerns the asset whole, to gradients and to the step's losses."""

    def move(self, number: int, progress: float) -> None:
        """The optimiser's step, at rates that fall exponentially to `last_rate`."""
        last = getattr(self.settings, "last_rate", 1.0)
        for group in self.optimiser().param_groups:
            group["lr"] = group["first"] * last ** min(progress, 1.0)
        self.optimiser().step()

    # ---- the loop ----------------------------------------------------------------------------------------------------

    @property
    def steps_done(self) -> int:
        """Steps made so far, the skipped ones included."""
        return len(self.losses)

    @property
    def worth_keeping(self) -> bool:
        """Whether there was a step that counts: where there is a prior, one in which its answer was of use."""
        return self.steps_done > self.skipped if self.prior is None else self._heard > 0

    def run(self, steps: int, tick: Tick = no_tick) -> None:
        """That many more steps. A tick that raises ends the loop between two steps.

        Raises:
            FitBroken: too many steps in a row were not finite. ValueError: views of half the size did not fit the memory either.
        """
        for done in range(1, steps + 1):
            self.step()
            shown = tick is not no_tick and (done % PREVIEW_EVERY == 0 or done == steps)
            tick(done, steps, self.picture() if shown else None)

    def step(self) -> dict[str, float]:
        """Looks at some views and moves the parameters. Returns this step's losses, which `losses` keeps as well."""
        kept = self.generator.get_state()

        def attempt(size: int) -> dict[str, float]:
            self.generator.set_state(kept)
            return self._step()

        return self.fitting.run(attempt)

    def _step(self) -> dict[str, float]:
        number, settings = self.steps_done + 1, self.settings
        progress = (number - 1) / settings.steps
        self._clear()
        self.before(progress)
        totals: dict[str, float] = {"total": 0.0}
        fine = True
        pictured = self.reference.image is not None and self.reference.weight > 0
        sees = pictured and (number <= settings.reference_first or number % settings.reference_every == 0 or self.prior is None)
        if sees:
            self._look_at_reference(progress, totals)
        if self.prior is not None and (not sees or (settings.together and number > settings.reference_first)):
            fine = self._look_around(progress, totals)
            self._heard += fine
        self.finish(totals)
        gradients = [leaf.grad for leaf in self.parameters().values() if leaf.grad is not None]
        good = fine and math.isfinite(totals["total"]) and all_finite(gradients)
        if good:
            self._bad_in_a_row = 0
            self.move(number, progress)
        self.losses.append(totals)  # after the optimiser, which may run out of memory: then the step is made again
        if not good:
            self._skip()
        self._clear()
        return totals

    @torch.no_grad()
    def picture(self) -> Tensor:
        """(H, 2W, 3) the asset from a camera that goes around with the steps, beside what the prior guessed last (where it says)."""
        side = min(self.fitting.size, PREVIEW_SIDE)
        turn = PREVIEW_TURN * self.steps_done / PREVIEW_EVERY
        reference = replace(self.reference, image=None, mask=None, depth=None)
        around = random_cameras(1, replace(self.settings.cameras, azimuth=(turn, turn), elevation=(15.0, 15.0), dome=0.0), reference,
                                torch.Generator().manual_seed(0))  # fmt: skip
        image = self.draw(around, side, [PLAIN], torch.ones(3, device=self.device), False).images[0]
        guess = torch.ones_like(image) if self.guess is None else self.guess.to(image)
        if guess.shape != image.shape:
            guess = F.interpolate(guess[None], size=(side, side), mode="bilinear", align_corners=False)[0]
        return torch.cat([image, guess], dim=2).movedim(0, -1).clamp(0, 1).cpu()

    # ---- views -------------------------------------------------------------------------------------------------------

    def _look_at_reference(self, progress: float, totals: dict[str, float]) -> None:
        side = max(round(self._size(progress) * self.settings.reference_scale), LEAST_SIZE)
        truth = self._reference_at(side)
        assert truth.image is not None
        drawn = self.draw(truth.camera, side, [PLAIN], torch.ones(3, device=self.device), True)
        weights, terms = self.settings.weights, {}
        mask = torch.ones_like(drawn.alphas) if truth.mask is None else truth.mask
        target = truth.image * mask + (1 - mask)
        terms["reference"] = weights.rgb, (mask * (drawn.images - target)).square().mean()
        if truth.mask is not None and weights.mask:
            alphas = drawn.alphas.clamp(0, 1)
            if weights.mask_loss == "bce":
                # Squeezed, not clamped: what is opaque outside the outline must still feel a pull.
                error = F.binary_cross_entropy(alphas * (1 - 2 * LEAST_ALPHA) + LEAST_ALPHA, mask)
            else:
                error = F.mse_loss(alphas, mask)
            terms["mask"] = weights.mask, error
        if truth.depth is not None and weights.depth and drawn.depths is not None:
            seen = drawn.depths / drawn.alphas.clamp(min=1e-3)
            terms["depth"] = weights.depth, distil_losses.depth_correlation(seen, truth.depth, mask)
        self._add(terms, drawn, truth.camera, progress, totals, self.reference.weight)

    def _look_around(self, progress: float, totals: dict[str, float]) -> bool:
        """False where the prior's answer is of no use."""
        settings, prior = self.settings, self.prior
        assert prior is not None
        wanted = required_cameras(prior)
        cameras = random_cameras(settings.views, settings.cameras, self.reference, self.generator) if wanted is None else wanted
        one_by_one = [cameras.select([view]) for view in range(cameras.n_views)]
        shading = [random_shading(progress, settings.shading, one, self.generator) for one in one_by_one]
        shade = torch.rand(3, generator=self.generator).to(self.device)
        background = shade if settings.random_background else torch.ones(3, device=self.device)
        drawn = self.draw(cameras, self._size(progress), shading, background, True)
        told = prior.guide(drawn.images.detach().clamp(0, 1), cameras, progress, self.generator)
        if told.guess is not None:
            self.guess = told.guess[0]
        totals["prior"] = told.loss
        if not told.finite:
            return False
        pull = (told.gradient.to(drawn.images) * drawn.images).sum()
        self._add({}, drawn, cameras, progress, totals, 1.0, pull * settings.weights.prior)
        return True

    def _add(
        self, terms: Mapping[str, tuple[float, Tensor]], drawn: Drawn, cameras: Cameras, progress: float, totals: dict[str, float],
        weight: float, pull: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Backward of weighted terms, of the smoothness of normals, and of a prior's pull, which is no loss and not counted as one."""
        weights, terms = self.settings.weights, dict(terms)
        if drawn.normals is not None and weights.normal_blur:
            terms["normal blur"] = weights.normal_blur, distil_losses.normal_blur((drawn.normals + 1) / 2)
        if drawn.normals is not None and weights.normal_tv:
            terms["normal variation"] = weights.normal_tv, distil_losses.normal_variation((drawn.normals + 1) / 2)
        if weights.opacity:
            terms["opacity"] = weights.opacity, distil_losses.opacity(drawn.alphas)
        total = sum((scale * value for scale, value in terms.values()), drawn.images.sum() * 0) * weight
        if drawn.penalty is not None:
            total = total + drawn.penalty
        (total if pull is None else total + pull).backward()
        for name, (_, value) in terms.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach())
        totals["total"] += float(total.detach())

    def view_normals(self, drawn: Drawn, cameras: Cameras) -> Tensor:
        """World normals (V, 3, H, W) of rendered depths, weighted by opacity."""
        assert drawn.depths is not None
        depths = drawn.depths / drawn.alphas.clamp(min=1e-3)
        return depth_normals(depths, cameras) * drawn.alphas

    def _size(self, progress: float) -> int:
        """Side of random views at this share of the steps, in what memory allows."""
        return max(self.settings.size_at(progress) * self.fitting.size // self.fitting.first, LEAST_SIZE)

    def _reference_at(self, side: int) -> ReferenceView:
        if side not in self._scaled:
            self._scaled[side] = self.reference.at_size(side).to(self.device)
        return self._scaled[side]

    def _warn_of_scale(self, reference: ReferenceView, wanted: Cameras) -> None:
        """A prior that has cameras of its own must see the object as large as the reference camera does."""
        distance = float(wanted.c2w[:, :3, 3].norm(dim=1).mean())
        fov = 2 * math.degrees(math.atan(0.5 / float(wanted.K[:, 0].mean())))
        own, theirs = (d * math.sin(math.radians(f) / 2) for d, f in ((reference.radius, reference.fov), (distance, fov)))
        if not 1 / MOST_SCALE < own / theirs < MOST_SCALE:
            log.warning(
                "%s: the prior's own cameras frame an object of radius %.2f, the reference camera one of %.2f, so they ask for different "
                "sizes. Set radius %.3g and field of view %.3g for the reference.", self.stage, theirs, own, distance, fov,
            )  # fmt: skip

    # ---- what goes wrong ---------------------------------------------------------------------------------------------

    def _skip(self) -> None:
        self.skipped += 1
        self._bad_in_a_row += 1
        if self.skipped == 1:
            log.warning("%s: a step's losses or gradients were not finite; it is skipped, and so are others like it.", self.stage)
        if self._bad_in_a_row >= MOST_BAD_STEPS:
            raise FitBroken(
                f"{self.stage}: {self._bad_in_a_row} steps in a row gave numbers that are not finite, so the loop stopped at step "
                f"{self.steps_done}. Often the prior's model or VAE runs in half precision: load it in fp32, or lower its guidance."
            )

    def _clear(self) -> None:
        self.optimiser().zero_grad(set_to_none=True)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that another run needs to go on exactly where this one is: tensors, and what goes into JSON."""
        tensors = {f"parameter.{name}": leaf.detach() for name, leaf in self.parameters().items()}
        for name, leaf in self.parameters().items():
            for key, value in self.optimiser().state.get(leaf, {}).items():
                tensors[f"adam.{name}.{key}"] = torch.as_tensor(value).detach()
        tensors["generator"] = self.generator.get_state()
        about = {"stage": self.stage, "losses": self.losses, "skipped": self.skipped, "size": self.fitting.size}
        return {name: tensor.cpu().clone() for name, tensor in tensors.items()}, about

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave.

        Raises:
            ValueError: the state of another stage, or of another network or grid.
        """
        if about.get("stage") != self.stage:
            raise ValueError(f"{self.stage}: this run state is of {about.get('stage')!r}; load one that {self.stage} saved.")
        for name, leaf in self.parameters().items():
            kept = tensors.get(f"parameter.{name}")
            if kept is None or kept.shape != leaf.shape:
                found = "is missing" if kept is None else f"has shape {tuple(kept.shape)}"
                raise ValueError(
                    f"{self.stage}: the run state does not fit these settings: {name} {found}, expected {tuple(leaf.shape)}. Go on with "
                    "the preset and the sizes it was begun with."
                )
        for name, leaf in self.parameters().items():
            with torch.no_grad():
                leaf.copy_(tensors[f"parameter.{name}"].to(leaf))
            start = f"adam.{name}."
            moments = {key.removeprefix(start): value.clone() for key, value in tensors.items() if key.startswith(start)}
            if moments:
                on_device = {key: value if key == "step" else value.to(leaf) for key, value in moments.items()}
                self.optimiser().state[leaf] = on_device
        self.generator.set_state(tensors["generator"].to(torch.uint8).cpu())
        self.losses = [dict(step) for step in about["losses"]]
        self.skipped = int(about["skipped"])
        if 2 * int(about["size"]) == self.fitting.first:  # memory ran out before
            self.fitting.size = int(about["size"])
