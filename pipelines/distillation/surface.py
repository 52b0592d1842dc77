"""Surfaces that a distillation moves: DMTet's tetrahedra or FlexiCubes' cells, their distances started from a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..meshes.flexicubes_band import FlexiBand
from ..ops.flexicubes import regular_grid
from ..ops.marching_tetrahedra import marching_tetrahedra, tet_grid
from ..ops.mesh_sdf import mesh_sdf

MARGIN = 0.1  # world units around the first surface, as coded
NEAR = 3.0  # cells on either side of the surface in which distances are exact at the start
REACH = 0.5  # cells that a corner can be displaced: half the way to its neighbour
DEVIATION = 0.05  # weight of FlexiCubes' own regulariser, as in Fit Mesh


@dataclass(frozen=True)
class Surface:
    """vertices (V, 3), faces (F, 3) counter-clockwise seen from outside, and what the grid adds to the loss, or None."""

    vertices: Tensor
    faces: Tensor
    penalty: Tensor | None = None


class SurfaceGrid(Protocol):
    """Attributes: cell, the edge of a cell in world units."""

    cell: float

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The leaves by name: "sdf" and "displacement" in cells, and others."""
        ...

    def surface(self) -> Surface:
        """The surface as it stands, differentiable; without faces where there is none."""
        ...


class TetGrid:
    """Deep marching tetrahedra (Shen et al. 2021, arXiv 2111.04276): a distance, positive inside, and a displacement at each corner.

    Args:
        mesh: the first surface, best closed.
        cells: along the longest edge of the box around it.
        band: cells from the first surface beyond which nothing changes; 0 lets the whole grid change.
    """

    def __init__(self, mesh: Mesh, cells: int, band: float, device: torch.device | str) -> None:
        half = float(mesh.vertices.abs().max()) + MARGIN
        self.cell = 2 * half / cells
        positions, tets = tet_grid(cells, half)
        # Both grids run through their corners in the same order, x slowest.
        sdf = -mesh_sdf(mesh.vertices, mesh.faces, regular_grid(cells, 2 * half), cells, max(NEAR, band)).sdf
        if band > 0:
            free = sdf.abs() < band
            tets = tets[free[tets].any(1)]
            used = torch.unique(tets)
            number = torch.zeros(len(sdf), dtype=torch.int64)
            number[used] = torch.arange(len(used))
            tets, sdf, positions, free = number[tets], sdf[used], positions[used], free[used]
        else:
            free = torch.ones(len(sdf), dtype=torch.bool)
        self._tets, self._free = tets.to(device), free.nonzero()[:, 0].to(device)
        self._positions = positions.to(device)
        self._fixed = sdf.to(device)
        self.sdf = sdf[free].to(device).clone().requires_grad_(True)
        self.displacement = torch.zeros(len(self._free), 3, device=device).requires_grad_(True)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `SurfaceGrid`."""
        return {"sdf": self.sdf, "displacement": self.displacement}

    def surface(self) -> Surface:
        """See `SurfaceGrid`."""
        sdf = self._fixed.index_copy(0, self._free, self.sdf)
        positions = self._positions.index_add(0, self._free, torch.tanh(self.displacement) * (REACH * self.cell))
        vertices, faces = marching_tetrahedra(positions, sdf, self._tets)
        return Surface(vertices, faces)


class CubeGrid:
    """FlexiCubes (Shen et al. 2023) in a band around the first surface."""

    def __init__(self, mesh: Mesh, cells: int, device: torch.device | str) -> None:
        self._band = FlexiBand(mesh, cells, device)
        self.cell = self._band.cell

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `SurfaceGrid`."""
        return {name: leaf for name, leaf in self._band.parameters.items() if name != "colors"}

    def surface(self) -> Surface:
        """See `SurfaceGrid`."""
        made = self._band.surface(self._band.full_sdf())
        penalty = DEVIATION * made.deviation.mean() / self.cell if len(made.faces) else None
        return Surface(made.vertices, made.faces, penalty)


def surface_grid(kind: str, mesh: Mesh, cells: int, band: float, device: torch.device | str) -> SurfaceGrid:
    """ "dmtet" or "flexicubes" around a mesh.

    Raises:
        ValueError: another kind, or a mesh without area.
    """
    if kind == "dmtet":
        return TetGrid(mesh, cells, band, device)
    if kind == "flexicubes":
        return CubeGrid(mesh, cells, device)
    raise ValueError(f"Distil Mesh: there is no surface {kind!r}; choose dmtet or flexicubes.")
