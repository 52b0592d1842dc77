"""Leaves, cards and sheets modelled as two faces back to back: told from faces doubled by mistake, and from each other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def reversed_copies(faces: Tensor) -> Tensor:
    """Rows of faces that repeat an earlier one the other way round, where that is a mistake and not the other side of a sheet.

    A sheet ends somewhere: at an edge of its own that only the two faces back to back share. Copies on a surface that goes on all
    around them have none.

    Args:
        faces: (F, 3), each set of corners at most once for each winding.
    """
    corners = faces.numpy()
    paired, twin = _pairs(corners)
    if not len(paired):
        return torch.zeros(0, dtype=torch.int64)
    start, end = _edges(corners)
    key = np.minimum(start, end) * (int(corners.max()) + 1) + np.maximum(start, end)  # (F, 3)
    _, number, count = np.unique(key.reshape(-1), return_inverse=True, return_counts=True)
    number = number.reshape(-1, 3)
    own = number[paired]
    patch = _components(np.repeat(np.arange(len(paired)), 3), own.reshape(-1) + len(paired), len(paired) + len(count))[: len(paired)]
    ends = np.zeros(int(patch.max()) + 1, bool)
    ends[patch[(count[own] == 2).any(axis=1)]] = True
    copies = paired[~ends[patch]]
    return torch.from_numpy(copies[copies > twin[copies]])


def split_sides(faces: Tensor, n_vertices: int) -> tuple[Tensor, Tensor]:
    """Gives the back side of two-sided parts vertices of its own.

    Args:
        faces: (F, 3), each set of corners at most once for each winding.

    Returns:
        faces (F, 3) that count in the new vertices, and the old vertex of each new one (V',).
    """
    rows = torch.arange(n_vertices)
    corners = faces.numpy()
    paired, twin = _pairs(corners)
    if not len(paired):
        return faces, rows
    side = _sides(corners, paired, twin)
    back = paired[side[paired] > side[twin[paired]]]
    if not len(back):
        return faces, rows
    used, index = np.unique(corners[back], return_inverse=True)
    out = corners.copy()
    out[back] = index.reshape(-1, 3) + n_vertices
    return torch.from_numpy(out), torch.cat([rows, torch.from_numpy(used)])


def _pairs(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the faces that have a twin, and the twin of each face (F,), -1 without one."""
    _, number, count = np.unique(np.sort(corners, axis=1), axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    paired = np.flatnonzero(count[number] == 2)
    twins = paired[np.argsort(number[paired], kind="stable")].reshape(-1, 2)
    twin = np.full(len(corners), -1)
    twin[twins[:, 0]], twin[twins[:, 1]] = twins[:, 1], twins[:, 0]
    return paired, twin


def _edges(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return corners.astype(np.int64), np.roll(corners, -1, axis=1).astype(np.int64)


def _components(one: np.ndarray, other: np.ndarray, size: int) -> np.ndarray:
    """Number of the connected part of each of `size` nodes, linked in pairs."""
    from trimesh.graph import connected_component_labels

    return np.asarray(connected_component_labels(np.stack([one, other], axis=1), node_count=size))


def _sides(corners: np.ndarray, paired: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """A number for each face (F,): equal for faces that go on over an edge with the same winding, twins not counted."""
    owner = np.repeat(paired, 3)
    start, end = (ends[paired].reshape(-1) for ends in _edges(corners))
    size = int(corners.max()) + 1
    key, wanted = start * size + end, end * size + start
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], wanted, side="left")
    last = np.searchsorted(key[order], wanted, side="right")
    links = [np.zeros((0, 2), np.int64)]
    for step in range(int((last - first).max(initial=0))):
        there = np.flatnonzero(first + step < last)
        pair = np.stack([owner[there], owner[order][(first + step)[there]]], axis=1)
        links.append(pair[twin[pair[:, 0]] != pair[:, 1]])
    one, other = np.concatenate(links).T
    return _components(one, other, len(corners))
