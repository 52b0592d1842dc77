"""What a distillation is told to do: presets are data, one JSON file of `data/distil_presets` each, with a part for each of the loops."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..disk.presets import read_preset
from ..nets.distil_net import FieldShape

PRESET_FOLDER = Path(__file__).resolve().parents[1] / "data" / "distil_presets"


@dataclass(frozen=True)
class NovelCameras:
    """Where random views are taken from.

    Attributes:
        radius: lowest and highest distance, times the reference view's own.
        azimuth, elevation: lowest and highest in degrees; uniform in the angle.
        dome: share of views that come from directions all over the upper half instead, whatever `azimuth` and `elevation` say.
    """

    radius: tuple[float, float] = (1.0, 1.0)
    azimuth: tuple[float, float] = (-180.0, 180.0)
    elevation: tuple[float, float] = (-45.0, 45.0)
    dome: float = 0.0


@dataclass(frozen=True)
class ShadingSchedule:
    """How random views are lit. Where the three shares do not sum to 1 the rest shows plain colours.

    Attributes:
        normals_until: share of the steps in which they show normals as colours, so that geometry comes first.
        normals, textureless, lambertian: shares of views after that.
        ambient: lowest and highest share of light from everywhere; the rest comes from a lamp near the camera.
    """

    normals_until: float = 0.0
    normals: float = 0.0
    textureless: float = 0.0
    lambertian: float = 0.0
    ambient: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        shares = (self.normals, self.textureless, self.lambertian)
        if min(*shares, self.normals_until) < 0 or sum(shares) > 1 + 1e-6 or self.normals_until > 1:
            raise ValueError("Distil: the shares of shadings are none below 0, and together at most 1.")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of a distillation. What a loop has no use for it ignores.

    Attributes:
        prior: of the gradient that a prior gives.
        rgb, mask: of the reference picture (Qian et al. 2023, eq. 1). mask_loss: squared error, or binary cross-entropy.
        depth: negative Pearson correlation with the reference's depth (eq. 2).
        normal_blur: normals against their blurred picture (eq. 3). normal_tv: their total variation.
        entropy: of samples' opacities, growing over the first half of the steps. opacity: of rays. orientation: normals that face away.
        laplacian, normal_consistency: of a mesh. scale: of Gaussians, squared.
    """

    prior: float = 1.0
    rgb: float = 0.0
    mask: float = 0.0
    mask_loss: Literal["mse", "bce"] = "mse"
    depth: float = 0.0
    normal_blur: float = 0.0
    normal_tv: float = 0.0
    entropy: float = 0.0
    opacity: float = 0.0
    orientation: float = 0.0
    laplacian: float = 0.0
    normal_consistency: float = 0.0
    scale: float = 0.0


@dataclass(frozen=True)
class LoopSettings:
    """What the three loops share.

    Attributes:
        steps: of Adam.
        size: side of random views in pixels. first_size: the same until `first_until` of the steps; 0 is `size` throughout.
        views: random views a step.
        reference_scale: side of the reference view, times `size`.
        reference_first: steps at the start that see the reference alone.  reference_every: steps from one that sees it to the next.
        together: whether those steps see random views, too.
        random_background: whether random views stand before a random colour instead of white.
    """

    steps: int
    size: int
    first_size: int = 0
    first_until: float = 0.0
    views: int = 1
    reference_scale: float = 1.0
    reference_first: int = 0
    reference_every: int = 1
    together: bool = True
    random_background: bool = False
    cameras: NovelCameras = dataclasses.field(default_factory=NovelCameras)
    shading: ShadingSchedule = dataclasses.field(default_factory=ShadingSchedule)
    weights: LossWeights = dataclasses.field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Distil: at least one step is needed, not {self.steps}.")
        if self.size < 16 or (self.first_size and self.first_size < 16):
            raise ValueError(f"Distil: views of {min(self.size, self.first_size or self.size)} pixels are too small; use 16 or more.")
        if self.views < 1 or self.reference_every < 1 or self.reference_first < 0 or self.reference_scale <= 0:
            raise ValueError("Distil: at least one view a step, and positive intervals and scales.")

    def size_at(self, progress: float) -> int:
        """Side of random views at this share of the steps."""
        return self.first_size if self.first_size and progress < self.first_until else self.size


