"""Colours of a mesh at its vertices, whether they come from a texture, from the vertices, or both."""

from __future__ import annotations

from torch import Tensor

from ..data.mesh import Mesh
from .color import srgb_to_linear
from .texture_sampling import sample_texture


def colors_at_vertices(mesh: Mesh) -> Tensor | None:
    """Linear colours (V, 3) of the vertices: their own times the texture's there, as glTF multiplies them; None for a bare mesh."""
    if mesh.texture is None or mesh.uvs is None:
        return mesh.vertex_colors
    colors = srgb_to_linear(sample_texture(mesh.texture, mesh.uvs))
    return colors if mesh.vertex_colors is None else colors * mesh.vertex_colors
