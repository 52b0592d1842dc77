"""Meshes without doubled vertices, broken faces and crumbs; and in the middle of the cube."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..ops.mesh_tools import face_components, face_vectors, fitted, merge_vertices, taubin
from ..ops.two_sides import reversed_copies


def clean(
    mesh: Mesh,
    *,
    min_component: float = 0.005,
    largest_only: bool = False,
    smoothing: int = 0,
) -> Mesh:
    """Merges equal vertices and drops what is not surface: degenerate and doubled faces, crumbs, unused vertices.

    Vertices are merged only where uvs, colours, normals and tangents agree too, so textures and hard edges stay. Smoothing moves
    vertices, so it drops normals and tangents.

    Args:
        min_component: connected parts with a smaller share of the whole area go; 0 keeps all.
        largest_only: keep only the part with the largest area.
        smoothing: iterations of Taubin smoothing, 0 for none.

    Raises:
        ValueError: nothing would be left.
    """
    number, first = merge_vertices(mesh.vertices, mesh.uvs, *_columns(mesh.vertex_colors), mesh.normals, *_columns(mesh.tangents))
    mesh = mesh.take(first, number[mesh.faces])

    place, places = merge_vertices(mesh.vertices)
    faces = mesh.faces[sound_faces(mesh.vertices, mesh.faces, place)]
    if faces.shape[0] == 0:
        raise ValueError("Cleaning: the mesh has no faces with an area; there is nothing to keep.")
    part = face_components(place[faces], len(places))
    area = torch.zeros(int(part.max()) + 1, dtype=torch.float64)
    area.index_add_(0, part, face_vectors(mesh.vertices.double(), faces).norm(dim=1))
    keep = torch.zeros_like(area, dtype=torch.bool) if largest_only else area >= min_component * area.sum()
    keep[area.argmax()] = True
    mesh = drop_unused(mesh.take(None, faces[keep[part]]))
    if smoothing > 0:
        place, places = merge_vertices(mesh.vertices)
        smooth = taubin(mesh.vertices[places], place[mesh.faces], smoothing)[place]
        mesh = mesh.reshaped(smooth)
    return mesh


def fit_to_cube(mesh: Mesh, radius: float = 0.95) -> Mesh:
    """The mesh moved and scaled so that its bounding box is centred on the origin and its farthest vertex lies at `radius`.

    Raises:
        ValueError: the mesh has no size.
    """
    return replace(mesh, vertices=fitted(mesh.vertices, radius))


def sound_faces(vertices: Tensor, faces: Tensor, place: Tensor | None = None) -> Tensor:
    """Indices of the faces with three different corners and an area, each set of corners once; leaves and cards, which are often two
    faces back to back, keep both."""
    corners = faces if place is None else place[faces]
    distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
    extent = float((vertices.max(0).values - vertices.min(0).values).norm()) if len(vertices) else 0.0
    area = face_vectors(vertices.double(), faces).norm(dim=1)
    rows = torch.nonzero(distinct & (area > 1e-14 * extent**2)).flatten()
    corners = corners[rows]
    first = corners.argmin(dim=1, keepdim=True)
    turned = corners.gather(1, (first + torch.arange(3)) % 3)
    kept = torch.from_numpy(np.sort(np.unique(turned.numpy(), axis=0, return_index=True)[1]))
    once = torch.ones(len(kept), dtype=torch.bool)
    once[reversed_copies(corners[kept])] = False
    return rows[kept[once]]


def drop_unused(mesh: Mesh) -> Mesh:
    """The mesh without vertices of no face."""
    used, faces = torch.unique(mesh.faces, return_inverse=True)
    return mesh.take(used, faces.reshape(-1, 3))


def _columns(attribute: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Up to three columns, and a fourth."""
    return (None, None) if attribute is None else (attribute[:, :3], attribute[:, 3:] if attribute.shape[1] > 3 else None)
