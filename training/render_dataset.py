"""Renders the library's objects to the arrays that training reads.

    python training/render_dataset.py --objects DIR --split train --out DIR

Per object 44 views of 64 x 64 pixels, field of view 30 degrees, camera radius 4:

    0..11   ring, azimuth 0, 30, ..., 330, elevation 20          24..31  random targets, elevation -25..60
    12..23  ring, azimuth 0, 30, ..., 330, elevation -10         32..43  queries, azimuth 0, 30, ..., 330, elevation -10..40

The six views of Zero123++ v1.2 for each of the twelve query azimuths lie on the ring. Angles are drawn from crc32(key),
so an object's cameras do not depend on which others are rendered. Interrupted runs go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.pipelines.data.cameras import Cameras  # noqa: E402
from lathe.pipelines.ops.camera_math import intrinsics, orbit, world_to_camera  # noqa: E402
from lathe.training.object_raster import build_atlas, render_samples  # noqa: E402
from lathe.training.objects import RenderObject, load_object, objects_folder, split, write_attributions  # noqa: E402

SIZE, FOV, RADIUS, POINTS = 64, 30.0, 4.0, 16384
RING, TARGETS, QUERIES = 24, 8, 12
ARRAYS = ("rgba", "depth", "normal", "points", "point_colors", "c2w")


@dataclass(frozen=True)
class Rendered:
    """V views of one object.

    Attributes:
        rgba: (V, S, S, 4) uint8, straight alpha.
        depth: (V, S, S) float32 z-depth, 0 on the background.
        normal: (V, S, S, 3) float32 camera-space unit normals (x right, y up, z to the camera), 0 on the background.
        points: (P, 3) float32 world points, every sample that a view saw.
        point_colors: (P, 3) float32 in [0, 1].
        view_starts: (V + 1,) first point of each view.
    """

    rgba: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    points: NDArray[np.float32]
    point_colors: NDArray[np.float32]
    view_starts: NDArray[np.int64]


def dataset_cameras(key: str) -> Cameras:
    """The 44 cameras of object `key`, in the order that this module's docstring gives."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    steps = np.arange(12) * 30.0
    azimuth = np.concatenate([steps, steps, rng.uniform(0, 360, TARGETS), steps])
    elevation = np.concatenate([np.full(12, 20.0), np.full(12, -10.0), rng.uniform(-25, 60, TARGETS), rng.uniform(-10, 40, QUERIES)])
    return orbit_cameras(azimuth, elevation)


def orbit_cameras(azimuth: NDArray[np.float64], elevation: NDArray[np.float64]) -> Cameras:
    """Cameras of the data set's field of view and radius at these angles in degrees."""
    c2w = orbit(torch.as_tensor(azimuth), torch.as_tensor(elevation), RADIUS)
    names = tuple(f"azimuth {a:.0f} elevation {e:.0f}" for a, e in zip(azimuth, elevation, strict=True))
    return Cameras(c2w, intrinsics(FOV, len(names)), names)


def render_object(obj: RenderObject, cameras: Cameras, size: int, aa: int = 2, shaded: bool = True) -> Rendered:
    """Square pictures of an object, `aa` x `aa` samples a pixel.

    A pixel's colour is the mean of its covered samples, its alpha the fraction of them. Its depth and normal are the means
    over those covered samples that lie within 0.05 of the nearest, so that an edge does not float between two surfaces.
    """
    atlas = build_atlas(obj)
    rgba, depth, normal, points, colors, starts = [], [], [], [], [], [0]
    w2c = world_to_camera(cameras.c2w).numpy()
    for view in range(cameras.n_views):
        c2w, focal = cameras.c2w[view].numpy(), float(cameras.K[view, 0])
        samples = render_samples(obj, atlas, c2w, focal, size * aa, shaded)
        blocks = [_blocks(a, aa) for a in (samples.depth[..., None], samples.color, samples.normal)]
        hit = (blocks[0] > 0).astype(np.float32)
        count = hit.sum(2)
        color = (blocks[1] * hit).sum(2) / np.maximum(count, 1)
        alpha = count / (aa * aa)
        rgba.append(np.round(np.concatenate([color, alpha], -1) * 255).astype(np.uint8))
        nearest = np.where(hit > 0, blocks[0], np.inf).min(2, keepdims=True)
        front = hit * (blocks[0] <= nearest + 0.05)
        depth.append(((blocks[0] * front).sum(2) / np.maximum(front.sum(2), 1))[..., 0])
        mean_normal = (blocks[2] * front).sum(2) @ w2c[view, :3, :3].T
        normal.append(mean_normal / np.maximum(np.linalg.norm(mean_normal, axis=-1, keepdims=True), 1e-6))
        row, column = np.nonzero(samples.depth)
        z = samples.depth[row, column]
        camera = np.stack([(column + 0.5) / (size * aa) - 0.5, 0.5 - (row + 0.5) / (size * aa), np.full(len(z), -focal)], -1)
        points.append((camera * (z / focal)[:, None]) @ c2w[:3, :3].T + c2w[:3, 3])
        colors.append(samples.color[row, column])
        starts.append(starts[-1] + len(z))
    return Rendered(
        np.stack(rgba), np.stack(depth).astype(np.float32), np.stack(normal).astype(np.float32),
        np.concatenate(points).astype(np.float32), np.concatenate(colors), np.array(starts),
    )  # fmt: skip


