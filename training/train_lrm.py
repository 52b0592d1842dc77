"""Trains the mini reconstruction network, stage 1: a triplane radiance field (InstantMesh section 3.2, L_1).

Loss: squared error of colour, perceptual distance of patches, squared error of the mask; and, because depth is known, the
occupancy of the samples of each ray before and just behind the surface, which a few hours without a GPU cannot do without.

    python training/train_lrm.py --data DIR --run DIR --minutes 60 [--total-minutes 90] [--no-point-input]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.attention import explicit_attention  # noqa: E402
from lathe.pipelines.nets.mini_heads import PosedViews, activate_density  # noqa: E402
from lathe.pipelines.nets.mini_lrm import MiniLRM, network_volume  # noqa: E402
from lathe.pipelines.nets.perceptual import perceptual_distance  # noqa: E402
from lathe.pipelines.ops import camera_math  # noqa: E402
from lathe.pipelines.ops.coordinate_frames.instantmesh import triplane_cameras  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.lrm_batches import MODES, RADIUS, Sample, draw, patch_rays, posed  # noqa: E402
from lathe.training.rendered import RenderedObjects  # noqa: E402

ASSETS, PATCH, COARSE, NEAR = 4, 16, 20, 12
PERCEPTUAL, MASK, OCCUPANCY = 0.1, 0.5, 0.1
SHARES = (0.6, 0.4)
"""How often each of `lrm_batches.MODES` is drawn."""
THICKNESS, MARGIN = 0.06, 0.02
"""Behind a surface this much is inside, in world units; this much around it is left undecided."""


def half() -> torch.autocast:
    """Half precision for the heads alone: projections and sample positions need all their bits."""
    return torch.autocast("cpu", torch.bfloat16)


def planes_of(net: MiniLRM, samples: list[Sample]) -> tuple[Tensor, list[PosedViews]]:
    """Planes of a batch of samples with equally many views, and what the point input reads."""
    cameras = torch.stack([triplane_cameras(s.cameras) for s in samples])
    with torch.no_grad():
        volumes = torch.stack([network_volume(s.images, s.masks, s.cameras) for s in samples])
    planes = net.planes_of(torch.stack([s.images for s in samples]), cameras, volumes, dtype=torch.bfloat16)
    views = [PosedViews(torch.cat([s.images, s.masks], 1), s.cameras.c2w, s.cameras.K) for s in samples]
    return planes, views


def composite(density: Tensor, color: Tensor, depth: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Emission and absorption along rays (R, S): colour (R, 3) on white and opacity (R, 1). `depth` ascends."""
    step = torch.cat([depth[:, 1:], end], dim=1) - depth
    alpha = 1 - torch.exp(-density * step)
    free = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-7], dim=1), dim=1)[:, :-1]
    weights = alpha * free
    opacity = weights.sum(1, keepdim=True)
    return (weights[..., None] * color).sum(1) + 1 - opacity, opacity


def ray_depths(truth: Tensor, middle: float, generator: torch.Generator) -> Tensor:
    """Ascending sample depths (R, COARSE + NEAR): stratified through the cube, and around the surface where there is one."""
    n = len(truth)
    coarse = (torch.arange(COARSE) + torch.rand(n, COARSE, generator=generator)) / COARSE * 2 - 1 + middle
    surface = torch.where(truth[:, 4:] > 0, truth[:, 4:], middle + (torch.rand(n, 1, generator=generator) * 2 - 1) * 0.9)
    near = surface + (torch.rand(n, NEAR, generator=generator) - 0.5) * 0.24
    return torch.cat([coarse, near], dim=1).sort(dim=1).values


