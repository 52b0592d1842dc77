"""One round of re-noising (IM-3D, section 3.4) with the view model: do the views and the asset fitted to them agree better after it?

More steps alone bring an asset nearer to its views, so the same number of them without the round stands beside. Of a model with a guide a
share of each render stays in the new view (`guide_share`, half for the mini model), which by itself brings views and asset together: the
result names it as `render_share`, and `psnr` to the true views tells whether anything was gained.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pipelines import metrics
from ...pipelines.fitting.perceptual import Perceptual, load_perceptual
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.fit import SplatFit, fit_splats, with_changes
from ...pipelines.splats.fit_settings import load_fit_preset
from ...pipelines.splats.renoise import RenoiseLoop, disagreement
from ...pipelines.systems.im3d import DENOISING_STEPS, ViewModelRedenoise
from ...pipelines.view_generation.model import ViewModel
from .. import reconstruct, scenes
from .report import Row, claim, most_of, save_sheet, show_progress, summary

PRESET = "fast"
LEVEL = 0.7
FIT_STEPS = 300  # of the round
SHOWN = ("disagreement", "psnr_views", "psnr")


@dataclass(frozen=True)
class Outcome:
    """A fitted asset as its views' cameras see it, beside the views (V, 3, S, S), masks (V, 1, S, S), it was fitted to last."""

    renders: Tensor
    views: Tensor
    masks: Tensor | None


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Disagreement of the model's views and the asset after a round (ours), before it, and after as many steps without it."""
    model = reconstruct.load_view_model(arguments.view_model, arguments.white_unet)
    perceptual = load_perceptual()
    rows: dict[str, list[Row]] = {}
    objects: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        start = time.monotonic()
        scene = scenes.load_scene(arguments, key, model.view_size)
        outcomes = outcomes_of(model, scene.query, perceptual, arguments)
        seconds.append(time.monotonic() - start)
        for name, outcome in outcomes.items():
            scores = {
                "disagreement": disagreement(perceptual, outcome.views, outcome.masks, outcome.renders, model.background),
                "psnr_views": float(metrics.psnr(outcome.renders, outcome.views).mean()),
                "psnr": float(metrics.psnr(outcome.renders, scene.six.images).mean()),
            }
            rows.setdefault(name, []).append(scores)
        latest = {name: scores[-1] for name, scores in rows.items()}
        lower = {name: latest["ours"]["disagreement"] < latest[name]["disagreement"] for name in ("before", "without_round")}
        objects[scene.key] = {**latest, "agrees": lower["before"], "agrees_more_than_without": lower["without_round"]}
        show_progress(scene.key, rows, SHOWN)
        if arguments.pictures:
            parts = [part for name in ("before", "ours") for part in (outcomes[name].views, outcomes[name].renders)]
            sheet = [torch.nn.functional.interpolate(part, scale_factor=2.0) for part in (scene.six.images, *parts)]
            save_sheet(arguments.pictures, "renoise_round", scene.key, sheet)
    result = summary(rows)
    agreeing, without = (sum(facts[name] for facts in objects.values()) for name in ("agrees", "agrees_more_than_without"))
    claims = [claim("objects whose views and asset agree better after a round", agreeing, most_of(len(keys)))]
    facts = {"agreeing": agreeing, "agreeing_more_than_without_round": without, "render_share": model.guide_share}
    facts["seconds_per_object"] = float(np.mean(seconds))
    return {**result, **facts, "per_object": objects, "claims": claims}


def outcomes_of(model: ViewModel, query: scenes.Views, perceptual: Perceptual, arguments: argparse.Namespace) -> dict[str, Outcome]:
    """Views of the query, the asset fitted to them, and what becomes of both."""
    seed = arguments.seed
    picture, mask = reconstruct.prepared(model, query)
    views = reconstruct.posed_views(model, reconstruct.imagine(model, query, seed, arguments.steps))
    settings = with_changes(load_fit_preset(PRESET), background=model.background)
    given = (views.images, views.masks, views.cameras)
    first = fit_splats(*given, settings=settings, seed=seed, perceptual=perceptual)[0].splats
    more = with_changes(settings, steps=FIT_STEPS)
    longer, refined = (SplatFit(*given, start=first, settings=more, seed=seed, perceptual=perceptual) for _ in range(2))
    longer.run(FIT_STEPS)
    generator = ViewModelRedenoise(model, picture, mask, steps=min(model.steps, DENOISING_STEPS))
    loop = RenoiseLoop(refined, *given, generator, perceptual)
    loop.round(LEVEL, FIT_STEPS, seed)
    size = model.view_size
    ours, before, without = (
        render_splats(splats, views.cameras, size, size, background=model.background).images
        for splats in (refined.result().splats, first, longer.result().splats)
    )
    return {
        "ours": Outcome(ours, loop.images, loop.masks),
        "before": Outcome(before, views.images, views.masks),
        "without_round": Outcome(without, views.images, views.masks),
    }
