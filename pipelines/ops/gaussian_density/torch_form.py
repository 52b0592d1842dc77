"""The sum of Gaussians at points, in PyTorch: the oracle of the other form, and the Gaussians both are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..quaternions import rotation_matrices

CUTOFF = 3.0  # standard deviations: exp(-CUTOFF^2 / 2) is 0.011
POINTS_AT_ONCE = 2048


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians made ready to be asked.

    Attributes:
        means: (N, 3). inverse: (N, 6) upper triangle of the inverse covariance: xx, xy, xz, yy, yz, zz. peaks: (N,) value at the mean.
        values: (N, C) what they carry. radii: (N, 3) half sides of the axis-aligned box of `CUTOFF` standard deviations.
    """

    means: Tensor
    inverse: Tensor
    peaks: Tensor
    values: Tensor
    radii: Tensor

    def to(self, device: torch.device | str) -> Gaussians:
        """The same on `device`."""
        return Gaussians(*(part.to(device) for part in (self.means, self.inverse, self.peaks, self.values, self.radii)))


def prepare(positions: Tensor, scales: Tensor, rotations: Tensor, peaks: Tensor, values: Tensor) -> Gaussians:
    """Gaussians from centres (N, 3), standard deviations (N, 3), quaternions (N, 4), heights (N,) and what they carry (N, C)."""
    turn = rotation_matrices(rotations.double())
    inverse = turn / scales.double()[:, None].square() @ turn.transpose(1, 2)
    radii = CUTOFF * (turn * scales.double()[:, None]).norm(dim=2)
    upper = torch.stack([inverse[:, i, j] for i in range(3) for j in range(i, 3)], dim=1)
    return Gaussians(positions.float(), upper.float(), peaks.float(), values.float(), radii.float())


def mahalanobis(offsets: Tensor, inverse: Tensor) -> Tensor:
    """Squared Mahalanobis length (...) of offsets (..., 3) under inverse covariances (..., 6)."""
    x, y, z = offsets.unbind(-1)
    xx, xy, xz, yy, yz, zz = inverse.unbind(-1)
    return xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)


def sum_of(gaussians: Gaussians) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What every form offers: a function that `dispatch.GaussianSum.evaluate` describes, of these Gaussians."""
    return partial(evaluate_torch, gaussians)


def evaluate_torch(gaussians: Gaussians, points: Tensor) -> tuple[Tensor, Tensor]:
    """The sums on the points' device: blocks of points against the Gaussians whose boxes meet the block's."""
    if len(points) == 0:
        return points.new_zeros(0), points.new_zeros(0, gaussians.values.shape[1])
    gaussians = gaussians.to(points.device)
    totals, sums = [], []
    for block in points.split(POINTS_AT_ONCE):
        low, high = block.amin(0), block.amax(0)
        near = ((gaussians.means + gaussians.radii >= low) & (gaussians.means - gaussians.radii <= high)).all(1)
        offsets = block[:, None] - gaussians.means[near]
        squared = mahalanobis(offsets, gaussians.inverse[near])
        weight = torch.where(squared < CUTOFF**2, gaussians.peaks[near] * torch.exp(-0.5 * squared), 0.0)
        totals.append(weight.sum(1))
        sums.append(weight @ gaussians.values[near])
    return torch.cat(totals), torch.cat(sums)
