"""Trains the relief network of the mini view model: front and back depth, back colour and elevation of a picture.

Front depth comes from the rendered depth maps; what lies behind is read off the objects' surface points, the farthest one
that falls into a pixel.

    python training/train_relief.py --data DIR --run DIR --minutes 15
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.mini_relief import Relief, ReliefNet  # noqa: E402
from lathe.pipelines.ops import camera_math  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.lrm_batches import FOV, RADIUS  # noqa: E402
from lathe.training.rendered import RenderedObjects, framed  # noqa: E402

BATCH = 16
HALF_FRAME = RADIUS * math.tan(math.radians(FOV / 2))


@dataclass(frozen=True)
class Lesson:
    """A framed picture and its true relief; `has_front` and `has_back` (1, S, S) say where that is known."""

    image: Tensor
    mask: Tensor
    front: Tensor
    has_front: Tensor
    back: Tensor
    back_color: Tensor
    has_back: Tensor
    elevation: Tensor


def lesson(data: RenderedObjects, item: int, view: int, ratio: float) -> Lesson:
    """The picture of one view, framed as Prepare Image frames it, with its relief in half frames."""
    images, masks = data.on_white(item, [view])
    image, zoom, centre = framed(images[0], masks[0], ratio)
    mask = 1 - framed(1 - masks[0], masks[0], ratio)[0]
    size = image.shape[-1]
    depth = torch.from_numpy(data.depth[item, view].astype("float32"))[None, None]
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1)[None] * zoom + centre
    depth = grid_sample(depth, grid, mode="nearest", align_corners=False)[0]
    scale = HALF_FRAME * zoom
    c2w = torch.from_numpy(data.c2w[item, view].copy())[None]
    K = camera_math.intrinsics(FOV, 1)
    K = torch.cat([K[:, :2] / zoom, 0.5 + (K[:, 2:] - 0.5 - centre / 2) / zoom], 1)
    points = torch.from_numpy(data.points[item].astype("float32"))
    uv, z = camera_math.project(points, c2w, K)
    cell = (uv[0] * size).floor().long()
    valid = ((cell >= 0) & (cell < size)).all(1)
    place, z = (cell[:, 1] * size + cell[:, 0])[valid], z[0][valid]
    colors = torch.from_numpy(data.point_colors[item].astype("float32"))[valid] / 255
    far = torch.zeros(size * size).scatter_reduce(0, place, z, "amax")
    back_color = torch.zeros(size * size, 3)
    last = z >= far[place] - 1e-6
    back_color[place[last]] = colors[last]
    far = far.reshape(1, size, size)
    solid = mask > 0.5
    return Lesson(
        image, mask, (depth - RADIUS) / scale, (depth > 0) & solid, (torch.maximum(far, depth) - RADIUS) / scale,
        back_color.T.reshape(3, size, size), (far > 0) & (depth > 0) & solid, torch.asin(c2w[0, 1, 3] / c2w[0, :3, 3].norm()),
    )  # fmt: skip


def collate(lessons: list[Lesson], flips: list[bool]) -> Lesson:
    """A batch, some of it mirrored left to right."""

    def mirrored(one: Lesson, flip: bool, name: str) -> Tensor:
        value: Tensor = getattr(one, name)
        return value.flip(-1) if flip and value.ndim else value

    pairs = list(zip(lessons, flips, strict=True))
    return Lesson(**{name: torch.stack([mirrored(one, flip, name) for one, flip in pairs]) for name in Lesson.__dataclass_fields__})


def errors(relief: Relief, truth: Lesson) -> dict[str, Tensor]:
    """Mean absolute errors where the truth is known: depths in half frames, colour, elevation in radians."""

    def mean(difference: Tensor, known: Tensor) -> Tensor:
        return (difference.abs() * known).sum() / (known.sum() * difference.shape[1]).clamp_min(1)

    return {
        "front": mean(relief.front - truth.front, truth.has_front.float()),
        "back": mean(relief.back - truth.back, truth.has_back.float()),
        "back_color": mean(relief.back_color - truth.back_color, truth.has_back.float()),
        "elevation": (relief.elevation - truth.elevation).abs().mean(),
    }


class Objective:
    """The sum of the errors on random pictures."""

    def __init__(self, data: RenderedObjects) -> None:
        self.data = data

    def __call__(self, net: ReliefNet, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        def pick(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        lessons = []
        for _ in range(BATCH):
            # all views of the set serve, the steep ones a little more rarely than they are
            view = pick(44) if pick(2) else 32 + pick(12)
            one = lesson(self.data, pick(len(self.data)), view, 0.75 + 0.15 * pick(100) / 100)
            if pick(2):
                order = torch.randperm(3, generator=generator)
                one = Lesson(**{**one.__dict__, "image": one.image[order], "back_color": one.back_color[order]})
            lessons.append(one)
        truth = collate(lessons, [pick(2) == 1 for _ in range(BATCH)])
        with torch.autocast("cpu", torch.bfloat16):
            relief = net(truth.image, truth.mask)
        found = errors(relief, truth)
        loss = found["front"] + found["back"] + 0.5 * found["back_color"] + 0.2 * found["elevation"]
        return loss, {name: float(value.detach()) for name, value in found.items()}


class Evaluation:
    """The errors on query pictures of held-out objects."""

    def __init__(self, data: RenderedObjects) -> None:
        self.truth = collate([lesson(data, item, 32 + item % 12, 0.85) for item in range(len(data))], [False] * len(data))

    @torch.no_grad()
    def __call__(self, net: ReliefNet) -> dict[str, float]:
        found = errors(net(self.truth.image, self.truth.mask), self.truth)
        return {f"test_{name}": float(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    loop.run(
        ReliefNet(), Objective(RenderedObjects(args.data / "train")), Evaluation(RenderedObjects(args.data / "test")), folder=args.run,
        batch=BATCH, minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate, evaluate_every=2.5,
        precision="no",  # positions need all their bits; the network alone runs in half precision
    )  # fmt: skip


if __name__ == "__main__":
    main()
