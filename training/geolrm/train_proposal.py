"""Trains the mini GeoLRM's proposal network, stage 1: where is surface (sections 3.3, A.1).

Usage:

    python training/geolrm/train_proposal.py --data DIR --run DIR --minutes 15 [--total-minutes 15] [--size mini|tiny] [--form tokens|heads]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.geo_transformer import Form  # noqa: E402
from lathe.pipelines.nets.geolrm import HALF, ProposalNetwork  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.geolrm import sizes  # noqa: E402
from lathe.training.geolrm.batches import Sample, draw, sample_of  # noqa: E402
from lathe.training.geolrm.occupancy import occupied_cells, overlap, proposal_loss  # noqa: E402
from lathe.training.rendered import RenderedObjects  # noqa: E402

ASSETS = 2
MOST_VIEWS = 7


def logits_of(net: ProposalNetwork, sample: Sample, form: Form) -> Tensor:
    """(grid, grid, grid) logits of one asset."""
    levels = net.encoder(sample.images, sample.c2w, sample.K)
    latents = net.latents(net.points(), levels, sample.c2w, sample.K, form=form, scale=HALF)
    return net.occupancy(latents).float()


class Objective:
    """Stage 1 on a few random assets."""

    def __init__(self, data: RenderedObjects, view_size: int, form: Form) -> None:
        self.data, self.view_size, self.form = data, view_size, form

    def __call__(self, net: ProposalNetwork, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        sizes.keep_statistics(net)
        losses, sums = [], {"entropy": 0.0, "affinity": 0.0}
        for _ in range(ASSETS):
            sample = draw(self.data, generator, self.view_size, MOST_VIEWS, 0)
            loss, parts = proposal_loss(logits_of(net, sample, self.form), occupied_cells(sample.surface, net.config.grid))
            losses.append(loss)
            sums = {name: sums[name] + parts[name] / ASSETS for name in sums}
        return torch.stack(losses).mean(), sums


class Evaluation:
    """Overlap with the true cells on held-out objects, from 6 and from 16 views of the ring."""

    def __init__(self, data: RenderedObjects, view_size: int, form: Form, count: int = 8) -> None:
        items = torch.linspace(0, len(data) - 1, count).long().tolist()
        self.form = form
        self.samples = {
            views: [sample_of(data, item, list(range(0, 24, 24 // views))[:views], [], view_size) for item in items] for views in (6, 16)
        }

    @torch.no_grad()
    def __call__(self, net: ProposalNetwork) -> dict[str, float]:
        scores: dict[str, float] = {}
        for views, samples in self.samples.items():
            found = [overlap(logits_of(net, s, self.form), occupied_cells(s.surface, net.config.grid)) for s in samples]
            for name, values in zip(("iou", "recall", "cells"), zip(*found, strict=True), strict=True):
                scores[f"{name}_{views}"] = sum(values) / len(values)
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--size", choices=tuple(sizes.SIZES), default="mini")
    parser.add_argument("--form", choices=("tokens", "heads"), default="tokens", help="self-attention: paper's or published code's")
    args = parser.parse_args()
    torch.manual_seed(0)
    train, test = RenderedObjects(args.data / "train"), RenderedObjects(args.data / "test")
    size = sizes.SIZES[args.size]
    loop.run(
        sizes.new_proposal(size.proposal), Objective(train, size.view_size, args.form), Evaluation(test, size.view_size, args.form),
        folder=args.run, batch=ASSETS, minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate,
        precision="no",
    )  # fmt: skip


if __name__ == "__main__":
    main()
