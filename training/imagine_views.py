"""Draws the mini view model's views of the training objects, on which the reconstruction network learns to forgive them.

For each object, four of the query pictures `guide_views.py` drew guides for: six views, with masks found as Generate
Views finds them. Written beside the rendered set; `lrm_batches.draw` finds them there.

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
from lathe.pipelines.images import foreground  # noqa: E402
from lathe.pipelines.nets.mini_views import PatchCodec  # noqa: E402
from lathe.training.export_mini import GUIDE_SHARE  # noqa: E402
from lathe.training.rendered import IMAGINED, QUERIES_IMAGINED  # noqa: E402
from lathe.training.train_views import PATCH, UNET, Guided, MiniViews, Objective, from_grid  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a split as render_dataset.py packs it")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run of train_views.py")
    args = parser.parse_args()
    data = Guided(args.data)
    model = MiniViews(PatchCodec(PATCH, UNET["out_channels"]))
    model.load_state_dict(torch.load(args.run / "checkpoint.pt", weights_only=True)["ema"])
    model.eval()
    objective = Objective(data, 1.0)
    generator = torch.Generator().manual_seed(0)
    count, size = len(data.data), data.data.rgba.shape[2]
    steps = data.steps[:, :QUERIES_IMAGINED]
    rgba = np.zeros((count, QUERIES_IMAGINED, 6, size, size, 4), dtype=np.uint8)
    t = torch.full((QUERIES_IMAGINED,), 999)
    for item in range(count):
        samples = [data.sample(item, row, False) for row in range(QUERIES_IMAGINED)]
        query, guide = (torch.stack(part) for part in list(zip(*samples, strict=True))[:2])
        noise = torch.randn(QUERIES_IMAGINED, UNET["out_channels"], 3 * size // PATCH, 2 * size // PATCH, generator=generator)
        with torch.no_grad():
            v = objective.velocity(model, query, guide, noise, t)
            views = from_grid(model.codec.decode(objective.signal[999] * noise - objective.noise[999] * v))
            views = torch.lerp(views, guide[:, :, :3], GUIDE_SHARE).flatten(0, 1)
        try:
            masks = foreground.mask_views(views, "half_contrast")
        except ValueError:  # nothing stands out from the white: such a set teaches nothing
            masks = torch.ones_like(views[:, :1])
        stacked = (torch.cat([views, masks], 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        rgba[item] = stacked.reshape(QUERIES_IMAGINED, 6, size, size, 4).numpy()
        if item % 100 == 99:
            print(f"{item + 1}/{count}", flush=True)
    for name, array in zip(IMAGINED, (steps, rgba), strict=True):
        partial = args.data / f"{name}.partial"
        with open(partial, "wb") as file:
            np.save(file, array)
        os.replace(partial, args.data / name)


if __name__ == "__main__":
    main()
