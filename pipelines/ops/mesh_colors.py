"""Colours of a mesh, whether they come from a texture, from the vertices, or both."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.mesh import Mesh
from .color import linear_to_srgb, srgb_to_linear
from .texture_sampling import sample_texture

BARE = 0.5  # sRGB of a mesh without colours


def colors_at_vertices(mesh: Mesh) -> Tensor | None:
    """Linear colours (V, 3) of the vertices: their own times the texture's there, as glTF multiplies them; None for a bare mesh."""
    if mesh.texture is None or mesh.uvs is None:
        return mesh.vertex_colors
    colors = srgb_to_linear(sample_texture(mesh.texture, mesh.uvs))
    return colors if mesh.vertex_colors is None else colors * mesh.vertex_colors


def colors_on_faces(mesh: Mesh, face: Tensor, bary: Tensor) -> Tensor:
    """sRGB (N, 3) of places on a mesh, the texture's colour times the vertices'; grey where it has neither.

    Args:
        face: (N,) the face each place lies on.  bary: (N, 3) its barycentric coordinates.
    """
    corners = mesh.faces[face]

    def read(attribute: Tensor) -> Tensor:
        return (attribute[corners] * bary[..., None]).sum(1)

    texture = None if mesh.texture is None or mesh.uvs is None else sample_texture(mesh.texture, read(mesh.uvs))
    if mesh.vertex_colors is None:
        return torch.full((len(face), 3), BARE) if texture is None else texture
    own = read(mesh.vertex_colors)
    return linear_to_srgb(own if texture is None else own * srgb_to_linear(texture))
