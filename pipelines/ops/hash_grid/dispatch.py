"""Multiresolution hash encoding of points (Müller et al. 2022, "Instant neural graphics primitives"): a grid of features per level.

Level l divides the cube [-1, 1]^3 into R_l cells along each axis, R_l = floor(base * b^l) with b = (finest / base)^(1 / (levels - 1))
(eq. 2 and 3). Features lie at the (R_l + 1)^3 corners and are blended with smoothstep weights 3 w^2 - 2 w^3 per axis, so that the
field has a continuous first derivative. Points outside the cube read its nearest border point.

Layout of the table, one row of features per entry, level after level:
- where the corners fit into 2^log2_size rows the level is dense: row x + (R_l + 1) (y + (R_l + 1) z), rounded up to a multiple of 8 rows;
- else the corners share 2^log2_size rows by the paper's hash: (x ^ y * 2654435761 ^ z * 805459861) mod 2^log2_size (eq. 4).

Forms, chosen by `choose_backend`: on CUDA tiny-cuda-nn, elsewhere numba (tensors of other devices are copied to the CPU and back); at last
the PyTorch form on the device. float64, and other than 2 features a level, are PyTorch's.
Gradients go to the table and to the points, first order only: for losses on normals take finite differences of the field.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from ..choose_backend import HASH_GRID, choose
from . import torch_form
from .layout import HashLayout

__all__ = ["HashGrid", "HashLayout", "backend_for"]
SPREAD = 1e-4  # of the table's first values, the paper's


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(HASH_GRID, device)


class HashGrid(nn.Module):
    """The table and its interpolation. `table` is (rows, features) float32, uniform in +-1e-4 at first.

    Args:
        levels: grids from coarse to fine.
        features: numbers that a level gives to a point.
        log2_size: rows of a level at most, as a power of 2.
        base, finest: cells along an axis of the coarsest and the finest level.
        seed: of the first values.

    Raises:
        ValueError: numbers that make no grid.
    """

    def __init__(self, levels: int = 16, features: int = 2, log2_size: int = 19, base: int = 16, finest: int = 2048, seed: int = 0) -> None:
        super().__init__()
        if levels < 1 or features < 1 or not 3 <= log2_size <= 24 or not 1 <= base <= finest <= 1 << 16:
            raise ValueError(
                f"Hash grid: {levels} levels of {features} features, {base} to {finest} cells, 2^{log2_size} rows. Expected at least one "
                "level and feature, 1 <= base <= finest <= 65536 cells, and 2^3 to 2^24 rows."
            )
        self.levels, self.features = levels, features
        self.layout = HashLayout.of(levels, log2_size, base, finest)
        draws = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter((torch.rand(self.layout.starts[-1], features, generator=draws) * 2 - 1) * SPREAD)

    @property
    def width(self) -> int:
        """Numbers that a point gets."""
        return self.levels * self.features

    def forward(self, points: Tensor, levels: int | None = None) -> Tensor:
        """Features of points.

        Args:
            points: (N, 3) in [-1, 1], in the table's dtype and on its device.
            levels: how many levels, from the coarsest, take part; the others give 0 and get no gradient. None: all.

        Returns:
            (N, levels * features), level after level. NaN where a point is.

        Raises:
            ValueError: points of another shape, or more levels than there are.
        """
        active = self.levels if levels is None else levels
        if points.dim() != 2 or points.shape[1] != 3 or not 0 <= active <= self.levels:
            raise ValueError(f"Hash grid: points {tuple(points.shape)} at {active} levels; expected (N, 3), at most {self.levels} levels.")
        plain = self.table.dtype == torch.float64 or self.features != 2
        backend = torch_form if plain else backend_for(points.device)
        encoded = backend.encode(self.table, points, self.layout, active)
        return encoded if active == self.levels else nn.functional.pad(encoded, (0, self.width - encoded.shape[1]))
