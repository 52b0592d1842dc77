"""Which Gaussians grow and go, decided by gsplat's own strategy (Ye et al. 2024; the rules of Kerbl et al. 2023).

Only its decision is taken: parameters, optimiser and random numbers stay ours, so that a seed means the same everywhere.
"""

from __future__ import annotations

import torch
from gsplat.strategy import DefaultStrategy  # type: ignore[import-not-found]
from torch import Tensor

ROW, SIZE = "row", "scales"


def rows_after(pull: Tensor, scales: Tensor, opacities: Tensor, *, gradient: float, split_scale: float, opacity: float,
               largest_scale: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What becomes of N Gaussians, as M rows: the row each comes from (int64), whether it is new, and whether it is half of a split one.

    Args:
        pull: (N,) mean gradient of each; above `gradient` it is cloned, or split where its largest scale is above `split_scale`.
        scales: (N, 3) linear. opacities: (N,); fainter than `opacity` they go, and larger than `largest_scale` too, unless that is 0.
    """
    # One call in which everything is due. Steps are counted so that large ones are pruned, which gsplat does after its first reset.
    strategy = DefaultStrategy(
        prune_opa=opacity, grow_grad2d=gradient, grow_scale3d=split_scale, prune_scale3d=largest_scale or float("inf"),
        refine_start_iter=0, refine_stop_iter=3, refine_every=1, reset_every=1,
    )  # fmt: skip
    count, device = len(pull), pull.device
    means2d = torch.zeros(count, 2, device=device, requires_grad=True)
    means2d.grad = torch.stack([pull, torch.zeros_like(pull)], dim=1)
    seen = {
        "width": 2, "height": 2, "n_cameras": 1, "means2d": means2d, "radii": torch.ones(count, device=device),
        "gaussian_ids": torch.arange(count, device=device),
    }  # fmt: skip
    fixed = {
        "means": torch.zeros(count, 3, device=device),
        "quats": torch.tensor([1.0, 0, 0, 0], device=device).expand(count, 4),
        SIZE: scales.detach().log(),
        "opacities": torch.logit(opacities.detach()),
        ROW: torch.arange(count, device=device),
    }
    made = {name: torch.nn.Parameter(value.clone(), requires_grad=False) for name, value in fixed.items()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # it draws places for the halves; ours are drawn by seed
        strategy.step_post_backward(made, {}, strategy.initialize_state(), 2, seen, packed=True)
    source = made[ROW].detach()
    halved = (made[SIZE] < fixed[SIZE][source] - 1e-3).all(dim=1)
    kept = len(source[~halved].unique())  # they come first, then clones, then halves
    return source, torch.arange(len(source), device=device) >= kept, halved
