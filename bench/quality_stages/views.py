"""One picture in, six views out."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from ...pipelines import metrics
from .. import reconstruct, retrieval, scenes
from .report import Row, mean_distance, optional_lpips, save_sheet, show_progress, summary

SIZE = 32
LPIPS_SIZE = 64  # below it, too few pixels are left of LPIPS's deepest features


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage views`: PSNR of the six views at 32 px."""
    model, lpips = reconstruct.load_view_model(arguments.view_model, arguments.white_unet), optional_lpips(arguments.lpips)
    searches: dict[str, retrieval.Retrieval] = {}
    if arguments.views:
        searches = {"": retrieval.Retrieval(arguments.views), "_prepared": retrieval.Retrieval(arguments.views, prepared=True)}
    else:
        print("No --views DIR (the rendered training split): the retrieval baseline is left out.")
    rows: dict[str, list[Row]] = {}
    seconds: list[float] = []
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        scene = scenes.load_scene(arguments, key, model.view_size)
        start = time.monotonic()
        made = {"ours": reconstruct.imagine(model, scene.query, arguments.seed, arguments.steps)}
        seconds.append(time.monotonic() - start)
        for name, picture in (("", scene.query.images[0]), ("_prepared", reconstruct.prepared(model, scene.query)[0])):
            made[f"copy{name}"] = retrieval.copies(picture)
            if searches:
                made[f"retrieval{name}"], _ = searches[name].views(picture)
        truth = retrieval.at_size(scene.six.images, SIZE)
        for name, images in made.items():
            scores = {"psnr": float(metrics.psnr(retrieval.at_size(images, SIZE), truth).mean())}
            if lpips is not None:
                pair = (retrieval.at_size(pictures, LPIPS_SIZE) for pictures in (images, scene.six.images))
                scores["lpips"] = mean_distance(lpips.distance, *pair)
            rows.setdefault(name, []).append(scores)
        show_progress(scene.key, rows)
        if arguments.pictures:
            pictures = [scene.six.images, *made.values()]
            save_sheet(arguments.pictures, "views", scene.key, [retrieval.at_size(p, 64) for p in pictures])
    result = summary(rows)
    for name in ("copy", "retrieval"):
        baseline = result["baselines"].get(name)
        result[name] = baseline["psnr"] if baseline else None
    result["objects"] = len(keys)
    result["seconds_per_object"] = float(np.mean(seconds))
    return result