def _blocks(samples: NDArray[np.float32], aa: int) -> NDArray[np.float32]:
    """(S*aa, S*aa, C) -> (S, S, aa*aa, C)."""
    size, channels = samples.shape[0] // aa, samples.shape[2]
    return samples.reshape(size, aa, size, aa, channels).transpose(0, 2, 1, 3, 4).reshape(size, size, aa * aa, channels)


def dataset_arrays(folder: str, key: str) -> dict[str, NDArray]:
    """One object's entries of the data set. Surface points are drawn from the samples of the ring and the targets, not of the queries."""
    cameras = dataset_cameras(key)
    out = render_object(load_object(folder, key), cameras, SIZE)
    seen = int(out.view_starts[RING + TARGETS])
    if seen == 0:
        raise ValueError(f"Object {key!r} shows no pixel in any view.")
    rng = np.random.default_rng(zlib.crc32(key.encode()) + 1)
    chosen = rng.choice(seen, POINTS, replace=seen < POINTS)
    return {
        "rgba": out.rgba,
        "depth": out.depth.astype(np.float16),
        "normal": np.round(out.normal * 127).astype(np.int8),
        "points": out.points[chosen].astype(np.float16),
        "point_colors": np.round(out.point_colors[chosen] * 255).astype(np.uint8),
        "c2w": cameras.c2w.numpy(),
    }


def _render_shard(folder: str, key: str, shard: str) -> tuple[str, Exception | None]:
    """Renders one object into `shard`, whole or not at all. An object that cannot be read does not stop the others."""
    try:
        arrays = dataset_arrays(folder, key)
    except ValueError as error:
        return key, error
    temporary = f"{shard}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, shard)
    return key, None


def render_split(folder: Path, keys: list[str], out: Path, processes: int) -> None:
    """Renders `keys` and packs them into one `.npy` an array under `out`, with `keys.json` in the same order."""
    shards = out / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    paths = {key: shards / f"{key.replace('/', '__')}.npz" for key in keys}
    missing = [key for key in keys if not paths[key].exists()]
    print(f"{len(keys)} objects, {len(keys) - len(missing)} already rendered", flush=True)
    started = time.monotonic()
    for done, (key, error) in enumerate(_render_all(str(folder), {key: str(paths[key]) for key in missing}, processes), 1):
        if error is not None:
            print(f"{key}: {error}", flush=True)
        if done % 50 == 0 or done == len(missing):
            print(f"{done}/{len(missing)} in {time.monotonic() - started:.0f} s", flush=True)
    rendered = [key for key in keys if paths[key].exists()]
    if len(rendered) < len(keys):
        print(f"{len(keys) - len(rendered)} objects failed and are left out of the packed arrays", flush=True)
    write_attributions(folder, rendered, out / "attributions.csv")
    _pack(rendered, [paths[key] for key in rendered], out)


def _render_all(folder: str, shards: dict[str, str], processes: int) -> Iterator[tuple[str, Exception | None]]:
    """Each key as its shard is done, with what went wrong. One process is this one."""
    if processes == 1:
        yield from (_render_shard(folder, key, shard) for key, shard in shards.items())
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in as_completed([pool.submit(_render_shard, folder, key, shard) for key, shard in shards.items()]):
            yield job.result()


def _pack(keys: list[str], shards: list[Path], out: Path) -> None:
    """Shards -> `<array>.npy`, readable with np.load(..., mmap_mode="r"). keys.json is written last: its presence says all is there."""
    (out / "keys.json").unlink(missing_ok=True)
    packed: dict[str, NDArray] = {}
    for row, shard in enumerate(shards):
        with np.load(shard) as arrays:
            for name in ARRAYS:
                if name not in packed:
                    shape = (len(shards), *arrays[name].shape)
                    packed[name] = np.lib.format.open_memmap(out / f"{name}.npy.tmp", "w+", arrays[name].dtype, shape)
                packed[name][row] = arrays[name]
    for name in list(packed):
        packed.pop(name).flush()  # type: ignore[attr-defined]
        os.replace(out / f"{name}.npy.tmp", out / f"{name}.npy")
    about = {"keys": keys, "size": SIZE, "fov": FOV, "radius": RADIUS, "ring": RING, "targets": TARGETS, "queries": QUERIES}
    temporary = out / "keys.json.tmp"
    temporary.write_text(json.dumps(about, indent=1))
    os.replace(temporary, out / "keys.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Renders the objects of a split for training.")
    parser.add_argument("--objects", help="folder of .sh3f files (default: the environment variable LATHE_OBJECTS)")
    parser.add_argument("--split", default="train", choices=("train", "test", "bench"))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first so many objects")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = objects_folder(arguments.objects)
    render_split(folder, split(arguments.split)[: arguments.limit], arguments.out, arguments.processes)


if __name__ == "__main__":
    main()
