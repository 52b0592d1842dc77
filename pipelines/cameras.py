"""Camera sets by name, orbits, and the bookkeeping of views: which frames of a batch belong to which camera.

A preset is a data file of `data/camera_presets`: azimuths relative to the picture, elevations (absent where the user
says it), radius in the world of the cube [-1, 1]^3, field of view, and where the numbers come from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .data.cameras import Cameras
from .ops import camera_math

PRESET_FOLDER = Path(__file__).parent / "data" / "camera_presets"


@dataclass(frozen=True)
class CameraPreset:
    """One named camera set.

    Attributes:
        name: the file's name without `.json`.
        title: for people.
        azimuths: V degrees, relative to the picture's own azimuth.
        elevations: V degrees above the horizon, or None where the set is an orbit at an elevation the user chooses.
        radius: distance from the origin, world units.
        fov: field of view of the square image, degrees.
        source: where the numbers come from.
    """

    name: str
    title: str
    azimuths: tuple[float, ...]
    elevations: tuple[float, ...] | None
    radius: float
    fov: float
    source: str


@cache
def preset_names() -> tuple[str, ...]:
    """Names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))


@cache
def load_preset(name: str) -> CameraPreset:
    """The preset of this name.

    Raises:
        ValueError: no such preset.
    """
    if name not in preset_names():
        raise ValueError(f"There is no camera preset {name!r}; choose one of {', '.join(preset_names())}.")
    data = json.loads((PRESET_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    elevations = data["elevations"]
    return CameraPreset(
        name,
        data["title"],
        tuple(map(float, data["azimuths"])),
        None if elevations is None else tuple(map(float, elevations)),
        float(data["radius"]),
        float(data["fov"]),
        data["source"],
    )


def preset_cameras(name: str, *, input_azimuth: float = 0.0, elevation: float = 0.0, radius: float | None = None) -> Cameras:
    """The cameras of a preset.

    Args:
        name: one of `preset_names()`.
        input_azimuth: azimuth of the picture in degrees (0: it shows the object's front); added to every view.
        elevation: used only by presets that leave it to the user.
        radius: distance instead of the preset's own; None keeps that.

    Raises:
        ValueError: unknown preset, or numbers no camera can have.
    """
    preset = load_preset(name)
    elevations = preset.elevations if preset.elevations is not None else (elevation,) * len(preset.azimuths)
    azimuths = [azimuth + input_azimuth for azimuth in preset.azimuths]
    return posed_cameras(azimuths, elevations, preset.radius if radius is None else radius, preset.fov)


def orbit_cameras(
    n_views: int, *, elevation: float = 0.0, radius: float = 4.0, fov: float = 30.0, start: float = 0.0, turn: float = 360.0,
    endpoint: bool = False,
) -> Cameras:
    """`n_views` cameras at even steps of an orbit.

    Args:
        n_views: at least 1.
        elevation: degrees above the horizon.
        radius: distance from the origin, world units.
        fov: field of view in degrees.
        start: azimuth of the first view, degrees.
        turn: how far the orbit goes, degrees counter-clockwise seen from above; negative goes the other way.
        endpoint: whether the last view lies at `start + turn` (on a full turn it then repeats the first).

    Raises:
        ValueError: numbers no camera can have.
    """
    if n_views < 1:
        raise ValueError(f"An orbit needs at least one view, not {n_views}.")
    steps = max(n_views - 1, 1) if endpoint else n_views
    azimuths = [start + turn * i / steps for i in range(n_views)]
    return posed_cameras(azimuths, [elevation] * n_views, radius, fov)


def random_elevation(seed: int, lowest: float = 0.0, highest: float = 45.0) -> float:
    """An elevation in degrees, uniform between the two; IM-3D (arXiv 2402.08682, section 3.2) trains its orbits between 0 and 45.

    Raises:
        ValueError: the bounds are no elevations, or the wrong way round.
    """
    if not -90 <= lowest <= highest <= 90:
        raise ValueError(f"A random elevation lies between two of -90 to 90 degrees, the lower first, not {lowest} and {highest}.")
    share = float(torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return lowest + (highest - lowest) * share


def posed_cameras(azimuths: Sequence[float], elevations: Sequence[float], radius: float, fov: float) -> Cameras:
    """Cameras that look at the origin, named by their azimuth and elevation in degrees.

    Raises:
        ValueError: unequal lengths, radius not above 0, field of view outside (0, 180), elevation outside [-90, 90].
    """
    if len(azimuths) != len(elevations):
        raise ValueError(f"{len(azimuths)} azimuths need as many elevations, got {len(elevations)}.")
    if not radius > 0:
        raise ValueError(f"The camera distance must be above 0, not {radius}.")
    if not 0 < fov < 180:
        raise ValueError(f"The field of view must lie between 0 and 180 degrees, not {fov}.")
    if any(not -90 <= elevation <= 90 for elevation in elevations):
        raise ValueError(f"Elevations must lie between -90 and 90 degrees, got {list(elevations)}.")
    c2w = camera_math.orbit(torch.tensor(azimuths, dtype=torch.float64), torch.tensor(elevations, dtype=torch.float64), radius)
    names = tuple(f"azimuth {azimuth % 360:g}, elevation {elevation:g}" for azimuth, elevation in zip(azimuths, elevations, strict=True))
    return Cameras(c2w, camera_math.intrinsics(fov, len(names)), names)


def count_assets(n_frames: int, cameras: Cameras, what: str = "images") -> int:
    """B, the number of assets in a batch of B*V frames (asset-major).

    Raises:
        ValueError: `n_frames` is not a multiple of the number of views, or not the number of assets the cameras are for.
    """
    views = cameras.n_views
    if n_frames == 0 or n_frames % views:
        raise ValueError(
            f"{n_frames} {what} do not fit cameras of {views} views: each asset needs {views} {what}, one asset after the other. "
            f"Wire the cameras these {what} were made with, or choose matching views with Select Views."
        )
    assets = n_frames // views
    if cameras.n_assets not in (None, assets):
        raise ValueError(
            f"The cameras are posed for {cameras.n_assets} assets, but {n_frames} {what} of {views} views each are {assets} assets."
        )
    return assets


def join_cameras(first: Cameras, second: Cameras) -> Cameras:
    """The views of both sets, first's then second's. A shared set is repeated where the other one differs from asset to asset.

    Raises:
        ValueError: both are per asset and for different numbers of assets.
    """
    assets = first.n_assets if first.n_assets is not None else second.n_assets
    if second.n_assets not in (None, assets):
        raise ValueError(f"One camera set is for {first.n_assets} assets, the other for {second.n_assets}: they cannot be joined.")

    def spread(tensor: Tensor, shared: bool) -> Tensor:
        return tensor[None].expand(assets, *tensor.shape) if shared and assets is not None else tensor

    parts = [(spread(c.c2w, c.n_assets is None), spread(c.K, c.n_assets is None)) for c in (first, second)]
    view_axis = 0 if assets is None else 1
    return Cameras(
        torch.cat([c2w for c2w, _ in parts], dim=view_axis),
        torch.cat([K for _, K in parts], dim=view_axis),
        first.names + second.names,
    )


def join_frames(first: Tensor, second: Tensor, first_cameras: Cameras, second_cameras: Cameras) -> Tensor:
    """Frames (B*V1, ...) and (B*V2, ...) as (B*(V1+V2), ...), asset-major, each asset's first views before its second ones.

    Raises:
        ValueError: numbers of frames or assets that do not fit, frames of different size.
    """
    assets = count_assets(first.shape[0], first_cameras)
    others = count_assets(second.shape[0], second_cameras)
    if assets != others:
        raise ValueError(f"The first views show {assets} assets, the second {others}: both must show the same assets.")
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"The first frames are {_size(first)}, the second {_size(second)}: resize one of them (core's Upscale Image) before joining."
        )
    rows = [frames.reshape(assets, -1, *frames.shape[1:]) for frames in (first, second)]
    return torch.cat(rows, dim=1).flatten(0, 1)


def select_frames(frames: Tensor, cameras: Cameras, views: Sequence[int]) -> Tensor:
    """The given views of every asset: (B*V, ...) to (B*len(views), ...)."""
    assets = count_assets(frames.shape[0], cameras)
    return frames.reshape(assets, cameras.n_views, *frames.shape[1:])[:, list(views)].flatten(0, 1)


def parse_views(text: str, n_views: int) -> list[int]:
    """View indices written by a person: "0, 2, 4-5" gives [0, 2, 4, 5]; negative numbers count from the end.

    Raises:
        ValueError: nothing chosen, something that is no number, or an index outside the set.
    """
    views: list[int] = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        first, dash, last = part.partition("-") if part[0] != "-" else (part, "", "")
        try:
            views += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise ValueError(f"Views: {part!r} is neither a number nor a range such as 2-5.") from None
    if not views:
        raise ValueError("Views: name at least one view, for example 0, 2, 4-5.")
    outside = [view for view in views if not -n_views <= view < n_views]
    if outside:
        raise ValueError(f"Views: {outside} lie outside this set of {n_views} views (0 to {n_views - 1}).")
    return [view % n_views for view in views]


def _size(frames: Tensor) -> str:
    return "x".join(str(n) for n in reversed(frames.shape[1:3])) + " pixels"
