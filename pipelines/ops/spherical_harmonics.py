"""Colours that change with the direction they are seen from: real spherical harmonics up to degree 3.

Basis and order are those of 3D Gaussian splatting (Kerbl et al. 2023): degree by degree, orders -l to l, each with the sign (-1)^m.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor

from ..data.splats import MOST_DEGREES

OFFSET = 0.5  # a Gaussian whose coefficients are all 0 is grey
CONSTANT = sqrt(1 / (4 * pi))  # the basis function of degree 0

_C1 = sqrt(3 / (4 * pi))
_C2 = sqrt(15 / (4 * pi))
_C3_3, _C3_2, _C3_1 = sqrt(35 / (32 * pi)), sqrt(105 / (4 * pi)), sqrt(21 / (32 * pi))


def basis(directions: Tensor, degree: int) -> Tensor:
    """The (degree + 1)^2 basis functions at unit vectors (..., 3). Returns (..., K).

    Raises:
        ValueError: a degree outside 0 to 3.
    """
    if not 0 <= degree <= MOST_DEGREES:
        raise ValueError(f"Spherical harmonics of degree 0 to {MOST_DEGREES} are offered, not {degree}.")
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, CONSTANT)]
    if degree >= 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        terms += [_C2 * x * y, -_C2 * y * z, _C2 / sqrt(12) * (2 * zz - xx - yy), -_C2 * x * z, _C2 / 2 * (xx - yy)]
    if degree >= 3:
        terms += [
            -_C3_3 * y * (3 * xx - yy),
            _C3_2 * x * y * z,
            -_C3_1 * y * (4 * zz - xx - yy),
            sqrt(7 / (16 * pi)) * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3_1 * x * (4 * zz - xx - yy),
            _C3_2 / 2 * z * (xx - yy),
            -_C3_3 * x * (xx - 3 * yy),
        ]
    return torch.stack(terms, dim=-1)


def colors(sh: Tensor, means: Tensor, viewmats: Tensor, degree: int) -> Tensor:
    """What each camera sees of each Gaussian: max(0, 1/2 + sum of coefficient times basis function).

    Args:
        sh: (N, K, 3) coefficients, K at least (degree + 1)^2; those of higher degrees are left out.
        means: (N, 3) centres, world.
        viewmats: (C, 4, 4) world to camera, rigid.
        degree: 0 to 3.

    Returns:
        (C, N, 3), or (1, N, 3) at degree 0, where all cameras see the same. Differentiable with respect to sh and means.
    """
    used = (degree + 1) ** 2
    if degree == 0:
        return (sh[None, :, 0] * CONSTANT + OFFSET).clamp(min=0)
    eyes = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:])[:, None, :, 0]
    directions = torch.nn.functional.normalize(means - eyes, dim=-1)
    return (torch.einsum("cnk,nkd->cnd", basis(directions, degree), sh[:, :used]) + OFFSET).clamp(min=0)
