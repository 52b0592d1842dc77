"""The sum of Gaussians at points of space, and the mean of what they carry: splats read as a continuous function.

A point asks only the Gaussians whose box of `CUTOFF` standard deviations holds it. The boxes are sorted into cells, as DreamGaussian
(Tang et al. 2023, arXiv 2309.16653, sec. 3.2) asks the Gaussians of a block only. On the CPU numba kernels do this (other devices'
tensors are copied there and back); without numba the PyTorch form takes the points block by block.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from types import ModuleType

from torch import Tensor

from .torch_form import Gaussians, evaluate_torch

log = logging.getLogger(__name__)


@lru_cache
def _kernels() -> ModuleType | None:
    try:
        from . import numba_form

        return numba_form
    except Exception as error:  # a broken installation may raise anything, and PyTorch always works
        log.info("Gaussian density: plain PyTorch (numba not usable: %s)", error)
        return None


class GaussianSum:
    """Gaussians sorted into cells once, to be asked at many points."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        kernels = _kernels()
        self._cells = None if kernels is None else kernels.sort_into_cells(gaussians)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the Gaussians at (P, 3) points, (P,), and the sum of their values weighted so, (P, C), on the points' device."""
        kernels = _kernels()
        if kernels is None or self._cells is None:
            return evaluate_torch(self.gaussians, points)
        total, values = kernels.evaluate(self.gaussians, self._cells, points.detach().float().cpu().contiguous())
        return total.to(points.device), values.to(points.device)
