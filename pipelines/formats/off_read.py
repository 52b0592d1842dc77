"""OFF meshes (Geomview's Object File Format), with colours of vertices or faces."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..data.progress import Tick, no_tick
from .colored_part import colored_part
from .file_colors import linear_colors
from .file_text import one_encoding, plain_text
from .parts import Contents, Look
from .polygons import triangulate

_HEAD = re.compile(rb"\s*((?:ST)?C?N?4?n?OFF)\b\s*(BINARY\b)?", re.IGNORECASE)


def read_off(path: Path, tick: Tick = no_tick) -> Contents:
    """The polygons of an OFF, COFF, NOFF, CNOFF or STOFF of three dimensions in the file's axes; comments are passed over.

    Colours are sRGB, 0 to 1 or 0 to 255 (see `linear_colors`). Normals and texture coordinates of vertices are left out.

    Raises:
        ValueError: a binary or four-dimensional file, text that is no number, too few rows, an index that names nothing.
    """
    contents = Contents()
    text = re.sub(rb"#[^\n]*", b"", one_encoding(path.read_bytes()))
    head = _HEAD.match(text)
    kind = head[1].upper() if head else b"OFF"
    if head and head[2]:
        raise ValueError("it is a binary OFF; save it as text, or as PLY")
    if b"4" in kind or kind.endswith(b"NOFF") and head and head[1][-4:-3] == b"n":
        raise ValueError("its points have four or more dimensions")
    rows = [line for line in text[head.end() if head else 0 :].split(b"\n") if not line.isspace() and line]
    sizes = _numbers(rows[:1], "the row of counts")
    if len(sizes) < 2 or (sizes[:2] < 0).any() or (sizes[:2] != np.floor(sizes[:2])).any():
        raise ValueError("its first row does not say how many vertices and faces follow")
    n_vertices, n_faces = int(sizes[0]), int(sizes[1])
    if n_vertices + n_faces > len(rows) - 1:
        raise ValueError(f"it is cut short: {n_vertices + n_faces} rows of vertices and faces should follow, {len(rows) - 1} do")
    tick(0, 2)
    values, counts = _table(rows[1 : n_vertices + 1], "vertices")
    width = int(counts[0]) if n_vertices else 3
    if (counts != width).any() or width < 3:
        raise ValueError(f"vertex {int(np.argmax(counts != width))} has {int(counts[np.argmax(counts != width)])} numbers, others {width}")
    table = values.reshape(-1, width)
    positions = np.ascontiguousarray(table[:, :3])
    if not np.isfinite(positions).all():
        raise ValueError(f"vertex {int(np.argmax(~np.isfinite(positions).all(1)))} is not finite")
    skipped = 3 + 3 * (b"N" in kind) if b"C" in kind else width
    shade = table[:, skipped : skipped + 4 - (b"ST" in kind and width - skipped < 6)]
    colors = linear_colors(shade, contents) if shade.shape[1] in (3, 4) else None
    if width > 3 and colors is None:
        contents.note("the numbers behind the places of its vertices are left out")
    tick(1, 2)
    values, counts = _table(rows[n_vertices + 1 : n_vertices + n_faces + 1], "faces")
    place = np.cumsum(counts) - counts
    corner_counts = values[place]
    short = ~((corner_counts >= 0) & (corner_counts < counts) & (corner_counts == np.floor(corner_counts)))
    if short.any():
        raise ValueError(f"face {int(np.argmax(short))} has fewer corners than it says")
    corner_counts = corner_counts.astype(np.int64)
    face = np.repeat(np.arange(n_faces), corner_counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(corner_counts) - corner_counts, corner_counts)
    corners = values[place[face] + 1 + within]
    wrong = ~((corners >= 0) & (corners < n_vertices) & (corners == np.floor(corners)))
    if wrong.any():
        raise ValueError(f"face {int(face[np.argmax(wrong)])} names a vertex that is not there; the file has {n_vertices}, counted from 0")
    corners = corners.astype(np.int64)
    painted = None
    left = counts - 1 - corner_counts
    if colors is None and n_faces and left[0] in (3, 4) and (left == left[0]).all():
        painted = linear_colors(values[(place + 1 + corner_counts)[:, None] + np.arange(left[0])], contents)
    elif left.any():
        contents.note("the colours of its faces are left out")
    triangles = triangulate(positions, corners, corner_counts, tick)
    for note in triangles.notes():
        contents.note(note)
    owner = np.repeat(triangles.polygon, 3)
    rows_of = corners[triangles.corners.reshape(-1)]
    contents.parts.append(colored_part(positions, rows_of, Look(), colors=colors, painted=painted, face_of=owner))
    return contents


def _table(rows: list[bytes], what: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of rows one after the other, and how many each has."""
    return _numbers(rows, what), np.array([len(row.split()) for row in rows], dtype=np.int64)


def _numbers(rows: list[bytes], what: str) -> np.ndarray:
    if not rows:
        return np.zeros(0)
    try:
        return np.fromstring(b" ".join(rows), sep=" ")
    except ValueError:
        pass
    for row in rows:
        try:
            np.fromstring(row, sep=" ")
        except ValueError:
            raise ValueError(f"in {what}: {plain_text(row.strip()[:60])!r} is no row of numbers") from None
    raise ValueError(f"in {what}: a row is no row of numbers")
