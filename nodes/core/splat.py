"""SPLAT at sockets: the payload where the core has none, and the way between it and Lathe's `Splats`.

A SPLAT stands in the y-down space of 3D Gaussian splatting, Lathe's Splats in its y-up world: the turn happens here and nowhere else.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ...pipelines.data.splats import LARGEST, THICKNESS, Splats, with_thickness
from ...pipelines.ops.coordinate_frames.splats import turn_upside
from .schema import SPLAT, asset_input

log = logging.getLogger(__name__)

SLACK = 0.05  # how far opacities may lie outside [0, 1] to be clamped

# Splat files Lathe reads; the core has these sockets from 0.23 on.
SPLAT_FILES = [getattr(io, name) for name in ("File3DAny", "File3DSplatAny", "File3DPLY", "File3DSPLAT", "File3DSPZ") if hasattr(io, name)]


class OwnSplat:
    """What SPLAT carries on cores without `Types.SPLAT`; the same fields.

    Attributes:
        positions: (B, N, 3), y-down.
        scales: (B, N, 3) standard deviations, linear.
        rotations: (B, N, 4) unit quaternions, w first.
        opacities: (B, N, 1) in [0, 1].
        sh: (B, N, K, 3), constant term first.
        counts: (B,) how many of the N are there, the rest are zeros; None where all are.
    """

    def __init__(
        self, positions: Tensor, scales: Tensor, rotations: Tensor, opacities: Tensor, sh: Tensor, counts: Tensor | None = None
    ) -> None:
        self.positions, self.scales, self.rotations = positions, scales, rotations
        self.opacities, self.sh, self.counts = opacities, sh, counts


def splat_input(id: str = "splat", **options: Any) -> Any:
    """An input for splats: SPLAT, and FILE_3D where the core has it. Read it with `splats_in`."""
    return asset_input(id, SPLAT, *SPLAT_FILES, **options)


def to_core_splat(splats: list[Splats]) -> Any:
    """Splats, one an asset -> one SPLAT, y-down, zero-padded to the most Gaussians and the highest degree, on the CPU, detached.

    Raises:
        ValueError: an empty list.
    """
    if not splats:
        raise ValueError("There are no splats to hand on.")
    turned = [turn_upside(s) for s in splats]
    count, terms = max(map(len, turned)), max(s.sh.shape[1] for s in turned)

    def padded(rows: list[Tensor], *shape: int) -> Tensor:
        out = torch.zeros(len(rows), count, *shape)
        for i, row in enumerate(rows):
            out[i, : len(row), : row.shape[1]] = row.detach().to("cpu", torch.float32)
        return out

    return getattr(Types, "SPLAT", OwnSplat)(
        positions=padded([s.positions for s in turned], 3),
        scales=padded([s.scales for s in turned], 3),
        rotations=padded([torch.nn.functional.normalize(s.rotations, dim=-1) for s in turned], 4),
        opacities=padded([s.opacities[:, None] for s in turned], 1),
        sh=padded([s.sh for s in turned], terms, 3),
        counts=torch.tensor([len(s) for s in turned]),
    )


def from_core_splat(core: Any) -> list[Splats]:
    """A SPLAT (ours or another node's) -> the splats of each asset in the y-up world, without padding.

    Where the core gave no counts, Gaussians that are nothing but zeros are padding. Opacities a little outside [0, 1] are clamped.

    Raises:
        ValueError: shapes that do not fit each other, NaN, scales of 0 or below, quaternions of length 0.
    """
    positions = core.positions
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise ValueError(f"A SPLAT's positions have shape (assets, Gaussians, 3), not {tuple(positions.shape)}.")
    shapes = {"scales": (3,), "rotations": (4,), "opacities": (1,), "sh": (core.sh.shape[-2] if core.sh.ndim == 4 else 1, 3)}
    for name, rest in shapes.items():
        if tuple(getattr(core, name).shape) != (*positions.shape[:2], *rest):
            found, wanted = tuple(getattr(core, name).shape), (*positions.shape[:2], *rest)
            raise ValueError(f"A SPLAT with positions of shape {tuple(positions.shape)} needs {name} of shape {wanted}, not {found}.")
    counts = getattr(core, "counts", None)
    if 0 in positions.shape:
        raise ValueError(f"This SPLAT holds no Gaussians: its positions have shape {tuple(positions.shape)}.")
    if counts is not None:
        numbers = counts.tolist() if isinstance(counts, Tensor) else list(counts)
        if len(numbers) != len(positions) or not all(type(n) is int and 0 <= n <= positions.shape[1] for n in numbers):
            raise ValueError(f"A SPLAT of {len(positions)} assets with {positions.shape[1]} Gaussians cannot have counts {numbers}.")
    return [_asset(core, i, None if counts is None else int(counts[i])) for i in range(len(positions))]


def _asset(core: Any, index: int, count: int | None) -> Splats:
    parts = {name: getattr(core, name)[index, :count].to("cpu", torch.float32) for name in ("positions", "scales", "rotations", "sh")}
    opacities = core.opacities[index, :count, 0].to("cpu", torch.float32)
    if count is None:
        there = (parts["scales"] != 0).any(-1) | (parts["rotations"] != 0).any(-1) | (opacities != 0)
        parts, opacities = {name: rows[there] for name, rows in parts.items()}, opacities[there]
    for name in ("positions", "scales", "sh"):
        if parts[name].numel() and float(parts[name].abs().max()) > LARGEST:
            raise ValueError(f"Asset {index} of the SPLAT cannot be used: its {name} go beyond {LARGEST:g}.")
    parts["scales"], flat = with_thickness(parts["scales"])
    if bool(flat.any()):
        log.warning(
            "Lathe: %d of the %d Gaussians of asset %d are flat, as in 2D Gaussian splatting; they get a thickness of 1/%d of their "
            "length.", int(flat.sum()), len(flat), index, round(1 / THICKNESS),
        )  # fmt: skip
    try:
        slightly = (opacities > -SLACK) & (opacities < 1 + SLACK)
        return turn_upside(Splats(opacities=torch.where(slightly, opacities.clamp(0, 1), opacities), **parts))
    except ValueError as error:
        raise ValueError(f"Asset {index} of the SPLAT cannot be used. {error} The node before made it so.") from error


def splats_in(asset: Any) -> list[Splats]:
    """What arrived at a `splat_input`: a SPLAT, or a FILE_3D, which is read as .ply, .splat or .spz."""
    if hasattr(asset, "positions"):
        return from_core_splat(asset)
    if not hasattr(asset, "save_to"):
        raise ValueError(f"A SPLAT or a splat file is expected, not a {type(asset).__name__}.")
    from ...pipelines.formats.splats import load_splats

    if asset.is_disk_backed:
        return [load_splats(Path(asset.get_source()))]
    with tempfile.TemporaryDirectory() as folder:
        return [load_splats(Path(asset.save_to(str(Path(folder) / f"asset.{asset.format or 'ply'}"))))]
