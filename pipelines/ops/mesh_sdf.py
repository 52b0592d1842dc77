"""A mesh as signed distances on a grid, near its surface exact, elsewhere no more than a sign."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .mesh_tools import face_vectors

SPACING = 0.35  # of a cell, between samples of the surface
MOST_SAMPLES = 3_000_000
CANDIDATES = 16  # samples near a corner, whose faces are measured
AT_ONCE = 1 << 16
PLASTIC = 1.32471795724474602596  # its powers spread points evenly over a square (Roberts 2018)


class BandSDF(NamedTuple):
    """Signed distances at the corners of a grid.

    sdf: (N,) in cells, negative inside, clamped to the band's width. corners: (M,) ascending indices of those within the band.
    face, bary: (M,), (M, 3) where on the mesh the nearest surface point of each of them lies.
    """

    sdf: Tensor
    corners: Tensor
    face: Tensor
    bary: Tensor


def mesh_sdf(vertices: Tensor, faces: Tensor, corners: Tensor, resolution: int, band: float) -> BandSDF:
    """Signed distances of a mesh at the corners of `flexicubes.regular_grid`.

    The side comes from the normal of the nearest face, of several at the same distance that which is seen most directly; farther off,
    regions that the band cuts off take the side that most of their rim has, and what touches the border is outside. Open sheets become
    slabs as thick as the band: close meshes first.

    Args:
        vertices, faces: (V, 3), (F, 3).  corners: ((resolution + 1)^3, 3), x slowest.
        band: width in cells on either side of the surface.

    Raises:
        ValueError: a mesh without area, or no part of the surface lies within the grid.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    n = resolution + 1
    low = corners[0].double()
    cell = float(corners[1, 2] - corners[0, 2])
    if float((vertices.double()[faces[:, 0]] * face_vectors(vertices.double(), faces)).sum()) < 0:  # six times the volume
        faces = faces.flip(1)
    face, bary = _even_samples(vertices, faces, SPACING * cell)
    points = (vertices[faces[face]].double() * bary[..., None]).sum(1)
    if not len(points):
        raise ValueError("The mesh has no area: its faces are points or lines.")
    near = ((points - low) / cell).round().long()
    near = near[((near >= 0) & (near < n)).all(1)]
    if not len(near):
        raise ValueError("The mesh lies outside the grid: move it into the cube from -1 to 1.")

    touched = np.zeros((n, n, n), dtype=bool)
    touched[tuple(near.numpy().T)] = True
    in_band = ndimage.distance_transform_edt(~touched) <= band + 1
    rows = torch.from_numpy(np.flatnonzero(in_band))
    places = corners[rows].double()
    ranks = range(1, min(CANDIDATES, len(points)) + 1)
    found = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False).query(places.numpy(), k=ranks)[1]
    around = torch.from_numpy(found)
    pairs = zip(places.split(AT_ONCE), around.split(AT_ONCE), strict=True)
    signed = torch.cat([_signed(p, vertices.double()[faces[face[i]]]) for p, i in pairs]) / cell

    sdf = np.full(n**3, band)
    sdf[rows.numpy()] = signed.clamp(-band, band).numpy()
    labels, count = ndimage.label(~in_band)
    if count:
        rim = ndimage.grey_dilation(labels, size=3) * in_band
        votes = np.bincount(rim.reshape(-1), weights=np.sign(sdf), minlength=count + 1)
        border = np.concatenate([np.take(labels, [0, -1], axis=axis).reshape(-1) for axis in range(3)])
        votes[np.unique(border)] = 1
        outside = votes[labels] >= 0
        sdf = np.where(in_band.reshape(-1), sdf, np.where(outside.reshape(-1), band, -band))
    nearest = around[:, 0]
    return BandSDF(torch.from_numpy(sdf).float(), rows, face[nearest], bary[nearest].float())


def _signed(places: Tensor, triangles: Tensor) -> Tensor:
    """Signed distances (M,) of places (M, 3) to the nearest of K triangles each, (M, K, 3, 3)."""
    ends = triangles.roll(-1, 2) - triangles
    normals = torch.nn.functional.normalize(torch.linalg.cross(ends[..., 0, :], ends[..., 1, :]), dim=-1)
    offset = places[:, None, None] - triangles
    # On each edge the nearest point, and the foot on the plane where that lies within the triangle.
    along = ((offset * ends).sum(-1) / ends.square().sum(-1).clamp(min=1e-30)).clamp(0, 1)
    to_edges = (offset - along[..., None] * ends).norm(dim=-1).amin(-1)
    height = (offset[..., 0, :] * normals).sum(-1)
    above = ((torch.linalg.cross(ends, offset) * normals[..., None, :]).sum(-1) >= 0).all(-1) & (normals.abs().sum(-1) > 0)
    distance = torch.where(above, height.abs(), to_edges)
    nearest = distance.amin(1, keepdim=True)
    tied = distance <= nearest * (1 + 1e-6) + 1e-9
    chosen = torch.where(tied, height.abs(), -1.0).argmax(1, keepdim=True)
    return (nearest * torch.where(height.gather(1, chosen) < 0, -1.0, 1.0))[:, 0]


def _even_samples(vertices: Tensor, faces: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Faces (S,) and barycentrics (S, 3) of points about `spacing` apart, every face but slivers with at least one."""
    area = face_vectors(vertices.double(), faces).norm(dim=1) / 2
    spacing = max(spacing, float(area.sum() / MOST_SAMPLES) ** 0.5)
    count = (area / spacing**2).ceil().long()
    count[area <= 1e-4 * min(spacing**2, float(area.mean()))] = 0
    face = torch.repeat_interleave(torch.arange(len(faces)), count)
    number = torch.arange(len(face)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    # The first point of a face is its middle: of a small one there is no other.
    u, v = (1 / 3 + number / PLASTIC) % 1, (1 / 3 + number / PLASTIC**2) % 1
    outside = u + v > 1
    u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
    return face, torch.stack([1 - u - v, u, v], dim=1).double()
