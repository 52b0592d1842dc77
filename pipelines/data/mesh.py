"""A triangle mesh with its colours and material: what core's MESH socket carries, one asset at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .material import Material

FARTHEST = 1e12  # coordinates beyond this are no object's; normals and areas of float32 overflow soon after


@dataclass(frozen=True)
class Mesh:
    """One triangle mesh in world space (right-handed, +Y up, front along +Z), faces counter-clockwise seen from outside.

    Its base colour is the texture's times the vertices', as glTF multiplies them.

    Attributes:
        vertices: (V, 3) float32.
        faces: (F, 3) int64, every index below V.
        uvs: (V, 2) float32, origin at the top left of the texture as in glTF; or None.
        texture: (H, W, 3) float32 in [0, 1], sRGB, row 0 at the top, or (H, W, 4) with linear alpha; or None. Needs uvs.
        vertex_colors: (V, 3) float32 in [0, 1], linear as glTF's COLOR_0, or (V, 4) with alpha; or None.
        normals: (V, 3) float32, unit length; None means smooth ones, weighted by the faces' areas.
        tangents: (V, 4) float32, unit length and handedness as glTF's TANGENT; or None.
        material: the rest of the look. Its maps need uvs.

    Raises:
        ValueError: wrong shapes, an index out of range, numbers that are not finite, coordinates beyond 1e12, a map without uvs.
    """

    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None
    vertex_colors: Tensor | None = None
    normals: Tensor | None = None
    tangents: Tensor | None = None
    material: Material = field(default_factory=Material)

    def __post_init__(self) -> None:
        n = self.vertices.shape[0]
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"Mesh: vertices must have shape (V, 3), not {tuple(self.vertices.shape)}.")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.dtype != torch.int64:
            raise ValueError(f"Mesh: faces must be int64 of shape (F, 3), not {self.faces.dtype} {tuple(self.faces.shape)}.")
        if self.faces.numel() and (int(self.faces.min()) < 0 or int(self.faces.max()) >= n):
            raise ValueError(f"Mesh: a face names a vertex outside 0..{n - 1}.")
        for name, widths in {"uvs": (2,), "vertex_colors": (3, 4), "normals": (3,), "tangents": (4,)}.items():
            value = getattr(self, name)
            if value is not None and (value.ndim != 2 or value.shape[0] != n or value.shape[1] not in widths):
                raise ValueError(f"Mesh: {name} must have shape {(n, widths[0])}, not {tuple(value.shape)}.")
        if self.texture is not None and (self.texture.ndim != 3 or self.texture.shape[2] not in (3, 4) or 0 in self.texture.shape):
            raise ValueError(f"Mesh: texture must have shape (H, W, 3) or (H, W, 4), not {tuple(self.texture.shape)}.")
        if self.uvs is None and (self.texture is not None or self.material.maps()):
            raise ValueError("Mesh: a texture needs uvs.")
        for name in ("vertices", "uvs", "texture", "vertex_colors", "normals", "tangents"):
            value = getattr(self, name)
            if value is not None and not bool(torch.isfinite(value).all()):
                raise ValueError(f"Mesh: {name} hold NaN or infinite numbers.")
        farthest = float(self.vertices.detach().abs().max()) if n else 0.0
        if farthest > FARTHEST:
            raise ValueError(f"Mesh: vertices lie up to {farthest:.3g} from the origin; at most {FARTHEST:g} is an object.")

    def beyond_color(self) -> list[str]:
        """Names of what it has beside shape and base colour: what a stage that makes a new surface loses."""
        names = {"metallic_roughness": "metallic-roughness map", "normal_map": "normal map", "emissive": "emissive map"}
        found = [names[name] for name in self.material.maps()]
        if self.normals is not None:
            found.append("normals of its own")
        if self.material.without_maps() != Material():
            found.append("material factors")
        return found

    def take(self, rows: Tensor | None, faces: Tensor) -> Mesh:
        """The mesh with these vertices (None: all) and these faces, which count in the new vertices."""
        if rows is None:
            return replace(self, faces=faces)
        per_vertex = ("vertices", "uvs", "vertex_colors", "normals", "tangents")
        taken: dict[str, Any] = {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in per_vertex}
        return replace(self, faces=faces, **taken)

    def reshaped(self, vertices: Tensor) -> Mesh:
        """The mesh with its vertices (V, 3) moved apart from each other: what was told of directions is told no more."""
        return replace(self, vertices=vertices, normals=None, tangents=None)
