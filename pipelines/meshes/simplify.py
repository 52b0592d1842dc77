"""Fewer faces."""

from __future__ import annotations

import torch

from ..data.mesh import Mesh
from ..ops.mesh_colors import colors_at_vertices
from ..ops.mesh_tools import merge_vertices
from .clean import drop_unused, sound_faces, take_rows


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about `faces` triangles, by quadric edge collapse (Garland and Heckbert 1997, fast-simplification).

    Colours are those of the nearest vertex before. A texture does not survive: its colours go to the vertices; bake anew afterwards.
    A mesh that is small enough comes back as it is.

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
    vertices, triangles = fast_simplification.simplify(points.double().numpy(), welded.int().numpy(), target_count=faces)
    small = Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(triangles).long())
    sound = small.faces[sound_faces(small.vertices, small.faces)]
    if sound.shape[0] == 0:
        raise ValueError("Simplifying: the mesh collapsed to nothing; it may be flat or broken. Clean it first, or ask for more faces.")
    small = drop_unused(take_rows(small, None, sound))
    colors = colors_at_vertices(mesh)
    if colors is not None:
        nearest = cKDTree(mesh.vertices.numpy()).query(small.vertices.numpy())[1]
        colors = colors[torch.from_numpy(nearest)]
    return Mesh(small.vertices, small.faces, vertex_colors=colors)
