"""A part of triangles whose corners may have uvs of their own and whose faces may have colours of their own."""

from __future__ import annotations

import numpy as np

from .file_colors import see_through
from .parts import Look, Part
from .polygons import distinct_corners


def colored_part(
    positions: np.ndarray,
    corners: np.ndarray,
    look: Look,
    *,
    colors: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    uvs: np.ndarray | None = None,
    uv_of: np.ndarray | None = None,
    painted: np.ndarray | None = None,
    face_of: np.ndarray | None = None,
) -> Part:
    """One part. A vertex stands once for each uv and each colour of a face that it is used with; those not used are left out.

    Args:
        positions: (V, 3) float64.
        corners: (3T,) int64, the vertex of each corner.
        colors: (V, 3 or 4) linear, of vertices; normals: (V, 3).
        uvs: (V, 2) of vertices, or with `uv_of` (U, 2), of which corner c has `uv_of[c]`, (3T,).
        painted: (F, 3 or 4) linear, colours of polygons; `face_of`: (3T,) the polygon of each corner.
    """
    none = np.full(len(corners), -1)
    palette, hue = None, none
    if painted is not None and face_of is not None:
        palette, ids = np.unique(painted, axis=0, return_inverse=True)
        hue = ids.reshape(-1)[face_of]
    found, faces = distinct_corners(np.stack([corners, none if uv_of is None else uv_of, hue], axis=1))
    at = found[:, 0]
    if palette is not None:
        colors = palette[found[:, 2]]
    elif colors is not None:
        colors = colors[at]
    return Part(
        vertices=positions[at],
        faces=faces.reshape(-1, 3),
        look=see_through(look, colors),
        uvs=None if uvs is None else uvs[at if uv_of is None else found[:, 1]],
        colors=colors,
        normals=None if normals is None else normals[at],
    )
