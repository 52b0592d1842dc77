"""Camera sets by name.

A preset is a data file of `data/camera_presets`: azimuths relative to the picture, elevations (absent where the user
says it), radius in the world of the cube [-1, 1]^3, field of view, and where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..data.cameras import Cameras
from ..disk.presets import read_preset
from .orbits import posed_cameras

PRESET_FOLDER = Path(__file__).resolve().parents[1] / "data" / "camera_presets"


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

    def make(data: dict[str, Any]) -> CameraPreset:
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

    return read_preset(PRESET_FOLDER / f"{name}.json", make)


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
