"""Trains the mini view model: Zero123++'s objective on a white background, small enough for a processor without a GPU.

InstantMesh, section 3.1: the six target views stand in a 3 x 2 grid on white; the network predicts the velocity v of the
noised grid under the linear schedule, given the query picture. Differences from the published model, all for size: a
linear patch codec in place of the autoencoder, a small convolutional query encoder in place of CLIP, a reference picture
that stays clean, and a good part of all samples drawn at nearly pure noise, where the layout of the views is decided.

    python training/train_views.py --data DIR --run DIR --minutes 60 [--total-minutes 90]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from diffusers import UNet2DConditionModel  # noqa: E402
from lathe.pipelines.nets.attention import explicit_attention  # noqa: E402
from lathe.pipelines.nets.mini_views import PatchCodec, QueryEncoder  # noqa: E402
from lathe.pipelines.nets.reference_attention import ReferenceUNet  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.rendered import RenderedObjects, framed  # noqa: E402

UNET = {
    "sample_size": 24,
    "in_channels": 16,
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


def draw(data: RenderedObjects, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Query pictures (B, 3, S, S) and their six targets (B, 6, 3, S, S), mirrored and with permuted colours at random.

    Three queries in four are framed as Prepare Image frames them."""

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    queries, targets = [], []
    for _ in range(batch):
        item, step, mirrored = pick(len(data)), pick(12), pick(2) == 1
        query = [data.query_views[step], data.query_views[step], data.ring(step, 20), data.ring(step, -10)][pick(4)]
        images, masks = data.on_white(item, [query, *data.targets(step, mirrored)])
        if pick(4):  # one in four keeps the frame of its render, which tells the object's size
            images = torch.cat([framed(images[0], masks[0], 0.75 + 0.15 * pick(100) / 100)[0][None], images[1:]])
        if mirrored:
            images = images.flip(-1)
        if pick(2):
            images = images[:, torch.randperm(3, generator=generator)]
        queries.append(images[0])
        targets.append(images[1:])
    return torch.stack(queries), torch.stack(targets)


class Objective:
    """Velocity prediction of the noised grid; see the module's text for how timesteps are drawn."""

    def __init__(self, data: RenderedObjects, nearly_pure: float) -> None:
        self.data = data
        self.n_nearly_pure = round(BATCH * nearly_pure)
        betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
        kept = (1 - betas).cumprod(0)
        self.signal, self.noise = kept.sqrt().float(), (1 - kept).sqrt().float()

    def velocity(self, model: MiniViews, query: Tensor, noised: Tensor, t: Tensor, dropped: Tensor | None = None) -> Tensor:
        """The network's v for noised grids; `dropped` (B,) marks samples whose query is withheld."""
        tokens, reference = model.query_encoder(query), model.codec.encode(query)
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], model.query_encoder.empty(len(query)), tokens)
            reference = torch.where(dropped[:, None, None, None], torch.zeros_like(reference), reference)
        return model.denoiser(noised, t, tokens, reference).float()

    def __call__(self, model: MiniViews, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        query, views = draw(self.data, BATCH, generator)
        with torch.no_grad():
            clean = model.codec.encode(to_grid(views).float()).float()
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        late = self.n_nearly_pure
        t[:late] = torch.randint(900, 1000, (late,), generator=generator)
        a, s = self.signal[t].view(-1, 1, 1, 1), self.noise[t].view(-1, 1, 1, 1)
        dropped = torch.rand(BATCH, generator=generator) < DROP
        predicted = self.velocity(model, query, a * clean + s * noise, t, dropped)
        error = (predicted - (a * noise - s * clean)).square().mean((1, 2, 3))
        return error.mean(), {"late": float(error[:late].mean().detach())}


class Evaluation:
    """One-step estimates from pure noise on fixed held-out queries, at 32 px like the published baselines of the card."""

    def __init__(self, objective: Objective, data: RenderedObjects, count: int = 48) -> None:
        self.objective = objective
        rows = torch.linspace(0, len(data) - 1, count).long().tolist()
        pairs = [data.on_white(i, [data.query_views[i % 12], *data.targets(i % 12)]) for i in rows]
        self.query = torch.stack([framed(images[0], masks[0], 0.85)[0] for images, masks in pairs])
        self.views = torch.stack([images[1:] for images, _ in pairs])

    @torch.no_grad()
    def __call__(self, model: MiniViews) -> dict[str, float]:
        noise = torch.randn(len(self.query), 16, 24, 16, generator=torch.Generator().manual_seed(1))
        t = torch.full((len(self.query),), 999)
        with torch.autocast("cpu", torch.bfloat16):
            v = self.objective.velocity(model, self.query, noise, t)
        clean = self.objective.signal[999] * noise - self.objective.noise[999] * v
        views = from_grid(model.codec.decode(clean.float()))
        return {"psnr_one_step": psnr32(views, self.views)}


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
    data = RenderedObjects(args.data / "train")
    generator = torch.Generator().manual_seed(0)
    codec = PatchCodec.fit(torch.cat([draw(data, 16, generator)[1].flatten(0, 1) for _ in range(16)]), PATCH, UNET["in_channels"])
    objective = Objective(data, args.nearly_pure)
    model = MiniViews(codec)
    loop.run(
        model, objective, Evaluation(objective, RenderedObjects(args.data / "test")), folder=args.run, batch=BATCH,
        minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate,
    )  # fmt: skip


if __name__ == "__main__":
    main()
