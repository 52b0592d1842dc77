"""Meshes of single files without a scene: PLY, STL and OFF."""

from __future__ import annotations

from pathlib import Path

from ..data.progress import Tick, no_tick
from .off_read import read_off
from .parts import Contents
from .ply_read import read_ply
from .stl_read import read_stl


def read_plain(path: Path, tick: Tick = no_tick) -> Contents:
    """The triangles of a .ply, .stl or .off, in the file's axes.

    Raises:
        ValueError: a broken file, or one of another kind than its name says.
    """
    suffix = path.suffix.lower()
    if suffix == ".ply":
        return read_ply(path, tick)
    return read_stl(path, tick) if suffix == ".stl" else read_off(path, tick)
