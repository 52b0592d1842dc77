"""The sum of Gaussians at points of space, and the mean of what they carry: splats read as a continuous function.

A point asks only the Gaussians whose box of `CUTOFF` standard deviations holds it. The boxes are sorted into cells, as DreamGaussian
(Tang et al. 2023, arXiv 2309.16653, sec. 3.2) asks the Gaussians of a block only.

Forms, chosen by `choose_backend`: numba on the CPU for any device (tensors are copied there and back); else the PyTorch form, which takes
the points block by block.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..choose_backend import GAUSSIAN_DENSITY, choose
from .torch_form import Gaussians


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(GAUSSIAN_DENSITY, device)


class GaussianSum:
    """Gaussians made ready once, to be asked at many points."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self._sum_at = backend_for(gaussians.means.device).sum_of(gaussians)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the Gaussians at (P, 3) points, (P,), and the sum of their values weighted so, (P, C), on the points' device."""
        total, values = self._sum_at(points)
        return total, values
