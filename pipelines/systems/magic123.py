"""Magic123 (Qian et al. 2023, arXiv 2306.17843): one picture and two priors to a field, and that to a textured mesh.

    picture, priors -> field (coarse) -> mesh (fine)

Before it the paper learns a word for the picture's object (section 2.2): `distillation.textual_inversion`, with a text model that the
caller has. Priors are whatever judges renders: `both_priors` of a 2D and a 3D one is the paper's; give them the same preset as the
stages. The template `magic123_mini` is the same as a graph; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.field import Field
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..distillation.cameras_and_shading import ReferenceView
from ..distillation.field import DistilField
from ..distillation.mesh import DistilMesh
from ..distillation.priors import Prior, combine, trade
from ..distillation.settings import load_distil_preset
from ..images.foreground import prepare

PICTURE_SIZE = 512
PRESET = "paper"  # the nodes take "threestudio", whose numbers were tuned in float32: docs/decisions/0005-weights-of-priors.md
Depth = Callable[[Tensor, Tensor], Tensor]
"""Picture (3, S, S) and mask (1, S, S) -> (1, S, S), near is 1: for instance a `DepthEstimator`."""


def reference_view(
    picture: Tensor, mask: Tensor | None, *, depth: Depth | None = None, elevation: float = 0.0, radius: float = 1.8, fov: float = 40.0
) -> ReferenceView:
    """Section 2.1, preprocessing: the object on its own in a square on white, its depth, and where its camera stands."""
    image, outline = prepare(picture, mask, size=PICTURE_SIZE)
    distance = None if depth is None else 1 - depth(image, outline)[None]
    return ReferenceView(image[None], outline[None], distance, elevation, radius, fov)


def both_priors(prior_2d: Prior, prior_3d: Prior, imagination: float = 0.5) -> Prior:
    """Section 2.2, the trade-off between imagination (1) and precision (0); in the middle both count in full."""
    weight_2d, weight_3d = trade(imagination)
    return combine([(prior_2d, weight_2d), (prior_3d, weight_3d)])


def coarse(
    reference: ReferenceView, prior: Prior | None, *, preset: str = PRESET, seed: int = 0, device: torch.device | str = "cpu",
    **changes: Any,
) -> DistilField:  # fmt: skip
    """Section 2.1, coarse stage: the loop on a hash-grid field, before its first step; `run(settings.steps)`, then `field()`.

    Args:
        prior: None has the picture alone.
        changes: of the preset's settings, such as steps or size.
    """
    return DistilField(reference, prior, replace(load_distil_preset(preset).coarse, **changes), seed=seed, device=device)


def fine(
    start: Field | Mesh, reference: ReferenceView, prior: Prior | None, *, preset: str = PRESET, seed: int = 0,
    device: torch.device | str = "cpu", tick: Tick = no_tick, **changes: Any,
) -> DistilMesh:  # fmt: skip
    """Section 2.1, fine stage: the loop on deep marching tetrahedra, from the field or a mesh of any other route; then `textured()`."""
    settings = replace(load_distil_preset(preset).fine, **changes)
    return DistilMesh(start, reference, prior, settings, seed=seed, device=device, tick=tick)


def reference_to_mesh(
    reference: ReferenceView, prior: Prior, *, preset: str = PRESET, seed: int = 0, device: torch.device | str = "cpu", tick: Tick = no_tick
) -> Mesh:
    """Both stages with one prior, which takes its weights and noise levels from each stage's own settings.

    Raises:
        ValueError: as the stages, in their words. FitBroken: too many steps in a row were not finite.
    """
    first = coarse(reference, prior, preset=preset, seed=seed, device=device)
    first.run(first.settings.steps, tick)
    second = fine(first.field(), reference, prior, preset=preset, seed=seed, device=device, tick=tick)
    second.run(second.settings.steps, tick)
    return second.textured(tick)
