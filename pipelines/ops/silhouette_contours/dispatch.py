"""How well silhouettes agree on one object: do the rays of their rims meet the visual hull?

A ray through the rim of a silhouette grazes the object, so somewhere on it lies a point that no other silhouette excludes.
Where the cameras are wrong there is none, and the distance by which the best point of the ray misses the other silhouettes
says how wrong they are. No volume is built: the hull is looked at along the rays alone (Matusik et al., "Image-based visual
hulls", 2000).

Backend policy: numba kernels where they compute a small case as the PyTorch form does, else that; said once in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ...data.cameras import Cameras
from .. import camera_math
from .torch_form import Rim, find_rim, torch_rim_misses

log = logging.getLogger(__name__)


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
    return _backend()(rim, cameras, reach, samples, worst)


@lru_cache
def _backend() -> Callable[[Rim, Cameras, float, int, float], Tensor]:
    """The form in use, after the module's policy."""
    try:
        from .numba_form import rim_misses as fast

        masks = torch.zeros(2, 1, 6, 8)
        masks[0, 0, 2:5, 1:6] = 1
        masks[1, 0, 1:3, 2:7] = 1
        c2w = camera_math.orbit(torch.tensor([0.0, 70.0]), torch.tensor([10.0, 10.0]), 4.0)
        case = (find_rim(masks, 8), Cameras(c2w, camera_math.intrinsics(30.0, 2), ("a", "b")), 1.0, 5, 3.0)
        if torch.allclose(fast(*case), torch_rim_misses(*case)):
            log.info("silhouette consistency: numba")
            return fast
        reason = "it computed a small case wrongly"
    except Exception as error:  # a broken installation may raise anything, and the PyTorch form always works
        reason = f"{type(error).__name__}: {error}"
    log.info("silhouette consistency: plain PyTorch (numba not usable: %s)", reason)
    return torch_rim_misses
