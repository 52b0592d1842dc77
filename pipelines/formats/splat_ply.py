"""The PLY of 3D Gaussian splatting (Kerbl et al. 2023): one vertex a Gaussian, all properties float32.

The properties, in their order:

    x y z  nx ny nz  f_dc_0..2  f_rest_0..(3(K-1)-1), channel by channel  opacity (logit)  scale_0..2 (logarithm)  rot_0..3 (w first)
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.splats import MOST_DEGREES, Splats
from ..ops.spherical_harmonics import CONSTANT, OFFSET

OPACITY_EDGE = 1e-6  # logits of 0 and 1 are infinite
HEADER_BYTES = 1 << 16
PLACE, COLOR = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2")
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


def read(path: Path, most: int) -> tuple[dict[str, Tensor], bool]:
    """The attributes of Splats, activated, as they stand in the file; and whether they stand so, which is how GeoLRM writes them.

    Raises:
        ValueError: no PLY, another layout, cut short, or more than `most` vertices.
    """
    from plyfile import PlyData, PlyElementParseError, PlyParseError

    _check_header(path, most)
    try:
        rows = PlyData.read(str(path))["vertex"].data
    except PlyElementParseError as error:
        raise ValueError(f"{path.name} is cut short or damaged: {error}.") from error
    except (PlyParseError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as a PLY: {error}.") from error

    def columns(names: Any) -> Tensor:
        picked = torch.empty(len(rows), len(names))
        for i, name in enumerate(names):
            picked[:, i] = torch.from_numpy(rows[name].astype("float32"))
        return picked

    terms = 1 + sum(name.startswith("f_rest_") for name in rows.dtype.names) // 3
    scales, opacities, color = columns(SCALE), columns(["opacity"])[:, 0], columns(COLOR)
    sh = color[:, None]
    if terms > 1:
        rest = columns([f"f_rest_{i}" for i in range(3 * (terms - 1))])
        sh = torch.cat([sh, rest.view(-1, 3, terms - 1).mT], dim=1)
    elif _is_activated(scales, opacities, color):
        return {**_shared(columns), "scales": scales, "opacities": opacities, "sh": (sh - OFFSET) / CONSTANT}, True
    scales, opacities = scales.double().exp().float(), opacities.double().sigmoid().float()
    return {**_shared(columns), "scales": scales, "opacities": opacities, "sh": sh}, False


def check_count(path: Path, count: int, most: int) -> None:
    """Refuses more than `most` Gaussians."""
    if count > most:
        raise ValueError(
            f"{path.name} says it holds {count:,} Gaussians; Lathe reads at most {most:,}. Thin it out or crop it in a splat editor first."
        )


def _shared(columns: Any) -> dict[str, Tensor]:
    return {"positions": columns(PLACE), "rotations": columns(ROTATION)}


def _is_activated(scales: Tensor, opacities: Tensor, color: Tensor) -> bool:
    """GeoLRM's PLY has the reference names, but standard deviations, opacities and RGB as they are."""
    within = [(values >= 0) & (values <= 1) for values in (opacities, color)]
    return len(scales) > 0 and bool((scales > 0).all()) and all(bool(w.all()) for w in within)


def _check_header(path: Path, most: int) -> None:
    """Says what is wrong with a PLY before a vertex of it is read."""
    with open(path, "rb") as file:
        header, found, _ = file.read(HEADER_BYTES).partition(b"end_header")
    if not header.startswith(b"ply") or not found:
        raise ValueError(f"{path.name} is no PLY file, or its header is cut short.")
    element = re.search(rb"^element vertex +(\d+)\s*$(.*?)(?=^element |\Z)", header, re.MULTILINE | re.DOTALL)
    if element is None:
        raise ValueError(f"{path.name} is a PLY without vertices: no Gaussians.")
    check_count(path, int(element[1]), most)
    properties = [line.split() for line in element[2].decode("latin-1").splitlines() if line.startswith("property")]
    kinds = {words[-1]: words[1] for words in properties}
    if "packed_position" in kinds:
        raise ValueError(f"{path.name} is a compressed PLY; save it from the splat editor as an ordinary PLY.")
    wanted = [*PLACE, *COLOR, "opacity", *SCALE, *ROTATION]
    missing = [name for name in wanted if name not in kinds]
    if missing:
        raise ValueError(f"{path.name} holds no Gaussian splats (a mesh or a point cloud?): its vertices have no {', '.join(missing)}.")
    lists = [name for name, kind in kinds.items() if kind == "list"]
    if lists:
        raise ValueError(f"{path.name} is no splat file: its vertices have lists ({', '.join(lists)}), where numbers are expected.")
    rest = [name for name in kinds if name.startswith("f_rest_")]
    lengths = [3 * ((d + 1) ** 2 - 1) for d in range(MOST_DEGREES + 1)]
    if len(rest) not in lengths or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise ValueError(f"{path.name} has {len(rest)} properties f_rest_*, but spherical harmonics of degree 0 to 3 have 0, 9, 24 or 45.")
