"""Draws the mini view model's views of the training objects, on which the reconstruction network learns to forgive them.

For each object, four of its twelve query pictures, framed as Prepare Image frames them: six views with masks keyed as Mask
Views keys them. Written beside the rendered set; `lrm_batches.draw` finds them there.

    python training/imagine_views.py --data DIR/train --run DIR
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
from lathe.pipelines import foreground  # noqa: E402
from lathe.pipelines.nets.mini_views import PatchCodec  # noqa: E402
from lathe.training.rendered import IMAGINED, QUERIES_IMAGINED, RenderedObjects, framed  # noqa: E402
from lathe.training.train_views import PATCH, UNET, MiniViews, Objective, from_grid  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a split as render_dataset.py packs it")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run of train_views.py")
    args = parser.parse_args()
    data = RenderedObjects(args.data)
    model = MiniViews(PatchCodec(PATCH, UNET["in_channels"]))
    model.load_state_dict(torch.load(args.run / "checkpoint.pt", weights_only=True)["ema"])
    model.eval()
    objective = Objective(data, 1.0)
    generator = torch.Generator().manual_seed(0)
    size = data.rgba.shape[2]
    steps = np.zeros((len(data), QUERIES_IMAGINED), dtype=np.int64)
    rgba = np.zeros((len(data), QUERIES_IMAGINED, 6, size, size, 4), dtype=np.uint8)
    t = torch.full((QUERIES_IMAGINED,), 999)
    for item in range(len(data)):
        steps[item] = torch.randperm(12, generator=generator)[:QUERIES_IMAGINED].numpy()
        pairs = [data.on_white(item, [data.query_views[step]]) for step in steps[item]]
        query = torch.stack([framed(image[0], mask[0], 0.85)[0] for image, mask in pairs])
        noise = torch.randn(QUERIES_IMAGINED, UNET["in_channels"], 3 * size // PATCH, 2 * size // PATCH, generator=generator)
        with torch.no_grad():
            v = objective.velocity(model, query, noise, t)
            views = from_grid(model.codec.decode(objective.signal[999] * noise - objective.noise[999] * v)).flatten(0, 1)
        try:
            masks = foreground.mask_views(views, "plain_background")
        except ValueError:  # nothing stands out from the white: such a set teaches nothing
            masks = torch.ones_like(views[:, :1])
        stacked = (torch.cat([views, masks], 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        rgba[item] = stacked.reshape(QUERIES_IMAGINED, 6, size, size, 4).numpy()
        if item % 100 == 99:
            print(f"{item + 1}/{len(data)}", flush=True)
    for name, array in zip(IMAGINED, (steps, rgba), strict=True):
        partial = args.data / f"{name}.partial"
        with open(partial, "wb") as file:
            np.save(file, array)
        os.replace(partial, args.data / name)


if __name__ == "__main__":
    main()
