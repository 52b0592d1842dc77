"""Draws the training curves of the mini models, from the lines their runs wrote: docs/pictures/mini_curves.png.

Usage:

    python training/plot_curves.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CURVES = ROOT / "training" / "curves"
PANELS = (
    ("reconstruction, from six true views", "psnr", "PSNR at 64 px, dB", {
        "lrm_stage_1": "stage 1, field", "lrm_ablation": "stage 1 without the point input",
    }),
    ("reconstruction, stage 2", "psnr_mesh", "PSNR of meshes at 64 px, dB", {"lrm_stage_2": "stage 2, mesh"}),
    ("views, one-step estimate", "psnr_one_step", "PSNR at 32 px, dB", {"views": "without a guide", "views_guided": "with the guide"}),
    ("relief", "test_front", "error of front depth, half frames", {"relief": "front depth"}),
    ("elevation head", "test_mean", "mean error on test orbits, degrees", {"elevation": "elevations -15..65"}),
    ("GeoLRM, proposal", "iou_16", "intersection over union, 16 views", {"geolrm_proposal": "cells of 40^3"}),
    ("GeoLRM, reconstruction", "psnr_20", "PSNR at 64 px from 20 views, dB", {
        "geolrm_reconstruction": "up to 7 views, then up to 14", "geolrm_reconstruction_2": "gradients of colours pass the clamp",
    }),
)  # fmt: skip


def main() -> None:
    figure, axes = pyplot.subplots(2, -(-len(PANELS) // 2), figsize=(22, 8))
    for axis, (title, score, label, runs) in zip(axes.flat, PANELS, strict=False):
        for name, legend in runs.items():
            lines = [json.loads(line) for line in (CURVES / f"{name}.jsonl").read_text().splitlines()]
            seen = [(line["samples"], line[score]) for line in lines if score in line]
            axis.plot(*zip(*seen, strict=True), marker="o", markersize=3, label=legend)
        axis.set_title(title)
        axis.set_xlabel("samples seen")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    for axis in axes.flat[len(PANELS) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "pictures" / "mini_curves.png", dpi=90)


if __name__ == "__main__":
    main()
