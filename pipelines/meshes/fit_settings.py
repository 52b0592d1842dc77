"""What a fit of a mesh is told to do: presets are data, one JSON file of `data/mesh_fit_presets` each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..disk.presets import read_preset
from ..fitting.targets import memory_of_views
from ..ops.losses import LossWeights

PRESET_FOLDER = Path(__file__).resolve().parents[1] / "data" / "mesh_fit_presets"


@dataclass(frozen=True)
class SurfaceRates:
    """Adam's steps. Distances and displacements are in cells of the grid."""

    sdf: float
    displacement: float
    weights: float
    colors: float
    texture: float


@dataclass(frozen=True)
class Regularisers:
    """Weights of what keeps the surface sound.

    Attributes:
        deviation: FlexiCubes' L_dev, in cells (Shen et al. 2023, eq. 8).
        sign: cross-entropy of the signs at crossed grid edges (Munkberg et al. 2022, eq. 2).
        smooth: squared distance of vertices to their neighbours' mean, in cells.
    """

    deviation: float
    sign: float
    smooth: float


@dataclass(frozen=True)
class MeshFitSettings:
    """How to fit a mesh to views.

    Attributes:
        title, source: for people; where the numbers come from.
        resolution: cells along an edge of FlexiCubes' grid.
        steps: of the surface. texture_steps: of the texture afterwards; 0 bakes it from the views and leaves it so.
        views_per_step: views compared in a step, drawn without repeats until all had their turn; 0 takes all in every step.
        weights: what the pictures are compared by.
        perceptual_size: longest side for the perceptual loss, pixels; 0 is the views' own.
        perceptual_every: steps from one perceptual loss to the next.
        regularisers, rates: see there. Rates fall to a tenth over the steps.
        faces: the fitted mesh is simplified to about so many before it gets uvs.
        texture_size: side of the texture, texels.
        background: sRGB behind the object, in the views and in the renders.
    """

    title: str
    source: str
    resolution: int
    steps: int
    texture_steps: int
    views_per_step: int
    weights: LossWeights
    perceptual_size: int
    perceptual_every: int
    regularisers: Regularisers
    rates: SurfaceRates
    faces: int
    texture_size: int
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 16 <= self.resolution <= 256:
            raise ValueError(f"Fit Mesh: a grid of {self.resolution} cells is out of range; use 16 to 256, 96 is usual.")
        if self.steps < 1 or self.texture_steps < 0 or self.views_per_step < 0 or self.perceptual_every < 1:
            raise ValueError("Fit Mesh: at least one step is needed, and no number of steps or views below 0.")
        if not any(dataclasses.astuple(self.weights)) or min(dataclasses.astuple(self.weights)) < 0:
            raise ValueError("Fit Mesh: at least one loss needs a weight above 0, and none below.")


@cache
def mesh_preset_names() -> tuple[str, ...]:
    """Names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))


@cache
def load_mesh_preset(name: str) -> MeshFitSettings:
    """The preset of this name: "fast", "geolrm" or "paper".

    Raises:
        ValueError: no such preset.
    """
    if name not in mesh_preset_names():
        raise ValueError(f"There is no mesh fit preset {name!r}; choose one of {', '.join(mesh_preset_names())}.")
    parts = {"weights": LossWeights, "rates": SurfaceRates, "regularisers": Regularisers}

    def make(data: dict[str, Any]) -> MeshFitSettings:
        return MeshFitSettings(**{key: parts[key](**value) if key in parts else value for key, value in data.items()})

    return read_preset(PRESET_FOLDER / f"{name}.json", make)


def estimate_memory(views: int, height: int, width: int, settings: MeshFitSettings) -> int:
    """Bytes a fit of a mesh to this many views of one asset will take at its peak, the views themselves included.

    Beside the views: floats at each corner of the grid, at each texel, and the four samples a pixel at which the texture is drawn.
    """
    corners, texels = (settings.resolution + 1) ** 3, settings.texture_size**2
    return memory_of_views(views, height, width, settings) + 4 * (40 * corners + 20 * texels + 300 * height * width)
