"""Splats on disk: .ply in the reference layout, .splat and .spz.

All three stand in 3DGS's y-down space; Lathe's splats are turned on their way out and in. The .ply that GeoLRM writes stands in its
networks' own frame instead, and is turned from there.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from ..data.progress import Tick, no_tick
from ..data.splats import LARGEST, THICKNESS, Splats, with_thickness
from ..disk.atomic import write_files
from ..nets.geolrm import HALF
from ..ops.coordinate_frames.geolrm import splats_from_geolrm
from ..ops.coordinate_frames.splats import turn_upside
from . import splat_packed, splat_ply

log = logging.getLogger(__name__)

SUFFIXES = (".ply", ".splat", ".spz")
MOST_GAUSSIANS = 10_000_000  # about 2.5 GB at degree 3
BLOCK = 1 << 18  # Gaussians between two ticks
GEOLRM_UNIT = 1 / HALF
"""World units per unit of GeoLRM's .ply. The published writer leaves positions and sizes as the networks give them, in the cube
[-0.5, 0.5]^3, and tells no camera's distance; so that cube becomes the world's, [-1, 1]^3."""


def save_splats(splats: Splats, path: Path | str) -> None:
    """Writes a .ply (everything, to float32), a .splat (32 bytes each, colour that does not depend on the view) or an .spz (about a
    tenth of the .ply). The file appears whole or not at all.

    Raises:
        ValueError: another kind of file, no Gaussians, or a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Splats are saved as one of {', '.join(SUFFIXES)}, not as {path.name!r}.")
    if len(splats) == 0:
        raise ValueError("Saving: there are no Gaussians.")
    down = turn_upside(_plain(splats))
    if suffix == ".ply":
        data = splat_ply.to_bytes(down)
    elif suffix == ".spz":
        data = splat_packed.spz_bytes(down)
    else:
        if splats.degree > 0:
            log.info("Lathe: %s keeps no colours that change with the view; .ply and .spz do.", path.name)
        data = splat_packed.splat_bytes(down)
    write_files(path.parent, {path.name: data})


def load_splats(path: Path | str, *, tick: Tick = no_tick) -> Splats:
    """Reads a .ply (the reference layout in any order and with extras, that of 2D Gaussian splatting, or GeoLRM's activated one), a
    .splat or an .spz.

    Gaussians with numbers that are not finite or beyond LARGEST, or without size or orientation, are left out; flat ones get a least
    thickness. The log says how many.

    Raises:
        ValueError: no such file, cut short, another layout, no Gaussians, or more than MOST_GAUSSIANS of them (said before any is read).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name!r} is no splat file that Lathe reads; those end in {', '.join(SUFFIXES)}.")
    from_geolrm = False
    try:
        if suffix == ".ply":
            rows, from_geolrm = splat_ply.read(path, MOST_GAUSSIANS, tick=tick)
        else:
            rows = (splat_packed.read_splat if suffix == ".splat" else splat_packed.read_spz)(path, MOST_GAUSSIANS, tick=tick)
    except OSError as error:
        raise ValueError(f"The splat file {path} cannot be read: {error.strerror or error}.") from error
    splats = _usable(rows, path.name, tick)
    if from_geolrm:
        return splats_from_geolrm(splats, GEOLRM_UNIT)
    return _turned(splats, tick)


def _turned(splats: Splats, tick: Tick) -> Splats:
    """`turn_upside` block by block, in the memory of the splats, which nobody else has."""
    for first in range(0, len(splats), BLOCK):
        tick(first, len(splats))
        part = slice(first, first + BLOCK)
        turned = turn_upside(Splats(**{name: values[part] for name, values in vars(splats).items()}))
        for name, values in vars(turned).items():
            getattr(splats, name)[part] = values
    return splats


def _plain(splats: Splats) -> Splats:
    """On the CPU, without a gradient, in float32, with quaternions of length 1."""
    parts = {name: value.detach().to("cpu", torch.float32) for name, value in vars(splats).items()}
    parts["rotations"] = torch.nn.functional.normalize(parts["rotations"], dim=-1)
    return Splats(**parts)


def _usable(rows: dict[str, Tensor], name: str, tick: Tick) -> Splats:
    """Splats of the rows that describe a Gaussian; `rows` as the attributes of Splats, activated, as they stand in the file."""
    count = len(rows["positions"])
    if count == 0:
        raise ValueError(f"{name} holds no Gaussians.")
    good = torch.ones(count, dtype=torch.bool)
    for first in range(0, count, BLOCK):
        tick(first, count)
        for values in rows.values():
            low, high = torch.aminmax(
                values[first : first + BLOCK].flatten(1) if values.ndim > 1 else values[first : first + BLOCK, None], dim=1
            )
            good[first : first + BLOCK] &= (low >= -LARGEST) & (high <= LARGEST)  # false for NaN too
    rows["scales"], flat = with_thickness(rows["scales"])
    rotations = rows["rotations"].double()
    good &= (rows["scales"] > 0).all(1) & (rotations.norm(dim=-1) > 1e-8)
    flat &= good
    lost = count - int(good.sum())
    if lost == count:
        raise ValueError(f"{name} holds {count} Gaussians, but all have NaN, infinite or too large numbers, no size or no orientation.")
    if bool(flat.any()):
        log.warning(
            "Lathe: %d of the %d Gaussians of %s are flat, as in 2D Gaussian splatting; they get a thickness of 1/%d of their length.",
            int(flat.sum()), count, name, round(1 / THICKNESS),
        )  # fmt: skip
    if lost:
        reason = "NaN, infinite or too large numbers, no size or no orientation"
        log.warning("Lathe: %d of the %d Gaussians of %s are left out: %s.", lost, count, name, reason)
        rows, rotations = {key: values[good] for key, values in rows.items()}, rotations[good]
    rows["rotations"] = torch.nn.functional.normalize(rotations, dim=-1).float()
    rows["opacities"] = rows["opacities"].clamp(0, 1)
    return Splats(**rows)
