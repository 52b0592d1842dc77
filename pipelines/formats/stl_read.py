"""STL meshes, text and binary (3D Systems, "StereoLithography Interface Specification", 1988)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..data.progress import Tick, no_tick
from .file_text import one_encoding, plain_text
from .parts import Contents, Part

_HEAD, _FACET = 84, 50  # bytes
_CHUNK = 1 << 22  # bytes of text between two ticks
_WORDS = re.compile(rb"\bvertex\s+(\S+\s+\S+\s+\S+)|\b(endloop)\b")


def read_stl(path: Path, tick: Tick = no_tick) -> Contents:
    """The triangles of an STL, each with three vertices of its own, as the format has them; all solids in one part.

    Colours of facets (VisCAM's and Materialise's attribute bytes) are left out, and that is said.

    Raises:
        ValueError: cut short, no STL, or a position that is not finite.
    """
    contents = Contents()
    data = path.read_bytes()
    size = _HEAD + _FACET * int.from_bytes(data[80:84], "little") if len(data) >= _HEAD else -1
    if len(data) == size or (b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff"))):
        positions = _binary(data, size, contents)
    else:
        positions = _text(one_encoding(data).lower(), contents, tick)
    unusable = ~np.isfinite(positions).all(1)
    if unusable.any():
        raise ValueError(f"facet {int(np.argmax(unusable)) // 3 + 1} has a corner that is not finite")
    if len(positions):
        contents.parts.append(Part(positions, np.arange(len(positions)).reshape(-1, 3)))
    return contents


def _binary(data: bytes, size: int, contents: Contents) -> np.ndarray:
    """The corners (3F, 3) of a binary STL that should have `size` bytes."""
    if len(data) < max(size, _HEAD):
        raise ValueError(f"it is cut short: {len(data)} of {max(size, _HEAD)} bytes are there")
    if len(data) > size:
        contents.note(f"{len(data) - size} bytes behind its last facet are left out")
    facets = np.frombuffer(data[:size], np.uint8, offset=_HEAD).reshape(-1, _FACET)
    if facets[:, 48:].any():
        contents.note("the colours of its facets (attribute bytes) are left out")
    return np.ascontiguousarray(facets[:, 12:48]).view("<f4").astype(np.float64).reshape(-1, 3)


def _text(data: bytes, contents: Contents, tick: Tick) -> np.ndarray:
    """The corners (3F, 3) of a text in small letters."""
    if not data.lstrip().startswith(b"solid"):
        raise ValueError("it is no STL: text begins with the word solid, and a binary file is as long as its count of facets says")
    if b"endsolid" not in data:
        contents.note("it has no end (endsolid) and may be cut short")
    data = re.sub(rb"(?m)^[ \t]*(?:end)?solid\b[^\n]*", b"", data)  # names may hold any words, those of the format too
    pieces, start, facets = [np.zeros(0)], 0, 0
    while start < len(data):
        tick(start, len(data))
        found_end = data.find(b"endloop", start + _CHUNK)
        end = len(data) if found_end < 0 else found_end + len(b"endloop")
        words = _WORDS.findall(data, start, end)
        kinds = b"".join(b"e" if stop else b"v" for _, stop in words)
        if kinds != b"vvve" * (len(kinds) // 4) or data.count(b"vertex", start, end) != kinds.count(b"v"):
            at = facets + next(i for i, loop in enumerate(kinds.split(b"e")) if loop != b"vvv")
            raise ValueError(f"facet {at + 1} has no three corners, or it is cut short there")
        rows = [row for row, stop in words if not stop]
        try:
            pieces.append(np.fromstring(b" ".join(rows), sep=" ") if rows else np.zeros(0))
        except ValueError:
            wrong = next(row for row in rows if not _is_numbers(row))
            raise ValueError(f"a corner is {plain_text(b' '.join(wrong.split())[:60])!r}, not three numbers") from None
        facets += len(words) // 4
        start = end
    return np.concatenate(pieces).reshape(-1, 3)


def _is_numbers(row: bytes) -> bool:
    try:
        np.fromstring(row, sep=" ")
    except ValueError:
        return False
    return True
