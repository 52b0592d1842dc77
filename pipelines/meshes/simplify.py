"""Fewer faces."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from ..data.material import Material
from ..data.mesh import Mesh
from ..ops.mesh_colors import colors_at_vertices
from ..ops.mesh_tools import merge_vertices
from ..ops.texture_sampling import sample_texture
from ..ops.two_sides import split_sides
from .clean import drop_unused, sound_faces

log = logging.getLogger(__name__)


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about `faces` triangles, by quadric edge collapse (Garland and Heckbert 1997, fast-simplification).

    Base colours are those of the nearest vertex before. Uvs, texture and maps do not survive: the base colour goes to the vertices, of
    a metallic-roughness map the mean stays, and what is lost is said in the log. A mesh that is small enough comes back as it is.

    Raises:
        ValueError: `faces` below 4, or a mesh that collapses to nothing.
    """
    if faces < 4:
        raise ValueError(f"Simplifying: {faces} faces are too few for a solid; use 4 or more.")
    if mesh.faces.shape[0] <= faces:
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree

    place, places = merge_vertices(mesh.vertices)
    points = mesh.vertices[places]
    welded = place[mesh.faces]
    welded = welded[sound_faces(points, welded)]
    welded, rows = split_sides(welded, len(points))
    vertices, triangles = fast_simplification.simplify(points[rows].double().numpy(), welded.int().numpy(), target_count=faces)
    small = Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(triangles).long())
    sound = small.faces[sound_faces(small.vertices, small.faces)]
    if sound.shape[0] == 0:
        raise ValueError("Simplifying: the mesh collapsed to nothing; it may be flat or broken. Clean it first, or ask for more faces.")
    small = drop_unused(small.take(None, sound))
    colors = colors_at_vertices(mesh)
    if colors is not None:
        nearest = cKDTree(mesh.vertices.numpy()).query(small.vertices.numpy())[1]
        colors = colors[torch.from_numpy(nearest)]
    _say_lost(mesh)
    return replace(small, vertex_colors=colors, material=_without_maps(mesh))


def _without_maps(mesh: Mesh) -> Material:
    """The material where no uvs are left: a metallic-roughness map gives way to its mean over the vertices."""
    material, shine = mesh.material, mesh.material.metallic_roughness
    metallic, roughness = material.metallic, material.roughness
    if shine is not None and mesh.uvs is not None:
        _, green, blue = sample_texture(shine, mesh.uvs).mean(0).tolist()
        metallic, roughness = metallic * blue, roughness * green
    glow = (0.0, 0.0, 0.0) if material.emissive is not None else material.emissive_factor
    return replace(material.without_maps(), metallic=metallic, roughness=roughness, emissive_factor=glow)


def _say_lost(mesh: Mesh) -> None:
    lost = ["texture (its colours go to the vertices)"] if mesh.texture is not None else []
    lost += [name for name in mesh.beyond_color() if name != "material factors"]
    if lost:
        log.warning("Simplify Mesh: its vertices are new, so the mesh loses its %s. Bake a texture anew afterwards.", ", ".join(lost))
