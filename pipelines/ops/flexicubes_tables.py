"""Case tables of dual marching cubes, worked out from the topology of a cube instead of written down.

A cube's corners are numbered x + 2y + 4z. Its case is the 8-bit number whose bit i says that corner i lies inside. In each
case the crossed edges fall into loops, and each loop gets one vertex of the dual mesh (Nielson, "Dual Marching Cubes", 2004).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

CORNERS: tuple[tuple[int, int, int], ...] = tuple((i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8))
"""Offset of each corner from the cube's lowest one."""

EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 5), (4, 5), (0, 4),
    (2, 3), (3, 7), (6, 7), (2, 6),
    (2, 0), (3, 1), (7, 5), (6, 4),
)  # fmt: skip
"""Corner pairs. Order and direction belong to the format: networks predict beta by this order, and the direction orders the faces."""


class CaseTables(NamedTuple):
    """What each of the 256 cases looks like, int64 arrays. A patch is a loop of crossed edges: one dual vertex.

    n_patches: (256,).
    slot_edge: (256, 12) the crossed edges patch by patch, then -1.
    slot_patch: (256, 12) the patch of each slot.
    ambiguous: (256, 3) step to the neighbour across the face that may make the mesh non-manifold; 0 where none may.
    """

    n_patches: np.ndarray
    slot_edge: np.ndarray
    slot_patch: np.ndarray
    ambiguous: np.ndarray


@cache
def case_tables() -> CaseTables:
    """The tables, computed once (about 20 ms)."""
    n_patches = np.zeros(256, dtype=np.int64)
    slot_edge = np.full((256, 12), -1, dtype=np.int64)
    slot_patch = np.full((256, 12), -1, dtype=np.int64)
    ambiguous = np.zeros((256, 3), dtype=np.int64)
    for case in range(256):
        patches, step = _patches_of_case(case)
        n_patches[case] = len(patches)
        slots = [(edge, number) for number, patch in enumerate(patches) for edge in patch]
        for slot, (edge, number) in enumerate(slots):
            slot_edge[case, slot] = edge
            slot_patch[case, slot] = number
        ambiguous[case] = step
    return CaseTables(n_patches, slot_edge, slot_patch, ambiguous)


def _patches_of_case(case: int) -> tuple[list[list[int]], tuple[int, int, int]]:
    """The case's crossed edges grouped into loops, and the step across a face whose four crossed edges share one loop.

    On a face with four crossings the inside corners are kept apart. Two neighbours that both close all four crossings of
    their common face into one loop would put four triangles on one mesh edge: such cubes are marked by the step.
    """
    inside = [bool(case >> corner & 1) for corner in range(8)]
    crossed = [edge for edge, (a, b) in enumerate(EDGES) if inside[a] != inside[b]]
    loop_of = {edge: edge for edge in crossed}

    def join(first: int, second: int) -> None:
        old, new = loop_of[second], loop_of[first]
        for edge in crossed:
            if loop_of[edge] == old:
                loop_of[edge] = new

    crowded: list[tuple[tuple[int, int, int], list[int]]] = []
    for axis in range(3):
        for side in range(2):
            on_face = [edge for edge in crossed if all(CORNERS[corner][axis] == side for corner in EDGES[edge])]
            if len(on_face) == 2:
                join(*on_face)
            elif len(on_face) == 4:
                for corner in range(8):
                    if inside[corner] and CORNERS[corner][axis] == side:
                        join(*[edge for edge in on_face if corner in EDGES[edge]])
                step = [0, 0, 0]
                step[axis] = 1 if side else -1
                crowded.append(((step[0], step[1], step[2]), on_face))

    loops: dict[int, list[int]] = {}
    for edge in crossed:
        loops.setdefault(loop_of[edge], []).append(edge)
    for step3, on_face in crowded:
        if len({loop_of[edge] for edge in on_face}) == 1:
            return _in_order(loops), step3
    return _in_order(loops), (0, 0, 0)


def _in_order(loops: dict[int, list[int]]) -> list[list[int]]:
    """The format's order: loops by their lowest edge (the cube's lower face, then upright edges, then the upper face)."""

    def height(edge: int) -> tuple[int, int, int]:
        low, high = sorted(EDGES[edge])
        return CORNERS[low][2] + CORNERS[high][2], low, high

    return sorted((sorted(loop) for loop in loops.values()), key=lambda loop: min(height(edge) for edge in loop))
