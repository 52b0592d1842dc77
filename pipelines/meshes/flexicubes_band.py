"""A surface with colours whose parameters live near it: FlexiCubes' distances, displacements and weights in a band around a mesh."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..ops.color import srgb_to_linear
from ..ops.flexicubes import WEIGHTS_PER_CUBE, FlexiSurface, flexicubes, regular_grid
from ..ops.flexicubes_tables import CORNERS
from ..ops.mesh_colors import colors_on_faces
from ..ops.mesh_sdf import mesh_sdf

BAND = 3.0  # cells on either side that the surface can move
REACH = 0.45  # cells that a corner can be displaced


class FlexiBand:
    """The parameters of one asset. All of them are leaves, in float32.

    Attributes:
        sdf: (M,) signed distances in cells.  displacement: (M, 3) before tanh.  weights: (C, 21).  colors: (M, 3) sRGB.
        cell: edge of a cell in world units.
    """

    def __init__(self, mesh: Mesh, resolution: int, device: torch.device | str = "cpu") -> None:
        half = max(1.0, float(mesh.vertices.abs().max())) * (1 + 2 * (BAND + 1) / resolution)
        grid = regular_grid(resolution, 2 * half)
        start = mesh_sdf(mesh.vertices, mesh.faces, grid, resolution, BAND)
        n, self.resolution = resolution + 1, resolution
        self.cell = 2 * half / resolution
        self._low, self._grid = grid[0].to(device), grid.to(device)
        self._rows, self._far = start.corners.to(device), start.sdf.to(device)
        slot = torch.zeros(n**3, dtype=torch.int64)
        slot[start.corners] = torch.arange(len(start.corners))
        self._slot = slot.to(device)
        self._offsets = torch.tensor(CORNERS, device=device)
        step = torch.tensor([n * n, n, 1])
        low = torch.stack(torch.unravel_index(start.corners, (n, n, n)), dim=1)
        cubes = (low[(low < resolution).all(1)] * torch.tensor([resolution**2, resolution, 1])).sum(1)
        # The last place serves all cubes beyond the band: the surface never runs there.
        own = torch.full((resolution**3,), len(cubes), dtype=torch.int64)
        own[cubes] = torch.arange(len(cubes))
        self._cube_slot, self._step = own.to(device), step.to(device)
        self.sdf = _leaf(start.sdf[start.corners].to(device))
        self.displacement = _leaf(torch.zeros(len(start.corners), 3, device=device))
        self.weights = _leaf(torch.zeros(len(cubes) + 1, WEIGHTS_PER_CUBE, device=device))
        self.colors = _leaf(colors_on_faces(mesh, start.face, start.bary).to(device))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The leaves by name."""
        return {"sdf": self.sdf, "displacement": self.displacement, "weights": self.weights, "colors": self.colors}

    def full_sdf(self) -> Tensor:
        """((resolution + 1)^3,) signed distances in cells, those beyond the band as they were."""
        return self._far.index_copy(0, self._rows, self.sdf)

    def surface(self, sdf: Tensor, training: bool = True) -> FlexiSurface:
        """The surface of `full_sdf()`; without faces where the sdf has no sign change."""
        moved = self._grid.index_add(0, self._rows, torch.tanh(self.displacement) * (REACH * self.cell))

        def weights(cubes: Tensor) -> Tensor:
            return self.weights.index_select(0, self._cube_slot[cubes])

        return flexicubes(moved, sdf, self.resolution, weights, training=training)

    def colors_at(self, points: Tensor) -> Tensor:
        """sRGB (N, 3) at points near the surface: trilinear between corners."""
        place = ((points - self._low) / self.cell).clamp(0, self.resolution - 1e-3)
        low = place.detach().floor().long()
        share = (place - low)[:, None]
        corner = self._offsets[None]
        weight = torch.where(corner == 1, share, 1 - share).prod(-1)
        index = self._slot[((low[:, None] + corner) * self._step).sum(-1)]
        near = self.colors.index_select(0, index.reshape(-1)).reshape(*index.shape, 3)
        return (near * weight[..., None]).sum(1)

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The surface as a mesh with vertex colours, on the CPU."""
        surface = self.surface(self.full_sdf(), training=False)
        colors = srgb_to_linear(self.colors_at(surface.vertices).clamp(0, 1))
        return Mesh(surface.vertices.cpu(), surface.faces.cpu(), vertex_colors=colors.cpu())


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_(True)
