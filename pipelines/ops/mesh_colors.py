"""Base colours of a mesh, whether they come from a texture, from the vertices, or both: glTF multiplies them (section 3.9.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.mesh import Mesh
from .color import linear_to_srgb, srgb_to_linear
from .texture_bake import fill_gaps, texels
from .texture_sampling import sample_texture

BARE = 0.5  # sRGB of a mesh without colours


def is_colored(mesh: Mesh) -> bool:
    """Whether the mesh has base colours at all."""
    return mesh.texture is not None or mesh.vertex_colors is not None


def colors_at_vertices(mesh: Mesh) -> Tensor | None:
    """Linear colours of the vertices (V, 3), or (V, 4) where texture or vertices have alpha; None for a bare mesh."""
    if mesh.texture is None or mesh.uvs is None:
        return mesh.vertex_colors
    colors = _linear(sample_texture(mesh.texture, mesh.uvs))
    return colors if mesh.vertex_colors is None else _times(colors, mesh.vertex_colors)


def colors_on_faces(mesh: Mesh, face: Tensor, bary: Tensor) -> Tensor:
    """sRGB (N, 3) of places on a mesh, grey where it has no colours.

    Args:
        face: (N,) the face each place lies on.  bary: (N, 3) its barycentric coordinates.
    """
    corners = mesh.faces[face]

    def read(attribute: Tensor) -> Tensor:
        return (attribute[corners] * bary[..., None]).sum(1)

    texture = None if mesh.texture is None or mesh.uvs is None else sample_texture(mesh.texture, read(mesh.uvs))
    colors = base_color(texture, None if mesh.vertex_colors is None else read(mesh.vertex_colors))
    return torch.full((len(face), 3), BARE) if colors is None else colors[:, :3]


def base_color(texture: Tensor | None, own: Tensor | None) -> Tensor | None:
    """sRGB (..., 3 or 4) of sampled texture values (sRGB) and interpolated vertex colours (linear), either None; alpha stays linear."""
    if own is None:
        return texture
    product = own if texture is None else _times(_linear(texture), own)
    return torch.cat([linear_to_srgb(product[..., :3]), product[..., 3:]], dim=-1)


def factored(texture: Tensor, factor: Tensor) -> Tensor:
    """A texture (H, W, 3 or 4), sRGB, times a linear factor (4,); a fourth channel where either has alpha."""
    color = texture[..., :3]
    if bool((factor[:3] != 1).any()):
        color = linear_to_srgb(srgb_to_linear(color) * factor[:3]).clamp(0, 1)
    if texture.shape[2] == 3 and factor[3] == 1:
        return color
    alpha = texture[..., 3:] if texture.shape[2] == 4 else torch.ones_like(color[..., :1])
    return torch.cat([color, (alpha * factor[3]).clamp(0, 1)], dim=2)


def texture_with_vertex_colors(mesh: Mesh) -> Tensor | None:
    """The texture (H, W, 3 or 4) with the vertices' colours multiplied in, for what cannot hold both; None where it repeats over
    places of different colours (uvs that leave the unit square)."""
    assert mesh.texture is not None and mesh.uvs is not None
    if mesh.vertex_colors is None:
        return mesh.texture
    own = mesh.vertex_colors[mesh.faces.reshape(-1)]
    if bool((own == own[:1]).all()):
        product = base_color(mesh.texture, own[0].expand(*mesh.texture.shape[:2], -1))
        return product
    used = mesh.uvs[mesh.faces]
    if float(used.min()) < -1e-4 or float(used.max()) > 1 + 1e-4:
        return None
    size = max(mesh.texture.shape[:2])
    tint = torch.ones(size * size, own.shape[1])
    covered = torch.zeros(size * size, dtype=torch.bool)
    for part in texels(mesh.uvs, mesh.faces, size):
        tint[part.index], covered[part.index] = part.read(mesh.vertex_colors, mesh.faces), True
    if covered.any():
        tint = fill_gaps(tint.reshape(size, size, -1), covered.reshape(size, size)).reshape(size * size, -1)
    step = (torch.arange(size) + 0.5) / size
    grid = torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1)
    return base_color(sample_texture(mesh.texture, grid), tint.reshape(size, size, -1))


def _linear(texture: Tensor) -> Tensor:
    color = srgb_to_linear(texture[..., :3])
    return color if texture.shape[-1] == 3 else torch.cat([color, texture[..., 3:]], dim=-1)


def _times(one: Tensor, other: Tensor) -> Tensor:
    """The product of colours (..., 3 or 4); alpha missing is 1."""
    color = one[..., :3] * other[..., :3]
    alphas = [c[..., 3:] for c in (one, other) if c.shape[-1] == 4]
    if not alphas:
        return color
    return torch.cat([color, alphas[0] if len(alphas) == 1 else alphas[0] * alphas[1]], dim=-1)
