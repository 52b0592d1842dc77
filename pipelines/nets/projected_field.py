"""The mini reconstruction network's output as a function of space: a triplane, its heads, and the pictures they look at."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.field import FlexiGrid
from ..data.progress import Tick, no_tick, part_of
from ..ops.coordinate_frames.instantmesh import from_triplane
from ..ops.flexicubes import regular_grid
from .mini_heads import PointHeads, PosedViews, activate_density
from .triplane_field import DECODER_KINDS, saved_grid

FORMAT, VERSION = "lathe.projected_field", 1


class ProjectedField:
    """One asset as the mini network describes it; implements `data.field.Field`.

    A signed distance after both training stages; after the first alone a density, whose surface is where a raw 0 is.

    Args:
        planes: (3, C, R, R) float32.  heads: shared between the fields of a batch, never written to.
        views: the input pictures, which the heads sample.  grid_res, grid_scale: of the FlexiCubes grid.
    """

    kind: Literal["sdf", "density"]
    level: float
    bound: float

    def __init__(self, planes: Tensor, heads: PointHeads, views: PosedViews, *, grid_res: int, grid_scale: float) -> None:
        if planes.ndim != 4 or planes.shape[:2] != (3, heads.triplane_dim) or planes.shape[2] != planes.shape[3]:
            raise ValueError(f"ProjectedField: planes must have shape (3, {heads.triplane_dim}, R, R), not {tuple(planes.shape)}.")
        self.planes, self.heads, self.views = planes, heads, views
        self.grid_res, self.grid_scale = grid_res, grid_scale
        self.kind = "sdf" if heads.kind == "mesh" else "density"
        self.level = 0.0 if heads.kind == "mesh" else float(activate_density(torch.zeros(())))
        self.bound = 1.0

    def geometry(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N,) sdf or density."""
        raw = self._chunks(points, lambda features, seen, part: self.heads.net_sdf(features))[:, 0]
        return raw if self.kind == "sdf" else activate_density(raw)

    def color(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N, 3) sRGB in [0, 1]."""
        return self._chunks(points, lambda features, seen, part: self.heads.color(features, seen, part, self.views)).clamp(0, 1)

    def _chunks(self, points: Tensor, read: Any, chunk: int = 65536, tick: Tick = no_tick) -> Tensor:
        parts = points.to(self.planes.dtype).split(chunk)
        outputs = []
        for index, part in enumerate(parts):
            tick(index, len(parts))
            outputs.append(read(*self.heads.features(self.planes, part, self.views), part))
        return torch.cat(outputs)

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        """The field on a FlexiCubes grid of `resolution` cubes an edge; None for a density.

        Corner parameters are read at the corners, a cube's at its centre.
        """
        if self.kind != "sdf":
            return None
        resolution = resolution or self.grid_res
        corners = from_triplane(regular_grid(resolution, self.grid_scale).to(self.planes))
        half = self.grid_scale / resolution / 2
        n = resolution + 1
        centres = corners.view(n, n, n, 3)[:-1, :-1, :-1].reshape(-1, 3) + half
        heads = self.heads
        at_corners = self._chunks(
            corners, lambda x, *_: torch.cat([heads.net_sdf(x), heads.net_deformation(x)], dim=1), chunk, part_of(tick, 0, 2)
        )
        weights = self._chunks(centres, lambda x, *_: heads.net_weight(x), chunk, part_of(tick, 1, 2))
        return FlexiGrid(
            vertices=corners,
            sdf=at_corners[:, 0],
            deformation=torch.tanh(at_corners[:, 1:]) / (4 * resolution),
            weights=0.1 * weights,
            resolution=resolution,
        )

    def to(self, device: torch.device | str) -> ProjectedField:
        """The same field with its tensors on `device`."""
        if torch.device(device) == self.planes.device:
            return self
        views = PosedViews(self.views.pictures.to(device), self.views.c2w.to(device), self.views.K.to(device))
        heads = copy.deepcopy(self.heads).to(device)
        return ProjectedField(self.planes.to(device), heads, views, grid_res=self.grid_res, grid_scale=self.grid_scale)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able settings from which `from_state` makes the same field."""
        tensors = {"planes": self.planes, "pictures": self.views.pictures, "c2w": self.views.c2w, "K": self.views.K}
        tensors.update({f"heads.{name}": value for name, value in self.heads.state_dict().items()})
        settings = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.heads.kind,
            "triplane_dim": self.heads.triplane_dim,
            "hidden": self.heads.hidden,
            "point_input": self.heads.point_input,
            "grid_res": self.grid_res,
            "grid_scale": self.grid_scale,
        }
        return {name: value.detach().cpu() for name, value in tensors.items()}, settings

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> ProjectedField:
        """The opposite of `state`. Raises ValueError where the parts do not make a field."""
        if settings.get("format") != FORMAT or settings.get("version") != VERSION:
            raise ValueError(
                f"Not a projected field this version reads: format {settings.get('format')!r}, version {settings.get('version')!r}; "
                f"expected {FORMAT!r}, version {VERSION}."
            )
        try:
            with torch.device("meta"):  # sizes that the tensors do not have take no memory
                heads = PointHeads(int(settings["triplane_dim"]), int(settings["hidden"]), bool(settings["point_input"]))
            if settings["kind"] not in DECODER_KINDS:
                raise ValueError(f"heads of kind {settings['kind']!r} cannot be")
            heads.kind = settings["kind"]
            own = {name[len("heads.") :]: value for name, value in tensors.items() if name.startswith("heads.")}
            heads.load_state_dict(own, assign=True)
            views = PosedViews(tensors["pictures"].float(), tensors["c2w"].float(), tensors["K"].float())
            count = len(views.c2w)
            if (
                views.pictures.ndim != 4
                or views.pictures.shape[:2] != (count, 4)
                or views.c2w.shape != (count, 4, 4)
                or views.K.shape != (count, 4)
            ):
                raise ValueError("its pictures and cameras do not fit each other")
            heads = heads.float().eval().requires_grad_(False)
            grid_res, grid_scale = saved_grid(settings)
            return cls(tensors["planes"].float(), heads, views, grid_res=grid_res, grid_scale=grid_scale)
        except KeyError as error:
            raise ValueError(f"The saved field is incomplete: {error} is missing.") from error
        except RuntimeError as error:
            raise ValueError(f"The saved field does not fit its own settings: {error}") from error
