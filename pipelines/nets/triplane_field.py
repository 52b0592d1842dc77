"""A triplane and its heads as a function of space: what the reconstruction network's output means.

The network's cube has +Z up and the object's front along +X; the world has +Y up and the front along +Z. Only
`ops/coordinate_frames/instantmesh.py` makes one of the other; `planes`, `axis` and everything below them live in the network's space.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.field import FlexiGrid
from ..data.progress import Tick, no_tick, part_of
from ..ops.coordinate_frames.instantmesh import from_triplane, to_triplane
from ..ops.flexicubes import regular_grid
from ..ops.flexicubes_tables import CORNERS

DENSITY_LEVEL = 10.0  # where the published models put the surface of a density
FLEXI_WEIGHTS = 21  # 12 beta, 8 alpha, 1 gamma a cube
FORMAT, VERSION = "lathe.triplane_field", 1
MOST_CUBES, MOST_SAMPLES = 1024, 4096  # along an edge and a ray, of saved fields
DECODER_KINDS = ("mesh", "nerf")


class Head(nn.Sequential):
    """Three hidden layers with ReLU, float32."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for size in (inputs, hidden, hidden):
            layers += [nn.Linear(size, hidden), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, outputs))

    def linear(self, index: int) -> nn.Linear:
        """The first (0) or last (-1) layer."""
        layer = self[index]
        assert isinstance(layer, nn.Linear)
        return layer

    def after_first(self, hidden: Tensor) -> Tensor:
        """The outputs, from what the first layer gives."""
        for layer in list(self)[1:]:
            hidden = layer(hidden)
        return hidden


