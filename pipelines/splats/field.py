"""Splats to a field, and on to a mesh: the first half of IM-3D's conversion (Melas-Kyriazi et al. 2024, section A.5).

Splats are a shell: only what the views saw has Gaussians, and the inside is hollow. The field counts what cannot be reached from outside
as solid, so its surface is the outer one alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.field import FlexiGrid
from ..data.progress import Tick, no_tick, part_of
from ..data.splats import Splats
from ..ops.flexicubes import grid_axis
from ..ops.gaussian_density.dispatch import GaussianSum
from ..ops.gaussian_density.torch_form import Gaussians, prepare
from ..ops.spherical_harmonics import CONSTANT, OFFSET

FORMAT, VERSION = "lathe.splat_field", 1
DENSITY = 100.0  # of a Gaussian of opacity 1 at its centre, per world unit: Render Views shows a shell of 0.03 as solid
LEVEL = 40.0  # of fits of eight objects with the preset fast: lower gives fatter shells, from 60 on shells have holes
RESOLUTION = 128  # cells along the cube's edge that `floor` and the filling are made for
LEAST_SCALE = 0.45  # of a cell: thinner ones would fall between the samples
CLOSING = 2  # cells; gaps up to twice as wide do not let the outside in
CORNER = 3  # squared distance of cells that share a corner alone
CHUNK = 1 << 18
FILLING_BYTES, GAUSSIAN_BYTES, POINT_BYTES = 24, 500, 200  # of main memory, measured and rounded up


@dataclass(eq=False)
class SplatField:
    """Density 100 x min(1, sum over the Gaussians of opacity x exp(-squared Mahalanobis distance / 2)); implements `data.field.Field`.

    Colour is the mean of the Gaussians' constant colours, weighted by the same terms; far from all of them that of the nearest centre.

    Attributes:
        splats: in the world's axes, spherical harmonics of degree 0.
        filled: (R, R, R) bool, indexed [x, y, z], corners of a grid over the cube that are inside; density there is 100.
        floor: standard deviations count as at least this, world units.
        level: density at the surface.
        bound: half the side of the cube; the density is 0 outside.
        device: where points are expected; the sums themselves are taken where `ops.gaussian_density` says.
    """

    splats: Splats
    filled: Tensor
    floor: float
    level: float = LEVEL
    bound: float = 1.0
    device: torch.device | str = "cpu"
    kind: Literal["sdf", "density"] = "density"

    @cached_property
    def _sum(self) -> GaussianSum:
        return GaussianSum(_gaussians(self.splats, self.floor))

    @cached_property
    def _volume(self) -> Tensor:
        return self.filled.float().permute(2, 1, 0)[None, None].to(self.device)

    def geometry(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N,) density."""
        density = DENSITY * self._sum.evaluate(points)[0].clamp(max=1.0)
        inside = F.grid_sample(self._volume, points[None, None, None] / self.bound, align_corners=True)[0, 0, 0, 0]
        density = torch.maximum(density, DENSITY * inside)
        return torch.where((points.abs() < self.bound).all(1), density, torch.zeros_like(density))

    def color(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N, 3) sRGB in [0, 1]."""
        total, colors = self._sum.evaluate(points)
        alone = torch.nonzero(total < 1e-4).flatten()
        colors = colors / total.clamp(min=1e-4)[:, None]
        if len(alone):
            from scipy.spatial import cKDTree

            gaussians = self._sum.gaussians
            nearest = cKDTree(gaussians.means.numpy()).query(points[alone].detach().cpu().numpy())[1]
            colors[alone] = gaussians.values[torch.from_numpy(nearest)].to(colors)
        return colors.clamp(0, 1)

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        """None: splats say nothing of FlexiCubes' parameters."""
        return None

    def to(self, device: torch.device | str) -> SplatField:
        """The same field for points on `device`."""
        moved = SplatField(self.splats, self.filled, self.floor, self.level, self.bound, device)
        vars(moved)["_sum"] = self._sum
        return moved

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and settings for `formats.fields.save_field`."""
        names = ("positions", "scales", "rotations", "opacities", "sh")
        tensors = {name: getattr(self.splats, name) for name in names} | {"filled": self.filled.to(torch.uint8)}
        settings = {"format": FORMAT, "version": VERSION, "floor": self.floor, "level": self.level, "bound": self.bound}
        return tensors, settings

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> SplatField:
        """What `state` gave.

        Raises:
            ValueError: parts are missing or do not fit.
        """
        try:
            if settings["version"] != VERSION:
                raise ValueError(f"its version {settings['version']} is not {VERSION}: it was saved by a newer release")
            splats = Splats(*(tensors[name] for name in ("positions", "scales", "rotations", "opacities", "sh")))
            filled = tensors["filled"].bool()
            if filled.ndim != 3 or len(set(filled.shape)) != 1 or splats.degree != 0 or len(splats) == 0:
                raise ValueError("its parts have wrong shapes")
            floor, level, bound = (float(settings[name]) for name in ("floor", "level", "bound"))
            if not all(0 < number < float("inf") for number in (floor, level, bound)):
                raise ValueError(f"its floor {floor}, level {level} or bound {bound} cannot be")
            return cls(splats, filled, floor, level, bound)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The file holds no usable splat field: {error}.") from error


def splat_field(
    splats: Splats, *, resolution: int = RESOLUTION, level: float = LEVEL, fill: bool = True, tick: Tick = no_tick
) -> SplatField:
    """The field of these Gaussians.

    Args:
        splats: in the world's axes. Only the constant term of their colours counts.
        resolution: cells along the cube's edge that the field is made for: Gaussians get a standard deviation of 0.45 of a cell or more.
        level: density at the surface, where one Gaussian of opacity 1 has 100 at its centre.
        fill: count what cannot be reached from outside as solid.
        tick: called for each part of the filling.

    Raises:
        ValueError: no Gaussian, none that can be seen, or settings out of range.
    """
    if not 16 <= resolution <= 512:
        raise ValueError(f"Splats to field: a resolution of {resolution} is out of range; use 16 to 512, 128 is usual.")
    if not 0 < level < DENSITY:
        raise ValueError(f"Splats to field: the level {level:g} is out of range; use one between 0 and {DENSITY:g}, {LEVEL:g} is usual.")
    seen = splats.opacities >= 1 / 255
    if not seen.any():
        reason = "there is no Gaussian" if len(splats) == 0 else f"all {len(splats)} Gaussians are transparent"
        raise ValueError(f"Splats to field: {reason}, so there is no surface. Check the images and masks they were fitted to.")
    parts = (splats.positions, splats.scales, splats.rotations, splats.opacities, splats.sh[:, :1])
    splats = Splats(*(part[seen].detach().float().cpu() for part in parts))
    bound = _bound(splats)
    floor = LEAST_SCALE * 2 * bound / resolution
    n = resolution + 1
    field = SplatField(splats, torch.zeros(n, n, n, dtype=torch.bool), floor, level, bound)
    if not fill:
        return field
    axis = grid_axis(resolution, 2 * bound)
    slabs, solid = max(1, CHUNK // n**2), []
    ask, close = part_of(tick, 0, 2), part_of(tick, 1, 2)
    for start in range(0, n, slabs):
        ask(start, n)
        solid.append(field.geometry(torch.cartesian_prod(axis[start : start + slabs], axis, axis)) >= level)
    filled = torch.from_numpy(enclosed(torch.cat(solid).reshape(n, n, n).numpy(), CLOSING, close))
    made = SplatField(splats, filled, floor, level, bound)
    vars(made)["_sum"] = field._sum
    return made


def estimate_memory(resolution: int, fill: bool, gaussians: int, assets: int = 1) -> int:
    """Bytes of main memory that `splat_field` takes at its peak for so many assets one after another, their fields included."""
    corners = (resolution + 1 + 2 * (CLOSING + 1)) ** 3
    return (assets + FILLING_BYTES * fill) * corners + GAUSSIAN_BYTES * gaussians + POINT_BYTES * CHUNK


def enclosed(solid: np.ndarray, closing: int, tick: Tick = no_tick) -> np.ndarray:
    """Which grid corners lie inside: not reachable from the border through what is not `solid`, even where its walls have small holes.

    Args:
        solid: (X, Y, Z) bool.
        closing: what only something thinner than this many cells in radius could reach counts as inside as well.
        tick: called after each of 2 x closing + 3 parts.

    Returns:
        (X, Y, Z) bool: enclosed space with those solid corners beside it that do not touch the outside.
    """
    from scipy import ndimage

    margin, parts = closing + 1, 2 * closing + 3
    walls = np.pad(solid, margin)
    inside = np.zeros_like(walls)
    for radius in range(closing + 1):
        # Where a ball of this radius has room; what it cannot reach from the border is hidden, up to the walls around it.
        labels, _ = ndimage.label(~_grown(walls, radius**2))
        hidden = (labels != 0) & (labels != labels[0, 0, 0])
        tick(2 * radius + 1, parts)
        inside |= ~walls & _grown(hidden, radius**2)
        tick(2 * radius + 2, parts)
    touched = _grown(~walls & ~inside, CORNER)
    inside |= walls & _grown(inside, CORNER) & ~touched
    tick(parts, parts)
    within = slice(margin, -margin)
    return inside[within, within, within]


def _grown(cells: np.ndarray, squared: int) -> np.ndarray:
    """Those cells, and all at most the root of `squared` cells away from one of them."""
    reach = math.isqrt(squared)
    offsets = np.indices((2 * reach + 1,) * 3).reshape(3, -1).T - reach
    grown = cells.copy()
    for offset in offsets[(offsets**2).sum(1) <= squared]:
        to, of = (tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(way, cells.shape, strict=True)) for way in (offset, -offset))
        grown[to] |= cells[of]
    return grown


def _gaussians(splats: Splats, floor: float) -> Gaussians:
    colors = (OFFSET + CONSTANT * splats.sh[:, 0]).clamp(0, 1)
    return prepare(splats.positions, splats.scales.clamp(min=floor), splats.rotations, splats.opacities, colors)


def _bound(splats: Splats) -> float:
    """1, or more where the Gaussians, but for one in a thousand, reach farther out."""
    reach = splats.positions.abs().amax(1) + 2 * splats.scales.amax(1).clamp(max=0.1)
    far = float(torch.quantile(reach[:: max(1, len(reach) // 1_000_000)], 0.999))
    return 1.0 if far <= 1.0 else 1.05 * far
