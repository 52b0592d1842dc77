"""One picture with all its gradients, as a list of tensors that two runs can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...pipelines.ops.splat_raster import dispatch


def drawn(leaves: Sequence[Tensor], rest: dict[str, Any], target: Tensor) -> list[Tensor]:
    """Colour, alpha, depth, the gradients of the leaves and of the centres, and the absolute ones of the centres.

    Args: as `speed_cases.splats.scene` makes them.
    """
    made = dispatch.render_gaussians(*leaves, **rest, absgrad=True)  # type: ignore[arg-type]
    loss = ((torch.cat([made.color, made.alpha], dim=-1) - target) ** 2).mean() + 0.01 * made.depth.square().mean()
    gradients = torch.autograd.grad(loss, [*leaves, made.means2d])
    absolute: Tensor = made.means2d.absgrad  # type: ignore[attr-defined]
    return [part.detach().clone() for part in (made.color, made.alpha, made.depth, *gradients, absolute)]


def same_bits(made: Sequence[Tensor], true: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(made, true, strict=True))


def largest_error(made: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest relative norm of a difference."""
    return max(float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(made, true, strict=True))
