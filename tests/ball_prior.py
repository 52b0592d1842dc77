"""A prior for tests of distillation: it wants to see a ball of one colour, which it can draw from any camera."""

from __future__ import annotations

import torch
from lathe.pipelines.distillation.priors import Guidance
from lathe.pipelines.ops import camera_math
from torch import Tensor

COLOR = (0.9, 0.3, 0.1)


def ball_views(cameras, size: int, radius: float = 0.45, color=COLOR) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, size, size) on white and masks (V, 1, size, size) of a ball at the origin, four samples a pixel."""
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, 2 * size, 2 * size)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    nearest = origins - (origins * unit).sum(-1, keepdim=True) * unit
    masks = torch.nn.functional.avg_pool2d((nearest.norm(dim=-1) < radius).float()[:, None], 2)
    return masks * torch.tensor(color).view(1, 3, 1, 1) + (1 - masks), masks


class BallPrior:
    """Pulls renders to pictures of a ball. `spoil`: steps (counted from 0) whose gradient is NaN."""

    def __init__(self, radius: float = 0.45, color=COLOR, spoil=()) -> None:
        self.radius, self.color, self.spoil = radius, color, set(spoil)
        self.seen: list[tuple] = []

    def guide(self, images: Tensor, cameras, progress: float, generator: torch.Generator) -> Guidance:
        torch.rand(1, generator=generator)
        truth = ball_views(cameras, images.shape[-1], self.radius, self.color)[0].to(images)
        gradient = (images - truth) / 4
        if len(self.seen) in self.spoil:
            gradient = gradient * float("nan")
        self.seen.append((tuple(images.shape), cameras, progress))
        return Guidance(gradient, float((images - truth).square().mean()), truth)
