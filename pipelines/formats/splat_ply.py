"""The PLY of 3D Gaussian splatting (Kerbl et al. 2023): one vertex a Gaussian, all properties float32.

The properties, in their order:

    x y z  nx ny nz  f_dc_0..2  f_rest_0..(3(K-1)-1), channel by channel  opacity (logit)  scale_0..2 (logarithm)  rot_0..3 (w first)
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from ..data.progress import Tick, no_tick
from ..data.splats import MOST_DEGREES, Splats
from ..ops.spherical_harmonics import CONSTANT, OFFSET
from .ply_header import Header
from .ply_rows import open_header, read_rows
from .splat_units import tell_units

OPACITY_EDGE = 1e-6  # logits of 0 and 1 are infinite
PLACE, COLOR = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2")
SURFEL = ("scale_0", "scale_1")  # of 2D Gaussian splatting (Huang et al. 2024): flat, without a third
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")


def to_bytes(splats: Splats) -> bytes:
    """A binary little-endian PLY of splats that stand y-down; opacities are clamped to [1e-6, 1 - 1e-6]."""
    import numpy
    from plyfile import PlyData, PlyElement

    rest = splats.sh[:, 1:].mT.flatten(1)  # channel by channel
    names = [*PLACE, "nx", "ny", "nz", *COLOR, *(f"f_rest_{i}" for i in range(rest.shape[1])), "opacity", *SCALE, *ROTATION]
    columns = [
        *(splats.positions, torch.zeros_like(splats.positions), splats.sh[:, 0], rest),
        torch.logit(splats.opacities.double(), eps=OPACITY_EDGE)[:, None].float(),
        splats.scales.double().log().float(),
        splats.rotations,
    ]
    table = torch.cat(columns, dim=1).numpy().astype("<f4")
    rows = numpy.ascontiguousarray(table).view([(name, "<f4") for name in names])[:, 0]
    out = BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(out)
    return out.getvalue()


def read(path: Path, most: int, *, tick: Tick = no_tick) -> tuple[dict[str, Tensor], bool]:
    """The attributes of Splats, activated, in the file's axes; and whether these are GeoLRM's.

    Scales and opacities that look linear are taken as they stand (`splat_units`). Gaussians of a file without scale_2, as 2D Gaussian
    splatting writes it, have a third scale of 0.

    Raises:
        ValueError: no PLY, another layout, cut short, or more than `most` vertices.
    """
    import numpy

    header = open_header(path)
    _check_header(path, header, most)
    rows = read_rows(path, header, tick=tick)

    def columns(names: Sequence[str]) -> Tensor:
        picked = torch.empty(len(rows), len(names))
        for i, name in enumerate(names):
            tick(len(rows), len(rows))
            with numpy.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite, and are left out later
                picked[:, i] = torch.from_numpy(rows[name].astype("float32"))
        return picked

    terms = 1 + sum(name.startswith("f_rest_") for name in rows.dtype.names) // 3
    scales = columns([name for name in SCALE if name in rows.dtype.names])
    positions, opacities, color = columns(PLACE), columns(["opacity"])[:, 0], columns(COLOR)
    sh = color[:, None]
    if terms > 1:
        rest = columns([f"f_rest_{i}" for i in range(3 * (terms - 1))])
        sh = torch.cat([sh, rest.view(-1, 3, terms - 1).mT], dim=1)
    units = tell_units(positions, scales, opacities, color, terms == 1, path.name)
    if units == "logarithms":
        scales, opacities = scales.double().exp().float(), opacities.double().sigmoid().float()
    if units == "geolrm":
        sh = (sh - OFFSET) / CONSTANT
    if scales.shape[1] < len(SCALE):
        scales = torch.cat([scales, torch.zeros(len(scales), 1)], dim=1)
    parts = {"positions": positions, "scales": scales, "rotations": columns(ROTATION), "opacities": opacities, "sh": sh}
    return parts, units == "geolrm"


def check_count(path: Path, count: int, most: int) -> None:
    """Refuses more than `most` Gaussians."""
    if count > most:
        raise ValueError(
            f"{path.name} says it holds {count:,} Gaussians; Lathe reads at most {most:,}. Thin it out or crop it in a splat editor first."
        )


def _check_header(path: Path, header: Header, most: int) -> None:
    """Says what is wrong with a PLY before a vertex of it is read."""
    vertices = next((element for element in header.elements if element.name == "vertex"), None)
    if vertices is None:
        raise ValueError(f"{path.name} is a PLY without vertices: no Gaussians.")
    check_count(path, vertices.count, most)
    kinds = vertices.names()
    if "packed_position" in kinds:
        raise ValueError(f"{path.name} is a compressed PLY; save it from the splat editor as an ordinary PLY.")
    wanted = [*PLACE, *COLOR, "opacity", *(SURFEL if set(SURFEL) <= set(kinds) else SCALE), *ROTATION]
    missing = [name for name in wanted if name not in kinds]
    if missing:
        raise ValueError(f"{path.name} holds no Gaussian splats (a mesh or a point cloud?): its vertices have no {', '.join(missing)}.")
    lists = [each.name for each in vertices.properties if each.length is not None]
    if lists:
        raise ValueError(f"{path.name} is no splat file: its vertices have lists ({', '.join(lists)}), where numbers are expected.")
    rest = [name for name in kinds if name.startswith("f_rest_")]
    lengths = [3 * ((d + 1) ** 2 - 1) for d in range(MOST_DEGREES + 1)]
    if len(rest) not in lengths or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise ValueError(f"{path.name} has {len(rest)} properties f_rest_*, but spherical harmonics of degree 0 to 3 have 0, 9, 24 or 45.")
