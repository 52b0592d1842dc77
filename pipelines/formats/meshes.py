"""Meshes in files: GLB and OBJ written, GLB, glTF, OBJ, PLY, STL and OFF read."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..disk.atomic import write_files
from .glb import glb_bytes
from .gltf_scene import read_gltf
from .join_parts import join
from .obj import obj_files
from .obj_read import read_obj
from .parts import Contents
from .plain_read import read_plain

log = logging.getLogger(__name__)

READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
WRITABLE = (".glb", ".obj")
FIT_RADIUS = 0.95  # of the cube from -1 to 1, where Lathe's cameras look


def save_mesh(mesh: Mesh, path: Path | str) -> list[Path]:
    """Writes a .glb, which holds all of a mesh, or an .obj with its .mtl and pictures, which holds most. Returns the files written,
    the one asked for last. What an .obj has no place for is said in the log.

    Raises:
        ValueError: another kind of file, a mesh without faces, or a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"A mesh is saved as one of {', '.join(WRITABLE)}, not as {path.name!r}.")
    if mesh.faces.shape[0] == 0:
        raise ValueError("Saving: the mesh has no faces.")
    # OBJ separates words by blanks, so its side files have none in their names.
    stem = re.sub(r"\s+", "_", path.stem)
    if suffix == ".glb":
        contents = {path.name: glb_bytes(mesh)}
    else:
        contents, lost = obj_files(mesh, stem)
        contents[path.name] = contents.pop(f"{stem}.obj")
        if lost:
            log.warning("%s: an OBJ has no place for %s; save a GLB to keep it.", path.name, ", ".join(lost))
    write_files(path.parent, contents)
    return [path.parent / name for name in contents]


def load_mesh(path: Path | str, *, fit: bool = False, tick: Tick = no_tick) -> Mesh:
    """A .glb, .gltf, .obj, .ply, .stl or .off as one mesh, in the file's own axes.

    Several objects are put together; several textures become one atlas. What the file has and a `Mesh` has not, and what was guessed
    or changed, is said once in the log.

    Args:
        fit: centre the mesh and scale it so that its farthest vertex lies 0.95 from the origin, in float64.

    Raises:
        ValueError: no such file, an unknown kind, a broken file, one without triangles, or one that needs what is not read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"{path.name} is not a mesh file that can be read; use one of {', '.join(READABLE)}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        contents = _read(path, suffix, tick)
        mesh = join(contents, fit_radius=FIT_RADIUS if fit else None, tick=tick)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read as {suffix[1:].upper()}: {str(error).rstrip('.')}.") from error
    except OSError as error:
        raise ValueError(f"{path.name} cannot be opened: {error.strerror or error}.") from error
    if contents.notes:
        log.warning("%s: %s.", path.name, "; ".join(contents.notes))
    return mesh


def _read(path: Path, suffix: str, tick: Tick) -> Contents:
    if suffix in (".glb", ".gltf"):
        return read_gltf(path, tick)
    return read_obj(path, tick) if suffix == ".obj" else read_plain(path, tick)
