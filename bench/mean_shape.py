"""Makes bench/mean_shape.npz, the baseline that knows the training split and ignores its input.

    python bench/mean_shape.py --views DIR

Every training object's visual hull of its 24 ring views is put on one grid; the mean occupancy is cut at the threshold that gives the
least mean Chamfer distance to some of those objects, and each place has its mean colour. DIR is the rendered training split, an output of
training/render_dataset.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.bench import baselines, common  # noqa: E402
from lathe.pipelines import metrics  # noqa: E402
from lathe.pipelines.data.cameras import Cameras  # noqa: E402
from lathe.pipelines.ops import camera_math, mesh_sampling, visual_hull  # noqa: E402
from lathe.training.rendered import RenderedObjects  # noqa: E402

RESOLUTION = 48
RING = list(range(24))
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
TUNING_OBJECTS = 60


def mean_volume(data: RenderedObjects) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean occupancy (R, R, R) and mean colour (R, R, R, 3) of the hulls of all objects."""
    total = torch.zeros(RESOLUTION, RESOLUTION, RESOLUTION)
    color = torch.zeros(RESOLUTION, RESOLUTION, RESOLUTION, 3)
    for item in range(len(data)):
        images, masks = data.on_white(item, RING)
        cameras = Cameras(torch.from_numpy(np.array(data.c2w[item, RING])), camera_math.intrinsics(30.0, len(RING)), tuple(map(str, RING)))
        occupancy, seen = visual_hull.hull_volume(images, masks, cameras, RESOLUTION)
        total += occupancy
        color += occupancy[..., None] * seen
        if (item + 1) % 50 == 0:
            print(f"{item + 1}/{len(data)} objects", flush=True)
    return total / len(data), color / total[..., None].clamp_min(1e-6)


def save(file: Path, occupancy: torch.Tensor, color: torch.Tensor, threshold: float, keys: int) -> None:
    """Writes the volume as bytes, whole or not at all."""
    temporary = file.with_suffix(".tmp.npz")
    shape, shades = (np.round(value.clamp(0, 1).numpy() * 255).astype(np.uint8) for value in (occupancy, color))
    np.savez_compressed(temporary, occupancy=shape, color=shades, threshold=np.float32(threshold), objects=np.int64(keys))
    os.replace(temporary, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=Path, required=True, help="the rendered training split")
    parser.add_argument("--out", type=Path, default=baselines.MEAN_SHAPE_FILE)
    arguments = parser.parse_args()
    facts = common.machine()
    print(common.machine_line(facts))
    data = RenderedObjects(arguments.views)
    occupancy, color = mean_volume(data)
    surfaces = np.load(arguments.views / "points.npy", mmap_mode="r")
    rows = []
    for threshold in THRESHOLDS:
        if float(occupancy.max()) <= threshold:
            continue
        save(arguments.out, occupancy, color, threshold, len(data))
        points = mesh_sampling.sample_surface(baselines.mean_shape_mesh(arguments.out), 4096, seed=0)
        scores = [
            metrics.surface_scores(points, torch.from_numpy(np.array(surfaces[item, ::4], dtype=np.float32)))
            for item in range(0, len(data), max(1, len(data) // TUNING_OBJECTS))
        ]
        rows.append((threshold, *(float(np.mean([s[name] for s in scores])) for name in ("chamfer", "fscore_0.1", "fscore_0.05"))))
    common.print_table(("threshold", "chamfer", "fscore_0.1", "fscore_0.05"), rows)
    best = min(rows, key=lambda row: row[1])[0]
    save(arguments.out, occupancy, color, best, len(data))
    common.finish({"bench": "mean_shape", "objects": len(data), "threshold": best, "machine": facts})


if __name__ == "__main__":
    main()
