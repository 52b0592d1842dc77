"""How score distillation is weighted: presets are data, one JSON file of `data/prior_presets` each.

A preset has numbers for three kinds of prior: "2d" (a text-to-image model), "3d" (a model that is told the pose, such as Zero-1-to-3) and
"views" (a model that draws a grid of views at once), each for the coarse and the fine stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..disk.presets import read_preset

PRESET_FOLDER = Path(__file__).resolve().parents[1] / "data" / "prior_presets"
KINDS = ("2d", "3d", "views")
WEIGHTINGS = ("one_minus_alpha_bar", "one_minus_sqrt_alpha_bar", "one")


@dataclass(frozen=True)
class SdsSettings:
    """Score distillation from one model in one stage.

    Attributes:
        weight: of the gradient, beside the other losses of a loop.
        guidance: ordinary classifier-free guidance, u + s (c - u); None takes the model's own.
        times: share of the training noise levels between which one is drawn evenly, at the start of the loop.
        final_times: the same at its end; in between both bounds move evenly.
        weighting: w(t), one of `WEIGHTINGS`.
        by_angle: whether a view counts by its angle to the reference view, as a share of 180 degrees.
    """

    weight: float
    guidance: float | None
    times: tuple[float, float]
    final_times: tuple[float, float]
    weighting: str
    by_angle: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf") or not 0 <= (self.guidance or 0) < float("inf"):
            raise ValueError(f"Weight and guidance of a prior are numbers of at least 0, not {self.weight} and {self.guidance}.")
        for first, last in (self.times, self.final_times):
            if not 0 < first <= last < 1:
                raise ValueError(f"Noise levels lie between two numbers above 0 and below 1, the lower first, not {first} and {last}.")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"There is no weighting {self.weighting!r} of noise levels; choose one of {', '.join(WEIGHTINGS)}.")

    def draw_times(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """(count,) noise levels, for a loop that is done to the share `progress`."""
        share = min(max(progress, 0.0), 1.0)
        first, last = (start + share * (end - start) for start, end in zip(self.times, self.final_times, strict=True))
        return first + (last - first) * torch.rand(count, generator=generator)


@dataclass(frozen=True)
class PriorPreset:
    """Settings that belong together.

    Attributes:
        title, source: for people; where the numbers come from.
        settings: by kind and stage.
    """

    title: str
    source: str
    settings: dict[str, dict[str, SdsSettings]]


@cache
def preset_names() -> tuple[str, ...]:
    """Names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))


@cache
def load_prior_preset(name: str) -> PriorPreset:
    """The preset of this name: "threestudio", "as_coded" or "paper".

    A preset's `loss_scale` divides every weight: see docs/decisions.

    Raises:
        ValueError: no such preset.
    """
    if name not in preset_names():
        raise ValueError(f"There is no preset {name!r} of priors; choose one of {', '.join(preset_names())}.")
    return read_preset(PRESET_FOLDER / f"{name}.json", _prior_preset)


def _prior_preset(data: dict[str, Any]) -> PriorPreset:
    scale = float(data.get("loss_scale", 1.0))

    def read(row: dict) -> SdsSettings:
        times = tuple(row["times"])
        return SdsSettings(
            float(row["weight"]) / scale, row["guidance"], times, tuple(row.get("final_times", times)), row["weighting"],
            bool(row.get("by_angle", False)),
        )  # fmt: skip

    settings = {kind: {stage: read(row) for stage, row in data[kind].items()} for kind in KINDS}
    return PriorPreset(data["title"], data["source"], settings)


def stages_of(preset: str, kind: str, strength: float = 1.0, guidance: float | None = None) -> dict[str, SdsSettings]:
    """A preset's settings of one kind by stage, their weights times `strength`, with other guidance unless that is None."""
    found = load_prior_preset(preset).settings[kind]
    return {
        stage: replace(row, weight=row.weight * strength, guidance=row.guidance if guidance is None else guidance)
        for stage, row in found.items()
    }
