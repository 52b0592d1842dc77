"""Small questions about triangle meshes: areas, normals, welding, connected parts, smoothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def fitted(vertices: Tensor, radius: float) -> Tensor:
    """Vertices (V, 3), of any precision, with their bounding box centred on the origin and the farthest at `radius`.

    Raises:
        ValueError: they have no size.
    """
    centred = vertices - (vertices.amin(0) + vertices.amax(0)) / 2
    farthest = float(centred.norm(dim=1).max())
    if farthest <= 0:
        raise ValueError("it is a single point, so it has no size to fit")
    return centred * (radius / farthest)


def face_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normal of each face (F, 3), its length twice the face's area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (V, 3): the mean of the faces around a position, weighted by area, so that a texture seam does not show in them."""
    place, first = merge_vertices(vertices)
    sums = vertices.new_zeros(len(first), 3)
    sums.index_add_(0, place[faces].reshape(-1), face_vectors(vertices, faces).repeat_interleave(3, dim=0))
    return torch.nn.functional.normalize(sums[place], dim=1)


def merge_vertices(vertices: Tensor, *attributes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Finds vertices that coincide: same place within a millionth of the mesh's size, and the same attributes.

    Returns:
        number: (V,) int64, equal for vertices that coincide, counting up from 0 in order of first appearance.
        first: (N,) int64, the first vertex of each number.
    """
    number, first = _ids(_packed(vertices))
    for attribute in attributes:
        if attribute is not None:
            # Ids stay below 2^31 for any mesh that fits in memory, so a pair of them packs into one key.
            number, first = _ids(number * 2**31 + _ids(_packed(attribute))[0])
    return torch.from_numpy(number), torch.from_numpy(first)


def _packed(values: Tensor) -> np.ndarray:
    """Rows of up to three numbers as one int64 each, in steps of a millionth of the largest extent."""
    rows = values.detach().double().cpu().numpy()
    if len(rows) == 0:
        return np.zeros(0, dtype=np.int64)
    low, extent = rows.min(axis=0), max(float(np.ptp(rows, axis=0).max()), 1e-30)
    steps = np.rint((rows - low) / extent * (2**20 - 1)).astype(np.int64)
    key = steps[:, 0]
    for column in range(1, steps.shape[1]):
        key = key << 21 | steps[:, column]
    return key


def _ids(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first))
    return rank[inverse.reshape(-1)], first[order]


def face_components(faces: Tensor, n_vertices: int) -> Tensor:
    """Number of the connected part each face belongs to (F,), parts connected through shared vertices."""
    from trimesh.graph import connected_component_labels

    f = faces.cpu().numpy()
    labels = connected_component_labels(np.concatenate([f[:, :2], f[:, 1:]]), node_count=n_vertices)
    return torch.from_numpy(labels.astype(np.int64))[faces[:, 0].cpu()]


def taubin(vertices: Tensor, faces: Tensor, iterations: int, shrink: float = 0.5, grow: float = 0.53) -> Tensor:
    """Smooths without shrinking: each iteration moves vertices towards their neighbours' mean and a little further back.

    Taubin, "A Signal Processing Approach to Fair Surface Design", 1995, with uniform weights. Returns new (V, 3) vertices.
    """
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    n = vertices.shape[0]
    key = torch.unique(torch.cat([edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]]))
    here, there = key // n, key % n
    degree = torch.bincount(here, minlength=n)[:, None]
    for step in [shrink, -grow] * iterations:
        mean = torch.zeros_like(vertices).index_add(0, here, vertices[there]) / degree.clamp(min=1)
        vertices = torch.where(degree > 0, vertices + step * (mean - vertices), vertices)
    return vertices
