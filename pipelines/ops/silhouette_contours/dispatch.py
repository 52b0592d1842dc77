"""How well silhouettes agree on one object: do the rays of their rims meet the visual hull?

A ray through the rim of a silhouette grazes the object, so somewhere on it lies a point that no other silhouette excludes.
Where the cameras are wrong there is none, and the distance by which the best point of the ray misses the other silhouettes
says how wrong they are. No volume is built: the hull is looked at along the rays alone (Matusik et al., "Image-based visual
hulls", 2000).

Forms, chosen by `choose_backend`: numba, else PyTorch; both on the CPU, where cameras lie.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...data.cameras import Cameras
from ..choose_backend import SILHOUETTES, choose
from .torch_form import Rim


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(SILHOUETTES, device)


def rim_misses(rim: Rim, cameras: Cameras, reach: float, samples: int, worst: float) -> Tensor:
    """By how many pixels the best point of each rim ray misses the other silhouettes.

    Args:
        rim: of the V silhouettes.
        cameras: their V cameras.
        reach: points are looked for up to this far, in depth, before and behind the depth of the origin; world units.
        samples: points on a ray.
        worst: misses are cut off here, in pixels, so that one wrong silhouette does not decide alone.

    Returns:
        (R,) float64: for each ray the least, over its points, of the largest distance to another silhouette. What lies outside
        a picture is as far from the silhouette as the nearest pixel of the border: an object may go on there.
    """
    misses: Tensor = backend_for(rim.distances.device).rim_misses(rim, cameras, reach, samples, worst)
    return misses
