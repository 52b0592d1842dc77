"""Trains the elevation head: features of four frames of an orbit, averaged, and a two-layer MLP to radians (IM-3D, appendix A.1).

The features come from the image encoder of the bundled reconstruction model, which stays as it is; they are computed once, of
each orbit that render_orbits.py drew and of its mirror image. Every eighth training object is held out: what the head errs on
those is the `deviation` that goes into its file.

    python training/train_elevation.py --data DIR --run DIR --minutes 2
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.dino import ImageEncoder  # noqa: E402
from lathe.pipelines.nets.elevation_head import ElevationHead, frame_pictures, orbit_features  # noqa: E402
from lathe.pipelines.weights.mini_models import load_lrm  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.render_orbits import ARRAYS  # noqa: E402

BATCH = 256
HIDDEN, DROPOUT = 128, 0.3
HELD_OUT = 8
SMALLEST_DEVIATION = 1e-2  # of a feature, so that one that hardly varies is not blown up


@dataclass(frozen=True)
class Lessons:
    """features (N, O, M, F) of N objects, O orbits, plain and (where M = 2) mirrored; elevations (N, O) in radians."""

    features: Tensor
    elevations: Tensor

    def objects(self, chosen: Tensor) -> Lessons:
        """Those of some objects, (N,) bool."""
        return Lessons(self.features[chosen], self.elevations[chosen])

    def scores(self, head: nn.Module, name: str) -> dict[str, float]:
        """Mean, median and root mean square error in degrees on the orbits as they are."""
        errors = torch.rad2deg((head(self.features[:, :, 0].flatten(0, 1).float()) - self.elevations.flatten()).abs())
        figures = {"mean": errors.mean(), "median": errors.median(), "rms": errors.square().mean().sqrt()}
        return {f"{name}_{figure}": float(value) for figure, value in figures.items()}


@torch.no_grad()
def read_lessons(folder: Path, encoder: ImageEncoder, size: int, *, mirror: bool) -> Lessons:
    """The orbits of a split as features, float16."""
    missing = [name for name in ARRAYS if not (folder / name).exists()]
    if missing:
        raise SystemExit(f"{folder} holds no {missing[0]}: run training/render_orbits.py --data {folder} first.")
    elevations, rgba = (np.load(folder / name, mmap_mode="r") for name in ARRAYS)
    features = []
    for orbits in rgba:
        pictures = []
        for orbit in orbits:
            frames = torch.from_numpy(np.array(orbit)).permute(0, 3, 1, 2).float() / 255
            framed = frame_pictures(frames[:, :3], frames[:, 3:], torch.full((len(frames), 2), 0.5), size)
            pictures += [framed, framed.flip(-1)] if mirror else [framed]
        features.append(orbit_features(encoder, torch.stack(pictures)).half().unflatten(0, (len(orbits), -1)))
    return Lessons(torch.stack(features), torch.deg2rad(torch.from_numpy(np.array(elevations))))


def untrained_head(lessons: Lessons) -> ElevationHead:
    """A head whose inputs have mean 0 and deviation 1 on these lessons, and that answers their mean elevation."""
    rows = lessons.features.flatten(0, 2).float()
    head = ElevationHead(rows.shape[1], HIDDEN, DROPOUT)
    head.mean.copy_(rows.mean(0))
    head.deviation.copy_(rows.std(0).clamp_min(SMALLEST_DEVIATION))
    nn.init.zeros_(head.second.weight)
    nn.init.constant_(head.second.bias, float(lessons.elevations.mean()))
    return head


class Objective:
    """Mean absolute error on random orbits."""

    def __init__(self, lessons: Lessons) -> None:
        self.features = lessons.features.flatten(0, 2)
        self.elevations = lessons.elevations[..., None].expand(lessons.features.shape[:3]).flatten()

    def __call__(self, head: nn.Module, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(self.features), (BATCH,), generator=generator)
        loss = (head(self.features[rows].float()) - self.elevations[rows]).abs().mean()
        return loss, {"train_mean": float(torch.rad2deg(loss.detach()))}


class Evaluation:
    """Errors in degrees on the held-out training objects and on the test split."""

    def __init__(self, held_out: Lessons, test: Lessons) -> None:
        self.held_out, self.test = held_out, test

    @torch.no_grad()
    def __call__(self, head: nn.Module) -> dict[str, float]:
        return {**self.held_out.scores(head, "held_out"), **self.test.scores(head, "test")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/, orbits included")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now, after the features are computed")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    lrm = load_lrm()
    encoder, size = lrm.net.encoder, lrm.view_size
    lessons = read_lessons(args.data / "train", encoder, size, mirror=True)
    held_out = torch.arange(len(lessons.features)) % HELD_OUT == HELD_OUT - 1
    taught = lessons.objects(~held_out)
    evaluation = Evaluation(lessons.objects(held_out), read_lessons(args.data / "test", encoder, size, mirror=False))
    print(f"{len(taught.features)} objects to learn from, {int(held_out.sum())} held out", flush=True)
    loop.run(
        untrained_head(taught), Objective(taught), evaluation, folder=args.run, batch=BATCH, minutes=args.minutes,
        total_minutes=args.total_minutes, learning_rate=args.learning_rate, evaluate_every=args.minutes / 8, precision="no",
    )  # fmt: skip


if __name__ == "__main__":
    main()
