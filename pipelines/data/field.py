"""Continuous functions of space, the payload of the LATHE_FIELD socket (a list of B fields, one an asset)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .progress import Tick, no_tick


@dataclass(frozen=True)
class FlexiGrid:
    """A field sampled on the grid FlexiCubes works on, in world coordinates.

    Attributes:
        vertices: (N, 3) grid corners before deformation, in the order of `ops.flexicubes`.
        sdf: (N,) negative inside.
        deformation: (N, 3) world offset of each corner, or None.
        weights: (F, 21): 12 beta, 8 alpha, 1 gamma, before their activations; or None (all equal).
        resolution: cubes along an edge.
    """

    vertices: Tensor
    sdf: Tensor
    deformation: Tensor | None
    weights: Tensor | None
    resolution: int


@runtime_checkable
class Field(Protocol):
    """One asset as a function of world points, inside the cube [-bound, bound]^3.

    `kind` says what `geometry` returns: "sdf" (negative inside, surface at 0) or "density" (surface at `level`).
    Tensors rest on the CPU; `to` gives a copy elsewhere. A field is never changed once made.
    """

    kind: Literal["sdf", "density"]
    level: float
    bound: float

    def geometry(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N,) sdf or density."""
        ...

    def color(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N, 3) sRGB in [0, 1]."""
        ...

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        """The field on a FlexiCubes grid with the parameters the network predicts for it; None for a field without them.

        `chunk` points are evaluated at once; `tick` is called for each chunk.
        """
        ...

    def to(self, device: torch.device | str) -> Field:
        """The same field with its tensors on `device`."""
        ...