class Decoder(nn.Module):
    """The heads. Features of a point (3C: plane by plane) to raw numbers, float32.

    kind "nerf": `net` gives density before its activation, then three colours before theirs.
    kind "mesh": `net_sdf` (1), `net_rgb` (3), `net_deformation` (3), and `net_weight` (21) from the features of a cube's 8 corners (8*3C).
    """

    def __init__(self, kind: str, triplane_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.kind, self.triplane_dim, self.hidden = kind, triplane_dim, hidden
        inputs = 3 * triplane_dim
        if kind == "nerf":
            self.net = Head(inputs, hidden, 4)
            with torch.no_grad():
                self.net.linear(-1).bias[0] = -2.0  # starts as thin air: a dense fog hides the gradient of what is behind
        else:
            self.net_sdf = Head(inputs, hidden, 1)
            self.net_rgb = Head(inputs, hidden, 3)
            self.net_deformation = Head(inputs, hidden, 3)
            self.net_weight = Head(8 * inputs, hidden, FLEXI_WEIGHTS)


def sample_planes(planes: Tensor, points: Tensor) -> Tensor:
    """Features of points: planes (B, 3, C, R, R) and points (B, N, 3) in the network's space -> (B, N, 3*C), plane by plane.

    The planes are (x, y), (x, z) and (z, y), first component along the width, covering [-1, 1]; outside they are zero.
    """
    grid = torch.stack([points[..., [0, 1]], points[..., [0, 2]], points[..., [2, 1]]], dim=1)
    features = F.grid_sample(planes.flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False)
    return features[:, :, 0].unflatten(0, (-1, 3)).flatten(1, 2).transpose(1, 2)


def activate_density(raw: Tensor) -> Tensor:
    """Density of the decoder's first number, softplus(x - 1)."""
    return F.softplus(raw - 1)


def activate_color(raw: Tensor) -> Tensor:
    """Colour of the decoder's numbers, a sigmoid that reaches 0 and 1: the range is [-0.001, 1.001]."""
    return torch.sigmoid(raw) * 1.002 - 0.001


def repair_empty(sdf: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Gives a grid without a surface one, so that training on its mesh has a gradient (the published repair, from GET3D).

    Where the corners inside the outermost layer all have one sign, the corner after the centre becomes 1 - min and the two outermost
    layers -1 - max; for an all-positive sdf that makes the outside negative. A grid with a surface comes back as it is.

    Args:
        sdf: ((resolution + 1)^3,).

    Returns:
        the sdf, and a penalty: mean |sdf| where it was repaired, else 0.
    """
    n = resolution + 1
    inner = sdf.view(n, n, n)[1:-1, 1:-1, 1:-1]
    if bool((inner > 0).any()) and bool((inner < 0).any()):
        return sdf, sdf.new_zeros(())
    low, high = sdf.min(), sdf.max()
    shell = torch.ones(n, n, n, dtype=torch.bool, device=sdf.device)
    shell[2:-2, 2:-2, 2:-2] = False
    repaired = torch.where(shell.flatten(), -1 - high, sdf)
    centre = torch.zeros_like(shell)
    centre[resolution // 2 + 1, resolution // 2 + 1, resolution // 2 + 1] = True
    return torch.where(centre.flatten(), 1 - low, repaired), sdf.abs().mean()


def _lattice_maps(planes: Tensor, axis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The planes (3, C, R, R) read on the lattice axis x axis x axis: over (x, y), (x, z) and (y, z), each (n, n, C).

    The feature of corner (i, j, k) is their entries [i, j], [i, k] and [j, k], so n^2 samples a plane stand for n^3 points.
    """
    a, b = torch.meshgrid(axis, axis, indexing="ij")
    first_is_width, second_is_width = torch.stack([a, b], dim=-1), torch.stack([b, a], dim=-1)
    grid = torch.stack([first_is_width, first_is_width, second_is_width])
    xy, xz, yz = F.grid_sample(planes, grid, align_corners=False).permute(0, 2, 3, 1)
    return xy, xz, yz


def _head_on_lattice(head: Head, first: Sequence[Tensor], chunk: int, tick: Tick) -> Tensor:
    """The head's outputs on a lattice, (n^3, outputs), from its first layer's maps over (x, y), (x, z), (y, z), each (n, n, hidden)."""
    xy, xz, yz = first
    xy = xy + head.linear(0).bias
    n = len(xy)
    step = max(1, chunk // (n * n))
    rows = []
    for i in range(0, n, step):
        tick(i, n)
        hidden = xy[i : i + step, :, None] + xz[i : i + step, None] + yz
        rows.append(head.after_first(hidden.flatten(0, 2)))
    return torch.cat(rows)


def flexi_parameters(
    planes: Tensor, decoder: Decoder, axis: Tensor, chunk: int = 65536, tick: Tick = no_tick
) -> tuple[Tensor, Tensor, Tensor]:
    """What the mesh heads say on a FlexiCubes lattice, as the published networks define it, before any activation.

    A head's first layer is linear, and so is reading a plane: on a lattice the layer is the sum of three maps over pairs of axes. The
    weight head's first layer, which takes the features of a cube's 8 corners at once, is too: its maps are sums of 8 shifted ones. So
    features are never held for each corner, nor for each corner of each cube (2 GB and 16 GB for the large variant at 128).

    Args:
        planes: (3, C, R, R).
        decoder: the heads, of kind "mesh".
        axis: (n,) lattice coordinates along each axis of the network's space.
        chunk: about how many points are in memory at once.
        tick: called for each chunk.

    Returns:
        sdf (n^3,), deformation (n^3, 3), weights ((n-1)^3, 21), x slowest.
    """
    maps = _lattice_maps(planes, axis)
    channels = planes.shape[1]

    def first_layer(weight: Tensor) -> list[Tensor]:
        return [F.linear(m, w) for m, w in zip(maps, weight.split(channels, dim=1), strict=True)]

    sdf, deformation = (
        _head_on_lattice(head, first_layer(head.linear(0).weight), chunk, part_of(tick, index, 3))
        for index, head in enumerate((decoder.net_sdf, decoder.net_deformation))
    )

    n = len(axis) - 1
    summed: list[Tensor] | None = None
    for (x, y, z), weight in zip(CORNERS, decoder.net_weight.linear(0).weight.split(3 * channels, dim=1), strict=True):
        xy, xz, yz = first_layer(weight)
        shifted = [xy[x : x + n, y : y + n], xz[x : x + n, z : z + n], yz[y : y + n, z : z + n]]
        summed = shifted if summed is None else [a + b for a, b in zip(summed, shifted, strict=True)]
    assert summed is not None
    weights = _head_on_lattice(decoder.net_weight, summed, chunk, part_of(tick, 2, 3))
    return sdf[:, 0], deformation, 0.1 * weights


def saved_grid(settings: dict[str, Any]) -> tuple[int, float]:
    """Cubes along an edge of a saved field's grid, and the grid's side. Raises ValueError for numbers no grid has, KeyError without any."""
    resolution, side = int(settings["grid_res"]), float(settings["grid_scale"])
    if not 2 <= resolution <= MOST_CUBES or not 0 < side < float("inf"):
        raise ValueError(f"a grid of {resolution} cubes on a side of {side} cannot be")
    return resolution, side


class TriplaneField:
    """One asset as the triplane network describes it; implements `data.field.Field`.

    kind "sdf" (mesh variants): negative inside, bound half the FlexiCubes grid. kind "density" (NeRF variants): zero outside the bound,
    surface at 10. Differentiable in planes and heads where those require gradients. Queries go in chunks of bounded memory.

    Args:
        planes: (3, C, R, R) float32.
        decoder: the heads; shared between the fields of a batch, never written to.
        grid_res, grid_scale: of the FlexiCubes grid the network was trained with.
        samples_per_ray: what the network was trained with, for renderers.
    """

    kind: Literal["sdf", "density"]
    level: float
    bound: float

    def __init__(
        self, planes: Tensor, decoder: Decoder, *, grid_res: int = 128, grid_scale: float = 2.1, samples_per_ray: int = 96
    ) -> None:
        if planes.ndim != 4 or planes.shape[0] != 3 or planes.shape[1] != decoder.triplane_dim or planes.shape[2] != planes.shape[3]:
            raise ValueError(f"TriplaneField: planes must have shape (3, {decoder.triplane_dim}, R, R), not {tuple(planes.shape)}.")
        self.planes = planes
        self.decoder = decoder
        self.grid_res = grid_res
        self.grid_scale = grid_scale
        self.samples_per_ray = samples_per_ray
        self.kind = "sdf" if decoder.kind == "mesh" else "density"
        self.level = 0.0 if decoder.kind == "mesh" else DENSITY_LEVEL
        self.bound = grid_scale / 2 if decoder.kind == "mesh" else 1.0

    def _query(self, head: nn.Module, points: Tensor, chunk: int = 65536) -> Tensor:
        """A head's raw numbers at world points (N, 3) -> (N, outputs)."""
        network = to_triplane(points.to(self.planes.dtype))
        parts = [head(sample_planes(self.planes[None], part[None])[0]) for part in network.split(chunk)]
        return torch.cat(parts)

    def geometry(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N,) sdf, or density (0 outside the bound, as the network was trained)."""
        if self.kind == "sdf":
            return self._query(self.decoder.net_sdf, points)[:, 0]
        density = activate_density(self._query(self.decoder.net, points)[:, 0])
        return torch.where((points.abs() <= self.bound).all(dim=-1), density, 0.0)

    def color(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N, 3) sRGB in [0, 1]."""
        head = self.decoder.net_rgb if self.kind == "sdf" else self.decoder.net
        return activate_color(self._query(head, points)[:, -3:]).clamp(0, 1)

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        """The field on a FlexiCubes grid of `resolution` cubes an edge (default: the one it was trained with); None for a density.

        Corner order is `ops.flexicubes`'s in the network's axes, so corners are not ordered along the world's. A grid whose
        sdf never changes sign is returned as it is: see `repair_empty`.
        """
        if self.kind != "sdf":
            return None
        resolution = resolution or self.grid_res
        vertices = regular_grid(resolution, self.grid_scale).to(self.planes)
        axis = vertices[: resolution + 1, 2]
        sdf, deformation, weights = flexi_parameters(self.planes, self.decoder, axis, chunk, tick)
        return FlexiGrid(
            vertices=from_triplane(vertices),
            sdf=sdf,
            deformation=from_triplane(torch.tanh(deformation) / (4 * resolution)),
            weights=weights,
            resolution=resolution,
        )

    def to(self, device: torch.device | str) -> TriplaneField:
        """The same field with its tensors on `device`."""
        if torch.device(device) == self.planes.device:
            return self
        decoder = copy.deepcopy(self.decoder).to(device)
        return self._like(self.planes.to(device), decoder)

    def _like(self, planes: Tensor, decoder: Decoder) -> TriplaneField:
        return TriplaneField(planes, decoder, grid_res=self.grid_res, grid_scale=self.grid_scale, samples_per_ray=self.samples_per_ray)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able settings from which `from_state` makes the same field."""
        tensors = {"planes": self.planes.detach().cpu()}
        tensors.update({f"decoder.{name}": value.detach().cpu() for name, value in self.decoder.state_dict().items()})
        settings = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.decoder.kind,
            "triplane_dim": self.decoder.triplane_dim,
            "hidden": self.decoder.hidden,
            "grid_res": self.grid_res,
            "grid_scale": self.grid_scale,
            "samples_per_ray": self.samples_per_ray,
        }
        return tensors, settings

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> TriplaneField:
        """The opposite of `state`. Raises ValueError where the parts do not make a field."""
        if settings.get("format") != FORMAT or settings.get("version") != VERSION:
            raise ValueError(
                f"Not a triplane field this version reads: format {settings.get('format')!r}, version {settings.get('version')!r}; "
                f"expected {FORMAT!r}, version {VERSION}."
            )
        try:
            if settings["kind"] not in DECODER_KINDS:
                raise ValueError(f"heads of kind {settings['kind']!r} cannot be")
            with torch.device("meta"):  # sizes that the tensors do not have take no memory
                decoder = Decoder(settings["kind"], int(settings["triplane_dim"]), int(settings["hidden"]))
            own = {name[len("decoder.") :]: value.float() for name, value in tensors.items() if name.startswith("decoder.")}
            decoder.load_state_dict(own, assign=True)
            grid_res, grid_scale = saved_grid(settings)
            samples = int(settings["samples_per_ray"])
            if not 1 <= samples <= MOST_SAMPLES:
                raise ValueError(f"{samples} samples a ray cannot be")
            planes, decoder = tensors["planes"].float(), decoder.eval().requires_grad_(False)
            return cls(planes, decoder, grid_res=grid_res, grid_scale=grid_scale, samples_per_ray=samples)
        except KeyError as error:
            raise ValueError(f"The saved triplane field is incomplete: {error} is missing.") from error
        except RuntimeError as error:
            raise ValueError(f"The saved triplane field does not fit its own settings: {error}") from error
