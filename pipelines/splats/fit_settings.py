"""What a fit of Gaussians is told to do: presets are data, one JSON file of `data/splat_fit_presets` each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..disk.presets import read_preset
from ..fitting.targets import VIEWS_AT_ONCE, memory_of_views
from ..ops.losses import LossWeights
from .density_control import DensifyRules
from .parameters import LearningRates

PRESET_FOLDER = Path(__file__).resolve().parents[1] / "data" / "splat_fit_presets"
STARTS = ("hull", "centre")


@dataclass(frozen=True)
class FitSettings:
    """How to fit Gaussians to views.

    Attributes:
        title, source: for people; where the numbers come from.
        steps: how many; the learning rate of positions is planned for as many.
        views_per_step: views compared in a step, drawn without repeats until all had their turn; 0 takes all in every step.
        start: "hull" (visual hull of the masks, where there are masks) or "centre".
        points: Gaussians at the start, unless that is given.
        sh_degree: degree of the spherical harmonics, 0 to 3.
        weights: what the pictures are compared by.
        perceptual_size: longest side for the perceptual loss, pixels; 0 is the views' own.
        perceptual_every: steps from one perceptual loss to the next.
        rates: Adam's steps.
        densify: when Gaussians are cloned, split and pruned.
        final_opacity: at the end fainter Gaussians are pruned.
        background: sRGB behind the object, in the views and in the renders.
    """

    title: str
    source: str
    steps: int
    views_per_step: int
    start: str
    points: int
    sh_degree: int
    weights: LossWeights
    perceptual_size: int
    perceptual_every: int
    rates: LearningRates
    densify: DensifyRules
    final_opacity: float
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.points < 1 or self.views_per_step < 0 or self.perceptual_every < 1:
            raise ValueError("A fit needs at least one step, one point and, where views_per_step is not 0 (all), one view a step.")
        if self.start not in STARTS:
            raise ValueError(f"A fit starts from {' or '.join(STARTS)}, not {self.start!r}.")
        if self.sh_degree not in (0, 1, 2, 3):
            raise ValueError(f"Spherical harmonics have degree 0 to 3, not {self.sh_degree}.")
        if not any(dataclasses.astuple(self.weights)) or min(dataclasses.astuple(self.weights)) < 0:
            raise ValueError("A fit needs at least one loss with a weight above 0, and none below.")


@cache
def preset_names() -> tuple[str, ...]:
    """Names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))


@cache
def load_fit_preset(name: str) -> FitSettings:
    """The preset of this name: "paper", "fast" or "pixel".

    Raises:
        ValueError: no such preset.
    """
    if name not in preset_names():
        raise ValueError(f"There is no fit preset {name!r}; choose one of {', '.join(preset_names())}.")
    parts = {"weights": LossWeights, "rates": LearningRates, "densify": DensifyRules}

    def make(data: dict[str, Any]) -> FitSettings:
        return FitSettings(**{key: parts[key](**value) if key in parts else value for key, value in data.items()})

    return read_preset(PRESET_FOLDER / f"{name}.json", make)


def estimate_memory(views: int, height: int, width: int, settings: FitSettings, gaussians: int = 0) -> int:
    """Bytes a fit of this many views of one asset will take at its peak, the views themselves included.

    Args:
        gaussians: at the start, where it is given; else the settings' own.
    """
    at_once = min(settings.views_per_step or views, views, VIEWS_AT_ONCE)
    most = max(settings.densify.most, gaussians or settings.points)
    # parameters, gradients, two moments and a change of rows; then rows of the renderer, some for each view drawn
    cloud = most * (11 + 3 * (settings.sh_degree + 1) ** 2) * 6 + at_once * most * 120
    return memory_of_views(views, height, width, settings) + 4 * cloud
