"""IM-3D's ablation (table 2, figure 6) at small scale: image-level losses against a pixel loss, on views that disagree.

The sixteen true views are bent by up to three pixels, each by a field of its own; the true held-out views are the judges.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
import torch

from ...pipelines import metrics
from ...pipelines.nets.lpips import LPIPS
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.fit import fit_splats, with_changes
from ...pipelines.splats.fit_settings import load_fit_preset
from .. import scenes, warps
from .report import Row, claim, most_of, optional_lpips, picture_scores, save_sheet, show_progress, summary

MOST_DISPLACED = 3.0  # pixels of 256
IMAGE_LEVEL, PIXEL = "fast", "pixel"  # presets


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of both losses; `objects` tells for each in which measures the image-level one is better."""
    lpips = optional_lpips(arguments.lpips)
    image_level = load_fit_preset(IMAGE_LEVEL)
    pixel = with_changes(image_level, weights=vars(load_fit_preset(PIXEL).weights))  # nothing else differs
    rows: dict[str, list[Row]] = {}
    objects: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    keys = scenes.chosen_keys(arguments)
    for index, key in enumerate(keys):
        scene = scenes.load_turntable(arguments, key)
        size, seed = scenes.TURNTABLE_SIZE, arguments.seed + index
        fields = warps.displacement_fields(len(scene.inputs.images), size, MOST_DISPLACED, seed)
        images, masks = warps.warped(scene.inputs.images, fields), warps.warped(scene.inputs.masks, fields)
        pictures = [scene.held_out.images]
        for name, settings in (("ours", image_level), ("pixel_loss", pixel)):
            start = time.monotonic()
            splats = fit_splats(images, masks, scene.inputs.cameras, settings=settings, seed=seed)[0].splats
            seconds.append(time.monotonic() - start)
            renders = render_splats(splats, scene.held_out.cameras, size, size).images
            rows.setdefault(name, []).append(scores_of(renders, scene.held_out, lpips))
            pictures.append(renders)
        ours, theirs = rows["ours"][-1], rows["pixel_loss"][-1]
        objects[scene.key] = {
            "image_level": ours,
            "pixel": theirs,
            "nearer": ours["perceptual"] < theirs["perceptual"],
            "sharper": ours["sharpness_error"] < theirs["sharpness_error"],
        }
        show_progress(scene.key, rows, ("perceptual", "sharpness", "psnr", "ms_ssim"))
        if arguments.pictures:
            save_sheet(arguments.pictures, "loss_ablation", scene.key, [images[::2], *pictures])
    result = summary(rows)
    nearer, sharper = (sum(facts[name] for facts in objects.values()) for name in ("nearer", "sharper"))
    wanted = most_of(len(keys))
    claims = [
        claim("objects perceptually nearer by the image-level loss", nearer, wanted),
        claim("objects nearer in sharpness by the image-level loss", sharper, wanted),
    ]
    facts = {"nearer": nearer, "sharper": sharper, "seconds_per_fit": float(np.mean(seconds))}
    return {**result, **facts, "per_object": objects, "claims": claims}


def scores_of(renders: torch.Tensor, truth: scenes.Views, lpips: LPIPS | None) -> Row:
    """Pictures' scores, sharpness as a share of the truth's, and how far that is from 1 (absolute binary logarithm)."""
    sharpness = float(metrics.sharpness(renders, truth.images, truth.masks).mean())
    error = abs(math.log2(max(sharpness, 1e-6)))
    return picture_scores(renders, truth.images, lpips) | {"sharpness": sharpness, "sharpness_error": error}
