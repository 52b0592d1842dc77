"""Writes the averaged weights of a finished run as a bundled mini model: half precision, settings in the file's header.

Usage:

    python training/export_mini.py views --run DIR --relief DIR [--steps 8]
    python training/export_mini.py lrm --run DIR [--stage mesh] [--out FILE]
    python training/export_mini.py elevation --run DIR [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.elevation_head import fingerprint  # noqa: E402
from lathe.pipelines.nets.mini_lrm import MiniLRM  # noqa: E402
from lathe.pipelines.weights.mini_models import ELEVATION, LRM_FILE, VIEWS, load_lrm  # noqa: E402
from lathe.training.render_orbits import HIGHEST, LOWEST  # noqa: E402
from lathe.training.train_views import PATCH, UNET  # noqa: E402

GUIDE_SHARE = 0.5
"""See `view_generation.model.ViewModel.guide_share`: half, so that a silhouette is where either the guess or the whole estimate is."""


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Saves the tensors in float16, atomically. The codec's linear maps stay in float32: they are small and exact."""
    halved = {name: value.contiguous().to(torch.float32 if name.startswith("codec.") else torch.float16) for name, value in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(halved, partial, metadata={"lathe_config": json.dumps(config)})
    os.replace(partial, path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {sum(v.numel() for v in halved.values()) / 1e6:.2f} M numbers")


def averaged(run: Path) -> dict[str, Tensor]:
    """The averaged weights of a run."""
    state: dict[str, Tensor] = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["ema"]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("views", "lrm", "elevation"))
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--relief", type=Path, help="views: folder of the run of train_relief.py")
    parser.add_argument("--steps", type=int, default=8, help="views: the sampler's default number of steps")
    parser.add_argument("--stage", choices=("nerf", "mesh"), default="mesh", help="lrm: the stage the run trained")
    parser.add_argument("--no-point-input", action="store_true", help="lrm: the run was the ablation")
    parser.add_argument("--out", type=Path, help="where to write; the bundled file by default")
    args = parser.parse_args()
    state = averaged(args.run)
    if args.model == "views":
        if args.relief is None:
            parser.error("views needs --relief")
        renamed = {name.replace("denoiser.unet.", "unet.", 1): value for name, value in state.items()}
        renamed.update({f"relief.{name}": value for name, value in averaged(args.relief).items()})
        config: dict[str, Any] = {
            "kind": "views", "unet": UNET, "patch": PATCH, "view_size": 64, "camera_preset": "zero123plus_v1.2",
            "steps": args.steps, "guidance": 1.0, "guide_share": GUIDE_SHARE,
        }  # fmt: skip
        write(args.out or VIEWS, renamed, config)
    elif args.model == "elevation":
        lrm = load_lrm()
        scores = json.loads((args.run / "curve.jsonl").read_text().splitlines()[-1])
        hidden, features = state["first.weight"].shape
        config = {
            "kind": "elevation", "features": features, "hidden": hidden, "view_size": lrm.view_size,
            "deviation": round(scores["held_out_rms"], 1), "span": [LOWEST, HIGHEST], "encoder": fingerprint(lrm.net.encoder),
        }  # fmt: skip
        write(args.out or ELEVATION, {f"head.{name}": value for name, value in state.items()}, config)
    else:
        net = MiniLRM(point_input=not args.no_point_input)
        net.synthesizer.decoder.kind = args.stage
        net.load_state_dict(state)
        write(args.out or LRM_FILE, {f"net.{k}": v for k, v in state.items()}, {"kind": "lrm", "settings": net.settings()})


if __name__ == "__main__":
    main()
