"""What the stages share: scores of pictures, means and paired gains of the methods, sheets of pictures, claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pipelines import metrics
from ...pipelines.images.sheets import tile
from ...pipelines.nets.lpips import LPIPS, load_lpips
from ...pipelines.nets.perceptual import perceptual_distance
from .. import common

LOWER_IS_BETTER = ("chamfer", "perceptual", "lpips", "sharpness_error", "disagreement")
Row = dict[str, float]


def optional_lpips(files: Sequence[Path] | None) -> LPIPS | None:
    """LPIPS where `--lpips` names its files."""
    return load_lpips(*files) if files else None


def mean_distance(distance: Callable[[Tensor, Tensor], Tensor], images: Tensor, truth: Tensor) -> float:
    """Mean of a perceptual distance over pairs of views (N, 3, H, W), one pair at a time."""
    with torch.no_grad():
        return float(torch.cat([distance(a, b) for a, b in zip(images.split(1), truth.split(1), strict=True)]).mean())


def picture_scores(images: Tensor, truth: Tensor, lpips: LPIPS | None) -> Row:
    """PSNR, MS-SSIM and perceptual distances, means over views (N, 3, H, W) of at least 161 pixels a side."""
    scores = {
        "psnr": float(metrics.psnr(images, truth).mean()),
        "ms_ssim": float(metrics.ms_ssim(images, truth).mean()),
        "perceptual": mean_distance(perceptual_distance, images, truth),
    }
    return scores if lpips is None else scores | {"lpips": mean_distance(lpips.distance, images, truth)}


def summary(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Means of ours at the top level, of the baselines below, and the paired differences, positive where ours is better."""
    names = list(rows["ours"][0])
    means = {method: {name: float(np.mean([row[name] for row in scores])) for name in names} for method, scores in rows.items()}
    print()
    common.print_table(("mean", *names), [(method, *(scores[name] for name in names)) for method, scores in means.items()])
    gains: dict[str, dict[str, dict[str, float]]] = {}
    for method, scores in rows.items():
        if method == "ours":
            continue
        for name in names:
            ours, theirs = ([row[name] for row in part] for part in (rows["ours"], scores))
            pair = (theirs, ours) if name in LOWER_IS_BETTER else (ours, theirs)
            gains.setdefault(method, {})[name] = common.paired_confidence(*pair)
    print("\nGain of ours over each, mean [95 % confidence], positive is better:")
    table = [(m, *(f"{g[n]['mean']:+.3f} [{g[n]['low']:+.3f}, {g[n]['high']:+.3f}]" for n in names)) for m, g in gains.items()]
    common.print_table(("over", *names), table)
    baseline_means = {method: scores for method, scores in means.items() if method != "ours"}
    return {**means["ours"], "baselines": baseline_means, "gain": gains}


def show_progress(key: str, rows: dict[str, list[Row]], names: Sequence[str] = ("fscore_0.05", "chamfer", "psnr")) -> None:
    """The last object's scores in one line."""
    parts = []
    for method, scores in rows.items():
        last = scores[-1]
        parts.append(f"{method} " + " ".join(f"{last[n]:.3f}" for n in names if n in last))
    print(f"{key}: " + "; ".join(parts), flush=True)


def save_sheet(folder: Path, stage: str, key: str, rows: Sequence[Tensor]) -> None:
    """One picture for an object, a row for each method, the truth first."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    sheet = tile(torch.cat(list(rows)), columns=len(rows[0]))[0]
    pixels = (sheet.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(folder / f"{stage}_{key.replace('/', '__')}.png")


def claim(name: str, value: float, at_least: float | None = None, *, below: float = math.inf) -> dict[str, Any]:
    """One thing the benchmark says of us, and whether it held: at least so much, or below so much."""
    bound = {"below": below} if at_least is None else {"at_least": at_least}
    holds = bool(value < below if at_least is None else value >= at_least)
    wanted = ", ".join(f"{word.replace('_', ' ')} {number:.4g}" for word, number in bound.items())
    print(f"{name}: {value:.4g}, {wanted} wanted: {'holds' if holds else 'DOES NOT HOLD'}", flush=True)
    return {"claim": name, "value": value, **bound, "holds": holds}


def most_of(count: int) -> int:
    """How many of `count` objects are three quarters of them: 6 of 8."""
    return -(-3 * count // 4)
