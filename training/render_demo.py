"""Renders the demo's inputs from an object that training never sees.

    python training/render_demo.py --objects DIR --key blendswap-cc-0/chicken --azimuth 60 --out DIR

Writes `picture.png`, 512 px with alpha, seen from the given azimuth and elevation 15, and `view_1.png` .. `view_6.png`, 320 px
with alpha: the object's true views at the poses of Zero123++ v1.2, whose azimuths count from the picture's. Also `turntable.png`, a
sheet of 4 x 4 frames, 256 px with alpha each: one turn from the object's front, 22.5 degrees a frame, at elevation 20. Its colours are
blended over white already, since ComfyUI's Load Image takes the alpha away without blending.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.training.objects import load_object, split  # noqa: E402
from lathe.training.render_dataset import orbit_cameras, render_object  # noqa: E402

AZIMUTHS = np.array([30.0, 90.0, 150.0, 210.0, 270.0, 330.0])
ELEVATIONS = np.array([20.0, -10.0, 20.0, -10.0, 20.0, -10.0])
TURN, TURN_ELEVATION, TURN_COLUMNS = np.arange(16) * 22.5, 20.0, 4


def render_demo(folder: str | None, key: str, azimuth: float, out: Path) -> None:
    """The picture of `key` from `azimuth` (degrees), its six views and its turntable.

    Raises:
        ValueError: the object is not of the test split.
    """
    from PIL import Image

    if key not in split("test"):
        raise ValueError(f"{key!r} is not an object of the test split; a demo of a training object would show memory, not skill.")
    obj = load_object(folder, key)
    out.mkdir(parents=True, exist_ok=True)
    picture = render_object(obj, orbit_cameras(np.full(1, azimuth), np.full(1, 15.0)), 512, aa=3)
    Image.fromarray(picture.rgba[0]).save(out / "picture.png", optimize=True)
    views = render_object(obj, orbit_cameras(azimuth + AZIMUTHS, ELEVATIONS), 320, aa=3)
    for i, view in enumerate(views.rgba, 1):
        Image.fromarray(view).save(out / f"view_{i}.png", optimize=True)
    frames = render_object(obj, orbit_cameras(TURN, np.full(len(TURN), TURN_ELEVATION)), 256, aa=3).rgba
    alpha = frames[..., 3:].astype(np.float32) / 255
    frames[..., :3] = (frames[..., :3] * alpha + 255 * (1 - alpha)).round()
    rows = [np.concatenate(list(frames[i : i + TURN_COLUMNS]), axis=1) for i in range(0, len(frames), TURN_COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(out / "turntable.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Renders the demo's inputs.")
    parser.add_argument("--objects", help="folder of .sh3f files (default: the environment variable LATHE_OBJECTS)")
    parser.add_argument("--key", required=True)
    parser.add_argument("--azimuth", type=float, default=0.0, help="of the picture, in degrees")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    render_demo(arguments.objects, arguments.key, arguments.azimuth, arguments.out)


if __name__ == "__main__":
    main()
