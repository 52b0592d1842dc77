"""Draws the relief network's first guesses for the training objects, which the mini view model's denoiser learns to mend.

For each object six of its twelve query pictures, framed as Prepare Image frames them, and the same six mirrored. Written
beside the rendered set; `train_views.py` reads them there.

    python training/guide_views.py --data DIR/train --run DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.cameras.presets import preset_cameras  # noqa: E402
from lathe.pipelines.nets.mini_relief import ReliefNet  # noqa: E402
from lathe.pipelines.nets.mini_views import PatchCodec  # noqa: E402
from lathe.pipelines.nets.relief_guide import ReliefGuide  # noqa: E402
from lathe.training.rendered import GUIDES, QUERIES_GUIDED, RenderedObjects, framed  # noqa: E402
from lathe.training.train_views import PATCH, UNET  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a split as render_dataset.py packs it")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run of train_relief.py")
    args = parser.parse_args()
    data = RenderedObjects(args.data)
    net = ReliefNet().eval()
    net.load_state_dict(torch.load(args.run / "checkpoint.pt", weights_only=True)["ema"])
    size = data.rgba.shape[2]
    guide = ReliefGuide(net, PatchCodec(PATCH, UNET["out_channels"]), preset_cameras("zero123plus_v1.2"), size)
    generator = torch.Generator().manual_seed(0)
    steps = np.zeros((len(data), QUERIES_GUIDED), dtype=np.int64)
    rgba = np.zeros((len(data), QUERIES_GUIDED, 2, 6, size, size, 4), dtype=np.uint8)
    for item in range(len(data)):
        steps[item] = torch.randperm(12, generator=generator)[:QUERIES_GUIDED].numpy()
        for row, step in enumerate(steps[item]):
            images, masks = data.on_white(item, [data.query_views[step]])
            picture = framed(images[0], masks[0], 0.85)[0]
            mask = 1 - framed(1 - masks[0], masks[0], 0.85)[0]
            for mirrored in (False, True):
                with torch.no_grad():
                    views = torch.cat(guide.views(picture, mask, mirrored=mirrored), 1)
                rgba[item, row, int(mirrored)] = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        if item % 100 == 99:
            print(f"{item + 1}/{len(data)}", flush=True)
    for name, array in zip(GUIDES, (steps, rgba), strict=True):
        partial = args.data / f"{name}.partial"
        with open(partial, "wb") as file:
            np.save(file, array)
        os.replace(partial, args.data / name)


if __name__ == "__main__":
    main()
