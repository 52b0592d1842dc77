"""UVs of a mesh, by xatlas in a child process."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from .resample import resample

log = logging.getLogger(__name__)

SLOW_FACES = 50_000  # unwrapping 20k faces takes seconds, 100k half a minute
MOST_FACES = 200_000


def unwrap(mesh: Mesh, *, texture_size: int = 1024, tick: Tick = no_tick) -> Mesh:
    """The mesh with uvs in the unit square, charts apart by a few texels of a texture of `texture_size` (xatlas).

    Vertices are repeated along seams, faces keep their order. Texture and maps of old uvs are resampled to the new ones at
    `texture_size`; tangents, which follow the uvs, are dropped. The work is done in a child process, which ends at once when `tick`
    raises; `tick` is called ten times a second with a guess of how far it is.

    Raises:
        ValueError: no faces, or more than 200 000 (time grows faster than their number): simplify first.
        RuntimeError: the child process failed.
    """
    n_faces = mesh.faces.shape[0]
    if n_faces == 0:
        raise ValueError("Unwrapping: the mesh has no faces.")
    if n_faces > MOST_FACES:
        raise ValueError(f"Unwrapping: {n_faces} faces would take very long (at most {MOST_FACES}); simplify the mesh first, to 20000 say.")
    if n_faces > SLOW_FACES:
        log.warning("Unwrapping %d faces takes a while; simplify the mesh first to make it quick.", n_faces)
    with tempfile.TemporaryDirectory(prefix="lathe_") as folder:
        given, made, words = (Path(folder) / name for name in ("in.npz", "out.npz", "words.txt"))
        padding = np.array(max(2, texture_size // 256))
        np.savez(given, vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy(), size=np.array(texture_size), padding=padding)
        _run_child([str(given), str(made)], words, 1.2e-4 * n_faces * max(1.0, n_faces / 20_000), tick)
        with np.load(made) as result:
            rows = torch.from_numpy(result["rows"])
            faces, uvs = torch.from_numpy(result["faces"]), torch.from_numpy(result["uvs"])
    bare = replace(mesh, uvs=None, texture=None, tangents=None, material=mesh.material.without_maps())
    unwrapped = replace(bare.take(rows, faces), uvs=uvs)
    images = resample(mesh, unwrapped, rows, texture_size, tick)
    _say_coarser(mesh, texture_size)
    texture = images.pop("texture", None)
    return replace(unwrapped, texture=texture, material=replace(mesh.material, **{**dict.fromkeys(mesh.material.maps()), **images}))  # type: ignore[arg-type]


def _say_coarser(mesh: Mesh, size: int) -> None:
    pictures = [*mesh.material.maps().values(), *([] if mesh.texture is None else [mesh.texture])]
    largest = max((max(picture.shape[:2]) for picture in pictures), default=0)
    if largest > size:
        log.warning(
            "Unwrap Mesh: pictures of up to %d pixels were resampled to %d; a larger texture_size keeps more of them.", largest, size
        )


def _run_child(arguments: list[str], words: Path, expected_seconds: float, tick: Tick) -> None:
    """Runs `uv_worker.py` to its end in this Python, calling `tick` meanwhile; ends it if anything is raised."""
    worker = Path(__file__).with_name("uv_worker.py")
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only
    command = [sys.executable, str(worker), *arguments]
    with open(words, "wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags)
    start = time.monotonic()
    try:
        while child.poll() is None:
            done = 1 - math.exp(-(time.monotonic() - start) / expected_seconds)
            tick(int(99 * done), 100)
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        said = words.read_text(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"it ended with code {child.returncode}"
        raise RuntimeError(f"Unwrapping failed: {reason}. Clean and simplify the mesh, then try again.")
    tick(100, 100)
