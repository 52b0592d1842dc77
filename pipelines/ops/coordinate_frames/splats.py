"""Between Lathe's world, which is y-up, and the y-down space of 3D Gaussian splatting's files and of SPLAT sockets.

The two differ by half a turn about x: world (x, y, z) = (x, -y, -z). It is a rotation, so nothing is mirrored.
"""

from __future__ import annotations

import torch

from ...data.splats import Splats

# Each spherical harmonic up to degree 3 is even or odd in (y, z) together; order as in `ops.spherical_harmonics`.
SH_SIGNS = (1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)


def turn_upside(splats: Splats) -> Splats:
    """Half a turn about x of positions, orientations and the colours' dependence on direction: world to y-down space, and back.

    Twice gives the same splats again, with quaternions of the other sign, which are the same rotations.
    """
    half_turn = torch.tensor([1.0, -1.0, -1.0]).to(splats.positions)
    w, x, y, z = splats.rotations.unbind(-1)
    signs = torch.tensor(SH_SIGNS[: splats.sh.shape[1]]).to(splats.sh)
    return Splats(
        positions=splats.positions * half_turn,
        scales=splats.scales,
        rotations=torch.stack([-x, w, -z, y], dim=-1),  # the quaternion (0, 1, 0, 0) from the left
        opacities=splats.opacities,
        sh=splats.sh * signs[:, None],
    )
