"""How good the results are, beside the baselines they must beat (protocols and figures: bench/README.md).

    python bench/quality.py --stage lrm                  six true views in, a mesh out
    python bench/quality.py --stage image_to_mesh        one picture in, a mesh out
    python bench/quality.py --stage views                one picture in, six views out (--views DIR for the retrieval baseline)
    python bench/quality.py --stage splat_fit            sixteen true views in, splats and a mesh out
    python bench/quality.py --stage inconsistent_views   views that disagree: image-level loss against pixel loss, and re-noising
    python bench/quality.py --stage geolrm               4 to 20 true views in, splats out
    python bench/quality.py --stage distil               one picture and oracle priors in, a field and a mesh out

Runs on the 8 bench objects, which the repository holds. The last line is JSON. The last four stages make claims: where one does not
hold, the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.bench import common  # noqa: E402

STAGES = {
    "lrm": "meshes",
    "image_to_mesh": "meshes",
    "views": "views",
    "splat_fit": "splat_fit",
    "inconsistent_views": "inconsistent_views",
    "geolrm": "geolrm",
    "distil": "distil",
}


def main() -> int:
    """Runs a stage; 1 where one of its claims does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(STAGES), required=True)
    parser.add_argument("--lrm", type=Path, help="a reconstruction model (.safetensors, .ckpt) instead of the bundled one")
    parser.add_argument("--geolrm", type=Path, help="a GeoLRM (.safetensors, .ckpt) instead of the bundled one")
    parser.add_argument("--view-model", type=Path, help="a view model (.safetensors, or the published folder) instead of the bundled one")
    parser.add_argument("--white-unet", type=Path, help="InstantMesh's white-background U-Net for a published folder")
    parser.add_argument("--lpips", type=Path, nargs="+", help="files of LPIPS' weights (VGG16): adds a column to every stage")
    parser.add_argument("--views", type=Path, help="the rendered training split, for the retrieval baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elevation", type=float, help="of the picture in degrees, as a user guesses it; by default the true one")
    parser.add_argument("--steps", type=int, help="sampling steps of the view model; its own by default")
    parser.add_argument("--pictures", type=Path, help="writes a sheet for each object there: truth, ours, baselines")
    common.add_object_arguments(parser)
    arguments = parser.parse_args()
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    start = time.monotonic()
    result = import_module(f"lathe.bench.quality_stages.{STAGES[arguments.stage]}").run(arguments)
    about = {"bench": "quality", "stage": arguments.stage, "seconds": time.monotonic() - start, "peak_gib": common.peak_rss_gib()}
    common.finish({**about, **result, "machine": facts})
    return 0 if all(claim["holds"] for claim in result.get("claims", [])) else 1


if __name__ == "__main__":
    sys.exit(main())
