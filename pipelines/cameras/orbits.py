"""Cameras on orbits around the origin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data.cameras import Cameras
from ..ops import camera_math


def orbit_cameras(
    n_views: int,
    *,
    elevation: float = 0.0,
    radius: float = 4.0,
    fov: float = 30.0,
    start: float = 0.0,
    turn: float = 360.0,
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