@dataclass(frozen=True)
class March:
    """How rays sample a field.

    Attributes:
        step: world units between samples, along the axis of view.
        grid: cells along an edge of the occupancy grid. every: steps between its updates. decay: of what it remembers.
        threshold: density of occupied cells, or the mean density where that is lower.
    """

    step: float = 3.4641 / 1024
    grid: int = 128
    every: int = 16
    decay: float = 0.95
    threshold: float = 10.0


@dataclass(frozen=True)
class CoarseSettings(LoopSettings):
    """The coarse stage: a density field.

    Attributes:
        normals: from "density" by central differences (as coded; seven times the evaluations), or from the rendered "depth" (as the
            paper writes).
        encoding_rate, network_rate: Adam's steps; both fall to `last_rate` times that.
    """

    field: FieldShape = dataclasses.field(default_factory=FieldShape)
    march: March = dataclasses.field(default_factory=March)
    normals: Literal["density", "depth"] = "density"
    encoding_rate: float = 0.01
    network_rate: float = 0.001
    last_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights.orientation and self.normals != "density":
            raise ValueError("Distil Field: the orientation loss needs normals from the density.")


@dataclass(frozen=True)
class FineSettings(LoopSettings):
    """The fine stage: a mesh on a grid, and a colour field.

    Attributes:
        surface: "dmtet" (Shen et al. 2021) or "flexicubes" (Shen et al. 2023).
        grid: cells along an edge.
        band: cells on either side of the first surface that can change; 0 is the whole grid (DMTet alone).
        color: the hash grid and perceptron of the colours; its density is not used.
        color_start: steps in which the colours learn those of the coarse stage, before anything else.
        sdf_rate, displacement_rate: Adam's steps, in cells. encoding_rate, network_rate: of the colours. All fall to `last_rate` times
            that.
        faces, texture: of the result.
    """

    surface: Literal["dmtet", "flexicubes"] = "dmtet"
    grid: int = 128
    band: float = 0.0
    color: FieldShape = dataclasses.field(default_factory=FieldShape)
    color_start: int = 200
    sdf_rate: float = 0.001
    displacement_rate: float = 0.001
    encoding_rate: float = 0.01
    network_rate: float = 0.001
    last_rate: float = 1.0
    faces: int = 50_000
    texture: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 8 <= self.grid <= 256:
            raise ValueError(f"Distil Mesh: a grid of {self.grid} cells is out of range; use 8 to 256, 128 is usual.")


@dataclass(frozen=True)
class SplatSettings(LoopSettings):
    """The loop on Gaussians.

    Attributes:
        fit: preset of `splats.fit_settings` that lends its learning rates and its rules of density.
        points: Gaussians of a start from nothing.
        grow: share of the Gaussians, those that the views pull most, that is cloned or split at each change of density. It takes the place
            of the preset's threshold: how large gradients are depends on the prior.
    """

    fit: str = "fast"
    points: int = 5000
    grow: float = 0.15


@dataclass(frozen=True)
class DistilPreset:
    """One file: settings of the three loops.

    Attributes:
        title, source: for people; where the numbers come from.
    """

    title: str
    source: str
    coarse: CoarseSettings
    fine: FineSettings
    splat: SplatSettings


_PARTS: dict[str, Any] = {"cameras": NovelCameras, "shading": ShadingSchedule, "weights": LossWeights, "march": March, "field": FieldShape,
                          "color": FieldShape}  # fmt: skip


def _read(kind: Any, data: dict[str, Any]) -> Any:
    unknown = set(data) - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"Distil: unknown settings {', '.join(sorted(unknown))}.")
    values = {name: _read(_PARTS[name], value) if name in _PARTS else tuple(value) if isinstance(value, list) else value
              for name, value in data.items()}  # fmt: skip
    return kind(**values)


@cache
def distil_preset_names() -> tuple[str, ...]:
    """Names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))


@cache
def load_distil_preset(name: str) -> DistilPreset:
    """The preset of this name: "threestudio", "as_coded", "paper" or "mini".

    Raises:
        ValueError: no such preset.
    """
    if name not in distil_preset_names():
        raise ValueError(f"There is no distillation preset {name!r}; choose one of {', '.join(distil_preset_names())}.")
    loops = {"coarse": CoarseSettings, "fine": FineSettings, "splat": SplatSettings}

    def make(data: dict[str, Any]) -> DistilPreset:
        return DistilPreset(data["title"], data["source"], **{part: _read(kind, data[part]) for part, kind in loops.items()})

    return read_preset(PRESET_FOLDER / f"{name}.json", make)
