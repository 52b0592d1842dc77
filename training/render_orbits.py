"""Renders orbits of one unknown elevation each, which the elevation head learns from, beside the rendered set.

    python training/render_orbits.py --data DIR/train --stretched
    python training/render_orbits.py --data DIR/test

Of each object 8 orbits of 4 frames, 90 degrees apart, from a random azimuth; the elevations are drawn from the eight equal
parts of -15..65 degrees, one from each. With --stretched 8 more, for each of which the object is stretched along its axes: an
elevation stays what it is, and the shapes become more. All is drawn from crc32(key), as in render_dataset.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.training.objects import MAX_RADIUS, RenderObject, load_object, objects_folder  # noqa: E402
from lathe.training.render_dataset import SIZE, orbit_cameras, render_object  # noqa: E402

ORBITS, FRAMES = 8, 4
LOWEST, HIGHEST = -15.0, 65.0
STRETCH = 1.6  # most, and its inverse least, factor along an axis
ARRAYS = ("orbit_elevations.npy", "orbit_rgba.npy")
"""(N, O) float32 degrees, and (N, O, 4, S, S, 4) uint8 sRGB with straight alpha; O is 8 or 16, objects in the order of keys.json."""


def orbit_angles(key: str, part: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Azimuths (8, 4) and elevations (8,) in degrees of the orbits of object `key`; part 1 is the stretched ones'."""
    rng = np.random.default_rng(zlib.crc32(key.encode()) + 2 + part)
    share = (HIGHEST - LOWEST) / ORBITS
    elevations = LOWEST + share * (np.arange(ORBITS) + rng.uniform(0, 1, ORBITS))
    starts = rng.uniform(0, 360, ORBITS)
    return starts[:, None] + 360 / FRAMES * np.arange(FRAMES), elevations


def stretched(obj: RenderObject, factors: NDArray[np.float64]) -> RenderObject:
    """The object with its x, y and z times `factors` (3,), scaled back to its old size."""
    vertices = obj.vertices * factors.astype(np.float32)
    vertices *= MAX_RADIUS / np.linalg.norm(vertices, axis=1).max()
    normals = obj.normals / factors.astype(np.float32)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    return replace(obj, vertices=vertices, normals=normals)


def render_orbits(folder: str, key: str, parts: int = 1) -> NDArray[np.uint8]:
    """(8 * parts, 4, S, S, 4) uint8."""
    torch.set_num_threads(1)
    obj = load_object(folder, key)
    azimuths, elevations = orbit_angles(key)
    rgba = [render_object(obj, orbit_cameras(azimuths.reshape(-1), np.repeat(elevations, FRAMES)), SIZE).rgba]
    if parts > 1:
        azimuths, elevations = orbit_angles(key, 1)
        factors = np.exp(np.random.default_rng(zlib.crc32(key.encode()) + 4).uniform(-1, 1, (ORBITS, 3)) * np.log(STRETCH))
        for orbit in range(ORBITS):
            cameras = orbit_cameras(azimuths[orbit], np.repeat(elevations[orbit], FRAMES))
            rgba.append(render_object(stretched(obj, factors[orbit]), cameras, SIZE).rgba)
    return np.concatenate(rgba).reshape(ORBITS * parts, FRAMES, SIZE, SIZE, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a split as render_dataset.py packs it")
    parser.add_argument("--objects", help="folder of .sh3f files (default: the environment variable LATHE_OBJECTS)")
    parser.add_argument("--stretched", action="store_true", help="8 more orbits of each object, stretched: for the training split")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    folder = str(objects_folder(args.objects))
    keys: list[str] = json.loads((args.data / "keys.json").read_text())["keys"]
    partials = [args.data / f"{name}.partial" for name in ARRAYS]
    parts = 2 if args.stretched else 1
    shape = (len(keys), ORBITS * parts, FRAMES, SIZE, SIZE, 4)
    rgba = np.lib.format.open_memmap(partials[1], "w+", np.uint8, shape)
    render = partial(render_orbits, folder, parts=parts)
    with ProcessPoolExecutor(args.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row, orbits in enumerate(pool.map(render, keys) if args.processes > 1 else map(render, keys)):
            rgba[row] = orbits
            if row % 100 == 99:
                print(f"{row + 1}/{len(keys)}", flush=True)
    rgba.flush()
    with open(partials[0], "wb") as file:
        elevations = [np.concatenate([orbit_angles(key, part)[1] for part in range(parts)]) for key in keys]
        np.save(file, np.stack(elevations).astype(np.float32))
    for name, written in zip(ARRAYS, partials, strict=True):
        os.replace(written, args.data / name)


if __name__ == "__main__":
    main()
