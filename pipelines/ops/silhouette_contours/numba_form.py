"""Rays of silhouettes' rims against the other silhouettes, compiled by numba."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...data.cameras import Cameras
from .. import camera_math
from ..numba_jit import jit
from .torch_form import BEHIND, Rim, rim_rays


@jit
def _misses(distances, view, origins, directions, span, matrices, samples, worst, out):  # type: ignore[no-untyped-def]
    """matrices: (V, 3, 4), world to (x * depth, y * depth, depth) with x and y in pixels, centres at whole numbers."""
    views, height, width = distances.shape
    for ray in range(len(view)):
        best = worst
        for sample in range(samples):
            t = span[ray, 0] + (span[ray, 1] - span[ray, 0]) * (sample + 0.5) / samples
            px = origins[ray, 0] + t * directions[ray, 0]
            py = origins[ray, 1] + t * directions[ray, 1]
            pz = origins[ray, 2] + t * directions[ray, 2]
            most = 0.0
            for step in range(1, views):
                other = (view[ray] + step) % views
                m = matrices[other]
                z = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
                if z <= BEHIND:
                    most = worst
                    break
                x = (m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]) / z
                y = (m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]) / z
                x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
                column, row = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
                next_column, next_row = min(column + 1, width - 1), min(row + 1, height - 1)
                a, b = x - column, y - row
                top = distances[other, row, column] * (1 - a) + distances[other, row, next_column] * a
                bottom = distances[other, next_row, column] * (1 - a) + distances[other, next_row, next_column] * a
                most = max(most, top * (1 - b) + bottom * b)
                if most >= best:  # this point is no better than one before
                    break
            if most < best:
                best = most
                if best == 0.0:
                    break
        out[ray] = best


def rim_misses(rim: Rim, cameras: Cameras, reach: float, samples: int, worst: float) -> Tensor:
    """See `dispatch.rim_misses`."""
    height, width = rim.distances.shape[1:]
    K = cameras.K.double().numpy()
    to_camera = camera_math.world_to_camera(cameras.c2w.double()).numpy()
    lens = np.zeros((len(K), 3, 4))
    lens[:, 0, 0], lens[:, 0, 2] = K[:, 0] * width, 0.5 - K[:, 2] * width
    lens[:, 1, 1], lens[:, 1, 2] = -K[:, 1] * height, 0.5 - K[:, 3] * height
    lens[:, 2, 2] = -1
    origins, directions, span = (tensor.contiguous().numpy() for tensor in rim_rays(rim, cameras, reach))
    out = np.empty(len(rim.view))
    _misses(rim.distances.numpy(), rim.view.numpy(), origins, directions, span, lens @ to_camera, samples, float(worst), out)
    return torch.from_numpy(out)
