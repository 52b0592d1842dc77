"""Trains the mini GeoLRM's reconstruction network, stage 2: occupied cells and views to Gaussians (section 3.3).

The cells are those the trained proposal network finds in the same views, as they will be later; in some steps the true ones, which
teach more at first.

    python training/geolrm/train_reconstruction.py --data DIR --proposal DIR --run DIR --minutes 60 [--total-minutes 60]
        [--most-views 7] [--perceptual-weight 2] [--start DIR] [--size mini|tiny] [--form tokens|heads]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.fitting.perceptual import load_perceptual  # noqa: E402
from lathe.pipelines.nets.geo_transformer import Form  # noqa: E402
from lathe.pipelines.nets.geolrm import HALF, ProposalNetwork, ReconstructionNetwork, cube_points  # noqa: E402
from lathe.pipelines.reconstruction.geolrm.stages import choose_tokens  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.export_mini import averaged  # noqa: E402
from lathe.training.geolrm import sizes  # noqa: E402
from lathe.training.geolrm.batches import Sample, draw, sample_of  # noqa: E402
from lathe.training.geolrm.losses import PERCEPTUAL, Pictures, draw_gaussians, reconstruction_loss  # noqa: E402
from lathe.training.geolrm.occupancy import occupied_cells  # noqa: E402
from lathe.training.geolrm.train_proposal import logits_of  # noqa: E402
from lathe.training.rendered import RenderedObjects  # noqa: E402

MOST_TOKENS = 2048
THRESHOLD = 0.5
TRUE_CELLS = 0.25
"""In this share of the steps the true cells are the tokens."""


def gaussians_of(net: ReconstructionNetwork, xyz: Tensor, sample: Sample, form: Form) -> Tensor:
    """(N * gaussians, 14) of the tokens at `xyz` (N, 3)."""
    levels = net.encoder(sample.images, sample.c2w, sample.K)
    return net.renderer(net.latents(xyz, levels, sample.c2w, sample.K, form=form, scale=HALF), xyz)


def tokens_of(cells: Tensor, seed: int) -> Tensor:
    """Places of the occupied cells, at most MOST_TOKENS of them."""
    return choose_tokens(cube_points(len(cells))[cells.flatten()], MOST_TOKENS, seed)


class Objective:
    """Stage 2 on one random asset."""

    def __init__(self, data: RenderedObjects, proposal: ProposalNetwork, size: sizes.Size, form: Form, most_views: int = 7,
                 perceptual_weight: float = PERCEPTUAL) -> None:  # fmt: skip
        self.data, self.proposal, self.size, self.form, self.most_views = data, proposal, size, form, most_views
        self.perceptual_weight = perceptual_weight
        self.perceptual = load_perceptual()

    def __call__(self, net: ReconstructionNetwork, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        sizes.keep_statistics(net)
        sample = draw(self.data, generator, self.size.view_size, self.most_views, self.size.targets)
        cells = occupied_cells(sample.surface, net.config.grid)
        if float(torch.rand((), generator=generator)) >= TRUE_CELLS:
            with torch.no_grad():
                found = logits_of(self.proposal, sample, self.form).sigmoid() > THRESHOLD
            cells = found if int(found.sum()) >= 64 else cells  # a proposal that finds next to nothing teaches nothing
        xyz = tokens_of(cells, int(torch.randint(1 << 31, (), generator=generator)))
        drawn = draw_gaussians(gaussians_of(net, xyz, sample, self.form), sample.cameras, sample.targets.shape[-1])
        return reconstruction_loss(drawn, Pictures(sample.targets, sample.masks, sample.depths), self.perceptual, self.perceptual_weight)


class Evaluation:
    """PSNR at 64 px of the 8 random views of held-out objects, from 4, 8 and 20 views of the ring."""

    def __init__(self, data: RenderedObjects, proposal: ProposalNetwork, view_size: int, form: Form, count: int = 8) -> None:
        self.proposal, self.form = proposal, form
        items = torch.linspace(0, len(data) - 1, count).long().tolist()
        rings = {4: [0, 3, 6, 9], 8: [*range(0, 12, 3), *range(13, 24, 3)], 20: [*range(12), *range(12, 20)]}
        self.samples = {
            views: [sample_of(data, item, ring, [24 + item % 8, 24 + (item + 3) % 8], view_size) for item in items]
            for views, ring in rings.items()
        }

    @torch.no_grad()
    def __call__(self, net: ReconstructionNetwork) -> dict[str, float]:
        scores: dict[str, float] = {}
        for views, samples in self.samples.items():
            values = []
            for sample in samples:
                xyz = tokens_of(logits_of(self.proposal, sample, self.form).sigmoid() > THRESHOLD, 0)
                drawn = draw_gaussians(gaussians_of(net, xyz, sample, self.form), sample.cameras, sample.targets.shape[-1])
                error = (drawn.images.clamp(0, 1) - sample.targets).square().mean((1, 2, 3))
                values.append(-10 * torch.log10(error.clamp_min(1e-8)))
            scores[f"psnr_{views}"] = float(torch.cat(values).mean())
        return scores


def trained_proposal(run: Path, size: sizes.Size) -> ProposalNetwork:
    """The averaged proposal network of a run of train_proposal.py."""
    net = sizes.new_proposal(size.proposal)
    net.load_state_dict(torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["ema"])
    return net.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--proposal", type=Path, required=True, help="folder of the finished run of train_proposal.py")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--size", choices=tuple(sizes.SIZES), default="mini")
    parser.add_argument("--form", choices=("tokens", "heads"), default="tokens", help="self-attention: paper's or published code's")
    parser.add_argument("--most-views", type=int, default=7, help="1 to so many random views go in")
    parser.add_argument(
        "--perceptual-weight", type=float, default=PERCEPTUAL,
        help="the paper's is of LPIPS; the bundled network at 64 pixels drowns the other terms with it, 0.2 does not",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="folder of another run, whose averaged weights are the beginning")
    args = parser.parse_args()
    torch.manual_seed(0)
    train, test = RenderedObjects(args.data / "train"), RenderedObjects(args.data / "test")
    size = sizes.SIZES[args.size]
    proposal = trained_proposal(args.proposal, size)
    net = sizes.new_reconstruction(size.reconstruction)
    if args.start is not None:
        net.load_state_dict(averaged(args.start))
    loop.run(
        net, Objective(train, proposal, size, args.form, args.most_views, args.perceptual_weight),
        Evaluation(test, proposal, size.view_size, args.form), folder=args.run, batch=1, minutes=args.minutes,
        total_minutes=args.total_minutes, learning_rate=args.learning_rate, precision="no",
    )  # fmt: skip


if __name__ == "__main__":
    main()
