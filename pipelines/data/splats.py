"""A cloud of 3D Gaussians with their colours: what core's SPLAT socket carries, one asset at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_DEGREES = 3
LARGEST = 1e12  # of a number of theirs; its square still fits single precision
FLAT = 1e-7  # of a Gaussian's longest axis: below, it has no thickness that float32 could compute with
THICKNESS = 1e-4  # what such an axis gets instead, of the longest


@dataclass(frozen=True)
class Splats:
    """N Gaussians in world space (right-handed, +Y up, front along +Z). At sockets and in files they stand y-down instead.

    Attributes:
        positions: (N, 3) float32 centres.
        scales: (N, 3) float32 standard deviations along the Gaussian's own axes, linear, above 0.
        rotations: (N, 4) float32 unit quaternions, w first.
        opacities: (N,) float32 in [0, 1].
        sh: (N, K, 3) float32 spherical harmonics of sRGB, constant term first, K = 1, 4, 9 or 16; colour = 0.5 + sum of coefficients times
            basis functions.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, scales of 0 or below, opacities outside [0, 1], a quaternion of length 0.
    """

    positions: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n = len(self.positions)
        expected = {"positions": (n, 3), "scales": (n, 3), "rotations": (n, 4), "opacities": (n,)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"Splats: {name} must have shape {shape}, not {tuple(getattr(self, name).shape)}.")
        terms = [(d + 1) ** 2 for d in range(MOST_DEGREES + 1)]
        if self.sh.ndim != 3 or self.sh.shape[0] != n or self.sh.shape[2] != 3 or self.sh.shape[1] not in terms:
            raise ValueError(f"Splats: sh must have shape ({n}, 1, 4, 9 or 16, 3), not {tuple(self.sh.shape)}.")
        for name in (*expected, "sh"):
            values = getattr(self, name).detach()
            # The extremes are NaN where a number is; unlike isfinite of each number they take no memory.
            if values.numel() and not torch.isfinite(torch.stack(torch.aminmax(values))).all():
                raise ValueError(f"Splats: {name} hold NaN or infinite numbers.")
        if not (self.scales > 0).all():
            raise ValueError("Splats: scales are standard deviations and must be above 0; are these logarithms?")
        if not ((self.opacities >= 0) & (self.opacities <= 1)).all():
            raise ValueError("Splats: opacities must lie in [0, 1]; are these logits?")
        if not (self.rotations.norm(dim=-1) > 1e-8).all():
            raise ValueError("Splats: a rotation is a quaternion of length 0.")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return round(self.sh.shape[1] ** 0.5) - 1

    def select(self, rows: Tensor) -> Splats:
        """The Gaussians of these indices, or of a mask (N,)."""
        return Splats(self.positions[rows], self.scales[rows], self.rotations[rows], self.opacities[rows], self.sh[rows])


def with_thickness(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (N, 3) in which flat Gaussians, as of 2D Gaussian splatting, have a least thickness; and which were flat, (N,) bool.

    Gaussians without any size, or with numbers that are not finite, stay as they are.
    """
    longest = scales.amax(1, keepdim=True)
    thin = (scales >= 0) & (scales <= FLAT * longest) & (longest > 0) & torch.isfinite(longest)
    return torch.where(thin, THICKNESS * longest, scales), thin.any(1)
