"""Rasterising triangle meshes: face ids, barycentrics, interpolation.

Conventions: clip space is OpenGL's (y up, z in [-w, w], nearer is smaller); image row 0 is the top (y_ndc = +1); pixel
centres lie at +0.5; both sides of a face are drawn; a face with a corner at w <= 1e-8 is dropped whole, there is no near clipping.
"""

from __future__ import annotations

from torch import Tensor

from .backends import mesh_raster_numba as backend


def rasterize_mesh(pos: Tensor, tri: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Visible face, perspective-correct barycentrics and z/w at every pixel centre.

    Args:
        pos: (B, V, 4) clip-space positions.
        tri: (F, 3) int64 faces.
        size: (H, W).

    Returns:
        face (B, H, W) int64, -1 on the background; bary (B, H, W, 3); zw (B, H, W). The last two are 0 on the background.
    """
    face = backend.visibility(pos, tri, *size)
    bary, zw = backend.barycentrics(pos, tri, face)
    return face, bary, zw


def interpolate(attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Vertex attributes (V, A) or (B, V, A) at the pixels -> (B, H, W, A), 0 on the background."""
    return backend.interpolate(attr, tri, face, bary)