class Objective:
    """Stage 1 on one batch of random assets."""

    def __init__(self, data: RenderedObjects) -> None:
        self.data = data

    def __call__(self, net: MiniLRM, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        mode = MODES[int(torch.multinomial(torch.tensor(SHARES), 1, generator=generator))]
        n_views = 6 if float(torch.rand((), generator=generator)) < 0.8 else int(torch.randint(3, 6, (), generator=generator))
        samples = [draw(self.data, generator, mode, n_views) for _ in range(ASSETS)]
        planes, views = planes_of(net, samples)
        heads = net.synthesizer.decoder
        rendered, truths, occupancy = [], [], []
        for plane, posed_views, sample in zip(planes, views, samples, strict=True):
            rays = [patch_rays(sample, view, PATCH, generator) for view in range(len(sample.target_images))]
            origins, directions, truth = (torch.cat(part) for part in zip(*rays, strict=True))
            middle = RADIUS * sample.scale
            depth = ray_depths(truth, middle, generator)
            points = origins[:, None] + directions[:, None] * depth[..., None]
            features, seen = heads.features(plane, points.reshape(-1, 3), posed_views)
            with half():
                raw = heads.net_sdf(features).float().reshape(depth.shape)
                color = heads.color(features, seen, points.reshape(-1, 3), posed_views).float().reshape(*depth.shape, 3)
            image, opacity = composite(activate_density(raw), color, depth, torch.full_like(depth[:, :1], middle + 1.05))
            rendered.append(torch.cat([image, opacity], dim=1))
            truths.append(truth)
            occupancy.append(occupancy_loss(raw, depth, truth))
        image, truth = torch.cat(rendered), torch.cat(truths)
        color = (image[:, :3] - truth[:, :3]).square().mean()
        mask = (image[:, 3] - truth[:, 3]).square().mean()
        patches = [x[:, :3].reshape(-1, PATCH, PATCH, 3).permute(0, 3, 1, 2) for x in (image, truth)]
        perceptual = perceptual_distance(*patches).mean()
        occupied = torch.stack(occupancy).mean()
        loss = color + MASK * mask + PERCEPTUAL * perceptual + OCCUPANCY * occupied
        parts = {"color": color, "mask": mask, "perceptual": perceptual, "occupancy": occupied}
        return loss, {name: float(value.detach()) for name, value in parts.items()}


def occupancy_loss(raw: Tensor, depth: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of raw densities (R, S) where depth says what they are: free before the surface, full just behind it."""
    surface = torch.where(truth[:, 4:] > 0, truth[:, 4:], torch.full_like(truth[:, 4:], 1e3))
    certain = (truth[:, 3:4] < 0.01) | (truth[:, 3:4] > 0.99)
    free = (depth < surface - MARGIN) & certain
    full = (depth > surface + MARGIN / 2) & (depth < surface + THICKNESS) & certain
    losses = binary_cross_entropy_with_logits(raw * 3, full.float(), reduction="none")
    return 0.5 * (losses * free).sum() / free.sum().clamp_min(1) + 0.5 * (losses * full).sum() / full.sum().clamp_min(1)


@torch.no_grad()
def render(net: MiniLRM, plane: Tensor, views: PosedViews, c2w: Tensor, size: int, samples: int = 64) -> Tensor:
    """(T, 3, size, size) pictures of one asset from poses at the usual radius."""
    cameras, heads = posed(c2w), net.synthesizer.decoder
    out = []
    for view in range(len(c2w)):
        origins, directions = camera_math.rays(cameras.c2w[view : view + 1], cameras.K[view : view + 1], size, size)
        depth = ((torch.arange(samples) + 0.5) / samples * 2 - 1 + RADIUS).expand(size * size, -1)
        points = (origins.reshape(-1, 1, 3) + directions.reshape(-1, 1, 3) * depth[..., None]).reshape(-1, 3)
        features, seen = heads.features(plane, points, views)
        with half():
            raw = heads.net_sdf(features).float()[:, 0]
            color = heads.color(features, seen, points, views).float()
        density = activate_density(raw if heads.kind == "nerf" else -raw)
        image, _ = composite(density.reshape(depth.shape), color.reshape(*depth.shape, 3), depth, depth[:, -1:] + 2 / samples)
        out.append(image.T.reshape(3, size, size))
    return torch.stack(out)


class Evaluation:
    """PSNR at 64 px of unseen views of held-out objects, from six true views."""

    def __init__(self, data: RenderedObjects, count: int = 12) -> None:
        self.samples = []
        for item in torch.linspace(0, len(data) - 1, count).long().tolist():
            inputs, targets = data.targets(0), [24 + item % 8, 24 + (item + 3) % 8]
            images, masks = data.on_white(item, inputs + targets)
            c2w = torch.from_numpy(data.c2w[item, inputs + targets].copy())
            depth, normal = torch.zeros_like(masks[6:]), torch.zeros_like(images[6:])  # not judged
            sample = Sample(images[:6], masks[:6], posed(c2w[:6]), images[6:], masks[6:], depth, normal, posed(c2w[6:]), 1.0)
            self.samples.append(sample)

    @torch.no_grad()
    def __call__(self, net: MiniLRM) -> dict[str, float]:
        scores = []
        for sample in self.samples:
            planes, views = planes_of(net, [sample])
            images = render(net, planes[0], views[0], sample.target_cameras.c2w, sample.target_images.shape[-1])
            error = (images.clamp(0, 1) - sample.target_images).square().mean((1, 2, 3))
            scores.append(-10 * torch.log10(error.clamp_min(1e-8)))
        return {"psnr": float(torch.cat(scores).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--no-point-input", action="store_true", help="the ablation: volume input alone")
    args = parser.parse_args()
    torch.manual_seed(0)
    net = MiniLRM(point_input=not args.no_point_input)
    net.attention = explicit_attention
    loop.run(
        net, Objective(RenderedObjects(args.data / "train")), Evaluation(RenderedObjects(args.data / "test")), folder=args.run,
        batch=ASSETS, minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate, precision="no",
    )  # fmt: skip


if __name__ == "__main__":
    main()
