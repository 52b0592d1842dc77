"""The camera-to-world matrices of a transforms.json, checked: a turn and a place for each frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .json_numbers import kind_of, number, readable

log = logging.getLogger(__name__)

KEY = "transform_matrix"
ENTRIES = [[f"{KEY}[{i}][{j}]" for j in range(4)] for i in range(4)]
LAST = [0.0, 0.0, 0.0, 1.0]
EXACT = 5e-4  # how far R^T R may be from 1, entry by entry, for a matrix to be taken as it stands
ROUNDED = 1e-2  # and how far after its scale is taken out: matrices written with three digits
SCALED = 5e-3


def read_poses(frames: Sequence[dict[str, Any]], file: str) -> Tensor:
    """(V, 4, 4) float32 camera-to-world matrices, in the file's world.

    One scale of all axes, as a scaled parent leaves it in exported poses, is taken out of the rotation, and the log says so: positions
    are in world units already. Rotations written with few digits become the nearest ones.

    Args:
        frames: each with a `transform_matrix` of 4 or 3 rows of 4 numbers.  file: its name, for messages.

    Raises:
        ValueError: no matrix or another shape, numbers that are none, a transposed matrix, or axes that are mirrored, stretched unevenly
            or not at right angles.
    """
    flat = [entry for i, frame in enumerate(frames) for entry in _entries(frame, place_of(file, i, frame))]
    c2w = torch.tensor(flat, dtype=torch.float64).view(-1, 4, 4)
    last = torch.tensor(LAST, dtype=torch.float64)

    def refuse(bad: Tensor, why: str) -> None:
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            others = f" ({int(bad.sum())} frames of {len(frames)} are so)" if int(bad.sum()) > 1 else ""
            raise ValueError(f"{place_of(file, first, frames[first])}: {why}{others}.")

    rows_end, columns_end = ((c2w.select(axis, 3) - last).abs().amax(1) < 1e-4 for axis in (1, 2))
    refuse(
        ~rows_end & columns_end, f"its {KEY} is transposed, for its last column is 0 0 0 1; write it row by row, positions in that column"
    )
    refuse(~rows_end, f"the last row of its {KEY} must be 0 0 0 1, and is not")
    axes = c2w[:, :3, :3]
    sizes = axes.norm(dim=1)
    scale = sizes.mean(1)
    refuse(scale < 1e-9, f"its {KEY} holds no rotation, only zeros")
    gram = axes.mT @ axes
    unit = torch.eye(3, dtype=torch.float64)
    off = (gram / scale.square()[:, None, None] - unit).abs().amax((1, 2))
    refuse(
        off > ROUNDED,
        f"its {KEY} stretches its axes unevenly or shears them, which no camera does; apply the scale in the program that wrote it",
    )
    refuse(torch.linalg.det(axes) < 0, f"its {KEY} is mirrored (left-handed, determinant below 0); negate one axis where it was written")
    mended = (gram - unit).abs().amax((1, 2)) > EXACT
    if bool(mended.any()):
        left, _, right = torch.linalg.svd(axes[mended])
        c2w[mended, :3, :3] = left @ right
    scaled = (scale - 1).abs() > SCALED
    if bool(scaled.any()):
        log.warning(
            "Lathe: %s: the poses of %d of the %d frames are scaled, by %.4g to %.4g. The scale is taken out of their rotations; their "
            "positions stay as they are.", file, int(scaled.sum()), len(frames), float(scale[scaled].min()), float(scale[scaled].max()),
        )  # fmt: skip
    return c2w.float()


def place_of(file: str, index: int, frame: dict[str, Any]) -> str:
    """The file and the frame, for messages."""
    name = frame.get("file_path")
    return f"{file}, frame {index} ({readable(name[:60])})" if isinstance(name, str) else f"{file}, frame {index}"


def _entries(frame: dict[str, Any], place: str) -> list[float]:
    if KEY not in frame:
        raise ValueError(f"{place}: there is no {KEY}.")
    rows = frame[KEY]
    if not isinstance(rows, list) or len(rows) not in (3, 4) or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise ValueError(f"{place}: its {KEY} has another shape ({_shape(rows)}); 4 rows of 4 numbers are expected, or 3 rows of 4.")
    entries = [
        number(value, name, place) for row, names in zip(rows, ENTRIES, strict=False) for value, name in zip(row, names, strict=True)
    ]
    return entries if len(rows) == 4 else entries + LAST


def _shape(rows: Any) -> str:
    if not isinstance(rows, list):
        return kind_of(rows)
    if not all(isinstance(row, list) for row in rows):
        return f"a list of {len(rows)}, not all of them rows"
    lengths = sorted({len(row) for row in rows})
    return f"{len(rows)} rows of {' or '.join(map(str, lengths[:4]))}"
