"""Meshes without doubled vertices, broken faces and crumbs; and in the middle of the cube."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..ops.mesh_tools import face_components, face_vectors, merge_vertices, taubin


def clean(
    mesh: Mesh,
    *,
    min_component: float = 0.005,
    largest_only: bool = False,
    smoothing: int = 0,
) -> Mesh:
    """Merges equal vertices and drops what is not surface: degenerate and doubled faces, crumbs, unused vertices.

    Vertices are merged only where their uvs and colours agree too, so textures and hard colour edges stay.

    Args:
        min_component: connected parts with a smaller share of the whole area go; 0 keeps all.
        largest_only: keep only the part with the largest area.
        smoothing: iterations of Taubin smoothing, 0 for none.

    Raises:
        ValueError: nothing would be left.
    """
    number, first = merge_vertices(mesh.vertices, mesh.uvs, mesh.vertex_colors)
    mesh = take_rows(mesh, first, number[mesh.faces])

    place, places = merge_vertices(mesh.vertices)
    faces = mesh.faces[sound_faces(mesh.vertices, mesh.faces, place)]
    if faces.shape[0] == 0:
        raise ValueError("Cleaning: the mesh has no faces with an area; there is nothing to keep.")
    part = face_components(place[faces], len(places))
    area = torch.zeros(int(part.max()) + 1, dtype=torch.float64)
    area.index_add_(0, part, face_vectors(mesh.vertices.double(), faces).norm(dim=1))
    keep = torch.zeros_like(area, dtype=torch.bool) if largest_only else area >= min_component * area.sum()
    keep[area.argmax()] = True
    mesh = drop_unused(take_rows(mesh, None, faces[keep[part]]))
    if smoothing > 0:
        place, places = merge_vertices(mesh.vertices)
        smooth = taubin(mesh.vertices[places], place[mesh.faces], smoothing)[place]
        mesh = Mesh(smooth, mesh.faces, mesh.uvs, mesh.texture, mesh.vertex_colors)
    return mesh


def fit_to_cube(mesh: Mesh, radius: float = 0.95) -> Mesh:
    """The mesh moved and scaled so that its bounding box is centred on the origin and its farthest vertex lies at `radius`.

    Raises:
        ValueError: the mesh has no size.
    """
    lower, upper = mesh.vertices.amin(0), mesh.vertices.amax(0)
    centred = mesh.vertices - (lower + upper) / 2
    farthest = float(centred.norm(dim=1).max())
    if farthest <= 0:
        raise ValueError("Fitting: the mesh is a single point, so it has no size.")
    return Mesh(centred * (radius / farthest), mesh.faces, mesh.uvs, mesh.texture, mesh.vertex_colors)


def sound_faces(vertices: Tensor, faces: Tensor, place: Tensor | None = None) -> Tensor:
    """Indices of the faces with three different corners and an area, each set of corners once."""
    corners = (faces if place is None else place[faces]).sort(dim=1).values
    distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    extent = float((vertices.max(0).values - vertices.min(0).values).norm()) if len(vertices) else 0.0
    area = face_vectors(vertices.double(), faces).norm(dim=1)
    rows = torch.nonzero(distinct & (area > 1e-14 * extent**2)).flatten()
    _, first = np.unique(corners[rows].numpy(), axis=0, return_index=True)
    return rows[torch.from_numpy(np.sort(first))]


def take_rows(mesh: Mesh, rows: Tensor | None, faces: Tensor) -> Mesh:
    """The mesh with these vertices (None: all) and these faces."""
    if rows is None:
        return Mesh(mesh.vertices, faces, mesh.uvs, mesh.texture, mesh.vertex_colors)
    uvs = None if mesh.uvs is None else mesh.uvs[rows]
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[rows]
    return Mesh(mesh.vertices[rows], faces, uvs, mesh.texture, colors)


def drop_unused(mesh: Mesh) -> Mesh:
    used, faces = torch.unique(mesh.faces, return_inverse=True)
    return take_rows(mesh, used, faces.reshape(-1, 3))
