"""Trains the mini view model: Zero123++'s objective on a white background, small enough for a processor without a GPU.

InstantMesh, section 3.1: the six target views stand in a 3 x 2 grid on white; the network predicts the velocity v of the
noised grid under the linear schedule, given the query picture. Differences from the published model, all for size: a
linear patch codec in place of the autoencoder, a small convolutional query encoder in place of CLIP, a reference picture
that stays clean, the relief network's first guess at the views beside the noised grid, and a good part of all samples drawn
at nearly pure noise, where the layout of the views is decided. First train_relief.py and guide_views.py.

    python training/train_views.py --data DIR --run DIR --minutes 60 [--total-minutes 90]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from diffusers import UNet2DConditionModel  # noqa: E402
from lathe.pipelines.nets.attention import explicit_attention  # noqa: E402
from lathe.pipelines.nets.mini_views import PatchCodec, QueryEncoder  # noqa: E402
from lathe.pipelines.nets.reference_attention import ReferenceUNet  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.rendered import GUIDES, RenderedObjects, framed  # noqa: E402

UNET = {
    "sample_size": 24,
    "in_channels": 33,  # noised latents 16, the guide's latents 16, the guide's coverage 1
    "out_channels": 16,
    "block_out_channels": [64, 96, 144],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
PATCH, BATCH, DROP = 8, 16, 0.05


class MiniViews(nn.Module):
    """The three trained or fitted parts of the mini view model, under the names its file uses."""

    def __init__(self, codec: PatchCodec) -> None:
        super().__init__()
        self.denoiser = ReferenceUNet(UNet2DConditionModel(**UNET), explicit_attention)
        self.query_encoder = QueryEncoder(UNET["cross_attention_dim"], 64)
        self.codec = codec


def to_grid(views: Tensor) -> Tensor:
    """(B, 6, C, h, w) -> (B, C, 3h, 2w), row by row."""
    b, _, c, h, w = views.shape
    return views.reshape(b, 3, 2, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, c, 3 * h, 2 * w)


def from_grid(grid: Tensor) -> Tensor:
    """The inverse of `to_grid`."""
    b, c, h, w = grid.shape
    return grid.reshape(b, c, 3, h // 3, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(b, 6, c, h // 3, w // 2)


class Guided:
    """The training set with the relief network's guesses; a sample is a query, its guide and its six targets."""

    def __init__(self, folder: Path) -> None:
        self.data = RenderedObjects(folder)
        self.steps = np.load(folder / GUIDES[0])
        self.guides = np.load(folder / GUIDES[1], mmap_mode="r")

    def sample(self, item: int, row: int, mirrored: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Query (3, S, S) framed as Prepare Image frames it, guide (6, 4, S, S), targets (6, 3, S, S)."""
        step = int(self.steps[item, row])
        images, masks = self.data.on_white(item, [self.data.query_views[step], *self.data.targets(step, mirrored)])
        query = framed(images[0], masks[0], 0.85)[0]
        guide = torch.from_numpy(self.guides[item, row, int(mirrored)].copy()).permute(0, 3, 1, 2).float() / 255
        return (query.flip(-1), guide, images[1:].flip(-1)) if mirrored else (query, guide, images[1:])

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A random batch, mirrored and with permuted colours at random."""

        def pick(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        samples = []
        for _ in range(batch):
            query, guide, views = self.sample(pick(len(self.data)), pick(self.steps.shape[1]), pick(2) == 1)
            if pick(2):
                order = torch.randperm(3, generator=generator)
                query, views = query[order], views[:, order]
                guide = torch.cat([guide[:, order], guide[:, 3:]], 1)
            samples.append((query, guide, views))
        return tuple(torch.stack(part) for part in zip(*samples, strict=True))  # type: ignore[return-value]


class Objective:
    """Velocity prediction of the noised grid; see the module's text for how timesteps are drawn."""

    def __init__(self, data: Guided, nearly_pure: float) -> None:
        self.data = data
        self.n_nearly_pure = round(BATCH * nearly_pure)
        betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
        kept = (1 - betas).cumprod(0)
        self.signal, self.noise = kept.sqrt().float(), (1 - kept).sqrt().float()

    def velocity(self, model: MiniViews, query: Tensor, guide: Tensor, noised: Tensor, t: Tensor, dropped: Tensor | None = None) -> Tensor:
        """The network's v for noised grids; `dropped` (B,) marks samples whose query is withheld."""
        tokens, reference = model.query_encoder(query), model.codec.encode(query)
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], model.query_encoder.empty(len(query)), tokens)
            reference = torch.where(dropped[:, None, None, None], torch.zeros_like(reference), reference)
        guess = torch.cat([model.codec.encode(to_grid(guide[:, :, :3])), avg_pool2d(to_grid(guide[:, :, 3:]), PATCH)], 1)
        reference = pad(reference, (0, 0, 0, 0, 0, guess.shape[1]))
        return model.denoiser(torch.cat([noised, guess], 1), t, tokens, reference).float()

    def __call__(self, model: MiniViews, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        query, guide, views = self.data.draw(BATCH, generator)
        with torch.no_grad():
            clean = model.codec.encode(to_grid(views).float()).float()
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        late = self.n_nearly_pure
        t[:late] = torch.randint(900, 1000, (late,), generator=generator)
        a, s = self.signal[t].view(-1, 1, 1, 1), self.noise[t].view(-1, 1, 1, 1)
        dropped = torch.rand(BATCH, generator=generator) < DROP
        predicted = self.velocity(model, query, guide, a * clean + s * noise, t, dropped)
        error = (predicted - (a * noise - s * clean)).square().mean((1, 2, 3))
        return error.mean(), {"late": float(error[:late].mean().detach())}


class Evaluation:
    """One-step estimates from pure noise on fixed held-out queries, at 32 px, beside the guides they start from."""

    def __init__(self, objective: Objective, data: Guided, count: int = 48) -> None:
        self.objective = objective
        rows = torch.linspace(0, len(data.data) - 1, count).long().tolist()
        samples = [data.sample(item, item % data.steps.shape[1], False) for item in rows]
        self.query, self.guide, self.views = (torch.stack(part) for part in zip(*samples, strict=True))

    @torch.no_grad()
    def __call__(self, model: MiniViews) -> dict[str, float]:
        noise = torch.randn(len(self.query), UNET["out_channels"], 24, 16, generator=torch.Generator().manual_seed(1))
        t = torch.full((len(self.query),), 999)
        with torch.autocast("cpu", torch.bfloat16):
            v = self.objective.velocity(model, self.query, self.guide, noise, t)
        clean = self.objective.signal[999] * noise - self.objective.noise[999] * v
        views = from_grid(model.codec.decode(clean.float()))
        return {"psnr_one_step": psnr32(views, self.views), "psnr_guide": psnr32(self.guide[:, :, :3], self.views)}


def psnr32(a: Tensor, b: Tensor) -> float:
    """Mean over samples of the PSNR of their six views at 32 px."""
    a, b = (avg_pool2d(x.flatten(0, 1), x.shape[-1] // 32) for x in (a, b))
    error = (a - b).square().reshape(-1, 6 * a[0].numel()).mean(1)
    return float((-10 * torch.log10(error.clamp_min(1e-8))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--nearly-pure", type=float, default=0.5, help="share of samples at nearly pure noise, where the layout is decided")
    args = parser.parse_args()
    data = Guided(args.data / "train")
    generator = torch.Generator().manual_seed(0)
    codec = PatchCodec.fit(torch.cat([data.draw(16, generator)[2].flatten(0, 1) for _ in range(16)]), PATCH, UNET["out_channels"])
    objective = Objective(data, args.nearly_pure)
    model = MiniViews(codec)
    loop.run(
        model, objective, Evaluation(objective, Guided(args.data / "test")), folder=args.run, batch=BATCH,
        minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate,
    )  # fmt: skip


if __name__ == "__main__":
    main()
