"""A triangle mesh with its colours: what core's MESH socket carries, one asset at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """One triangle mesh in world space (right-handed, +Y up, front along +Z), faces counter-clockwise seen from outside.

    Attributes:
        vertices: (V, 3) float32.
        faces: (F, 3) int64, every index below V.
        uvs: (V, 2) float32, origin at the top left of the texture as in glTF; or None.
        texture: (H, W, 3) float32 in [0, 1], sRGB, row 0 at the top; or None. Needs uvs.
        vertex_colors: (V, 3) float32 in [0, 1], linear as glTF's COLOR_0; or None.

    Raises:
        ValueError: wrong shapes, an index out of range, numbers that are not finite, a texture without uvs.
    """

    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None
    vertex_colors: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.vertices.shape[0]
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"Mesh: vertices must have shape (V, 3), not {tuple(self.vertices.shape)}.")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.dtype != torch.int64:
            raise ValueError(f"Mesh: faces must be int64 of shape (F, 3), not {self.faces.dtype} {tuple(self.faces.shape)}.")
        if not torch.isfinite(self.vertices).all():
            raise ValueError("Mesh: vertices hold NaN or infinite numbers.")
        if self.faces.numel() and (int(self.faces.min()) < 0 or int(self.faces.max()) >= n):
            raise ValueError(f"Mesh: a face names a vertex outside 0..{n - 1}.")
        if self.uvs is not None and tuple(self.uvs.shape) != (n, 2):
            raise ValueError(f"Mesh: uvs must have shape {(n, 2)}, not {tuple(self.uvs.shape)}.")
        if self.texture is not None:
            if self.uvs is None:
                raise ValueError("Mesh: a texture needs uvs.")
            if self.texture.ndim != 3 or self.texture.shape[2] != 3:
                raise ValueError(f"Mesh: texture must have shape (H, W, 3), not {tuple(self.texture.shape)}.")
        if self.vertex_colors is not None and tuple(self.vertex_colors.shape) != (n, 3):
            raise ValueError(f"Mesh: vertex_colors must have shape {(n, 3)}, not {tuple(self.vertex_colors.shape)}.")
