"""Renders the views by which GeoLRM's forms are told apart (`pipelines/reconstruction/geolrm/calibration.py`), of an object that training
never sees.

    python training/render_calibration.py [--objects DIR] [--key blendswap-cc-0/chicken]

Writes a sheet of 4 x 2 views with alpha at the poses of `calibration.calibration_cameras`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.reconstruction.geolrm import calibration  # noqa: E402
from lathe.training.objects import load_object, split  # noqa: E402
from lathe.training.render_dataset import render_object  # noqa: E402

BENCH = Path(__file__).resolve().parents[1] / "tests" / "data" / "objects"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", default=str(BENCH), help="folder of .sh3f files; default: the bench objects")
    parser.add_argument("--key", default="blendswap-cc-0/chicken")
    arguments = parser.parse_args()
    if arguments.key not in split("test") + split("bench"):
        raise SystemExit(f"{arguments.key} is not an object of the test split.")
    from PIL import Image

    views = render_object(load_object(arguments.objects, arguments.key), calibration.calibration_cameras(), calibration.TILE, aa=3).rgba
    columns = calibration.COLUMNS
    rows = [np.concatenate(list(views[i : i + columns]), axis=1) for i in range(0, len(views), columns)]
    Image.fromarray(np.concatenate(rows)).save(calibration.SHEET, quality=92, method=6)


if __name__ == "__main__":
    main()
