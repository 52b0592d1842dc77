"""Adaptive density control of a fit (Kerbl et al. 2023, section 5.2): where Gaussians are cloned, split and pruned.

The strategy looks at what the renderer left behind and answers with rows: which Gaussians stay, which are made anew from which, so
that the parameters and the optimiser's memory of them can follow. A test holds the rows against those of gsplat's own strategy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.quaternions import rotation_matrices
from ..ops.splat_raster.dispatch import Rendered

SPLIT_SHRINK = 1.6  # a split Gaussian's halves are this much smaller than it was

State = dict[str, Tensor]


@dataclass(frozen=True)
class DensifyRules:
    """When and what to change.

    Attributes:
        first, last: steps between which density is changed; 0 as `last` never changes it.
        every: steps between two changes.
        gradient: mean length of a centre's gradient above which a Gaussian is cloned or split, in half widths of the picture.
        absolute: compare the sums of the pixels' absolute gradients instead (Ye et al. 2024), where opposite pulls do not cancel.
        split_scale: a Gaussian larger than this in world units is split, a smaller one cloned.
        opacity: Gaussians fainter than this are pruned.
        largest_scale: larger ones are pruned; 0 keeps them.
        reset_every: steps between two resets of all opacities to at most `reset_to`; 0 never.
        reset_to: see there.
        most: never more Gaussians than this; those with the largest gradients go first.
    """

    first: int
    last: int
    every: int
    gradient: float
    absolute: bool
    split_scale: float
    opacity: float
    largest_scale: float
    reset_every: int
    reset_to: float
    most: int


@dataclass(frozen=True)
class Change:
    """M rows of a new set of Gaussians.

    Attributes:
        source: (M,) int64, the row of the old set each comes from.
        fresh: (M,) bool, true for rows an optimiser knows nothing of: clones and the halves of a split.
        halved: (M,) bool, true for the halves of a split.
        pruned: how many old ones are gone for good.
    """

    source: Tensor
    fresh: Tensor
    halved: Tensor
    pruned: int


class EveryGaussianPruned(ValueError):
    """A rule would leave nothing."""


class Densify:
    """Density control by `rules`. What it has seen since the last change lies in a state that the caller keeps."""

    def __init__(self, rules: DensifyRules) -> None:
        self.rules = rules

    def start(self, count: int, device: torch.device | str = "cpu") -> State:
        """The state of `count` Gaussians that were not seen yet."""
        return {"gradient": torch.zeros(count, device=device), "seen": torch.zeros(count, device=device)}

    def observe(self, state: State, rendered: Rendered, width: int, height: int, views: int) -> None:
        """Adds what backward left in `rendered.means2d` of a loss that is the mean over `views`, these and others."""
        gradient = rendered.means2d.absgrad if self.rules.absolute else rendered.means2d.grad  # type: ignore[attr-defined]
        half = gradient.new_tensor([width / 2, height / 2]) * views
        seen = (rendered.radii > 0).all(-1)
        state["gradient"] += torch.where(seen, (gradient * half).norm(dim=-1), 0.0).sum(0)
        state["seen"] += seen.sum(0)

    def observes(self, step: int) -> bool:
        """Whether gradients of this step (counted from 1) are of use."""
        return step <= self.rules.last

    def due(self, step: int) -> bool:
        """Whether density changes after this step."""
        return self.rules.first <= step <= self.rules.last and step % self.rules.every == 0

    def resets(self, step: int) -> bool:
        """Whether opacities are lowered after this step."""
        return self.rules.reset_every > 0 and step < self.rules.last and step % self.rules.reset_every == 0

    def change(self, state: State, scales: Tensor, opacities: Tensor) -> Change:
        """What becomes of N Gaussians with linear scales (N, 3) and opacities (N,).

        Raises:
            EveryGaussianPruned: nothing would stay.
        """
        rules = self.rules
        size = scales.amax(dim=1)
        pruned = too_faint_or_large(opacities, size, rules)
        grow = self.grows(state, pruned)
        split = grow & (size > rules.split_scale)
        kept, clones, halves = (mask.nonzero()[:, 0] for mask in (~pruned & ~split, grow & ~split, split))
        source = torch.cat([kept, clones, halves, halves])
        fresh = torch.ones_like(source, dtype=torch.bool)
        fresh[: len(kept)] = False
        halved = torch.zeros_like(fresh)
        halved[len(kept) + len(clones) :] = True
        return Change(source, fresh, halved, int(pruned.sum()))

    def grows(self, state: State, pruned: Tensor) -> Tensor:
        """(N,) bool, the Gaussians to clone or split: those with the largest gradients where not all may."""
        pull = state["gradient"] / state["seen"].clamp_min(1)
        grow = (pull > self.rules.gradient) & ~pruned
        room = max(self.rules.most - int((~pruned).sum()), 0)
        if int(grow.sum()) > room:
            order = torch.argsort(torch.where(grow, pull, -1.0), descending=True, stable=True)
            grow = torch.zeros_like(grow).index_fill(0, order[:room], True)
        return grow


def too_faint_or_large(opacities: Tensor, size: Tensor, rules: DensifyRules) -> Tensor:
    """(N,) bool, the Gaussians to prune.

    Raises:
        EveryGaussianPruned: all of them.
    """
    pruned = opacities < rules.opacity
    if rules.largest_scale > 0:
        pruned |= size > rules.largest_scale
    if bool(pruned.all()):
        raise EveryGaussianPruned(
            f"All {len(pruned)} Gaussians are fainter than an opacity of {rules.opacity:g} or too large, so pruning would leave nothing. "
            "Check that the masks show the object in white and that the cameras belong to these views."
        )
    return pruned


def scatter_halves(means: Tensor, scales: Tensor, quats: Tensor, generator: torch.Generator) -> Tensor:
    """Centres (M, 3) drawn from M Gaussians with linear scales: where the halves of split ones go."""
    draw = torch.randn(means.shape, generator=generator).to(means)
    turn = rotation_matrices(quats)
    return means + (turn * (scales * draw)[:, None]).sum(-1)
