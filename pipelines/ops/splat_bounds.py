"""Where a cloud of Gaussians is, whatever strays around it."""

from __future__ import annotations

from torch import Tensor

from ..data.splats import Splats

FAINT = 0.1  # Gaussians below this opacity say nothing about where the object is
STRAYS = 0.01  # of the Gaussians, at either end of an axis and farthest from the middle


def bounding_sphere(splats: Splats) -> tuple[Tensor, float]:
    """Centre (3,) and radius of a ball that holds all centres but faint Gaussians and a hundredth of strays; a radius above 0.

    Raises:
        ValueError: no Gaussians.
    """
    if len(splats) == 0:
        raise ValueError("There are no Gaussians.")
    clear = splats.opacities >= FAINT
    places = splats.positions[clear] if bool(clear.any()) else splats.positions
    ordered = places.sort(dim=0).values
    stray = int(STRAYS * (len(ordered) - 1))
    centre = (ordered[stray] + ordered[-1 - stray]) / 2
    distances = (places - centre).norm(dim=1).sort().values
    size = splats.scales.amax(1).median()
    return centre, max(float(distances[-1 - stray]), float(size))


def fit_to_sphere(splats: Splats, radius: float = 0.95) -> Splats:
    """The splats moved and scaled so that their bounding sphere stands around the origin with this radius.

    Raises:
        ValueError: no Gaussians.
    """
    centre, size = bounding_sphere(splats)
    factor = radius / size
    return Splats((splats.positions - centre) * factor, splats.scales * factor, splats.rotations, splats.opacities, splats.sh)
