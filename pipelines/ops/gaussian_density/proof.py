"""Whether a form sums Gaussians as the PyTorch form does: the proof that `choose_backend` asks for."""

from __future__ import annotations

from types import ModuleType

import torch

from ..choose_backend import must_be_close
from . import torch_form


def prove(form: ModuleType, device: torch.device) -> None:
    """Sums of 200 Gaussians of very unequal sizes at 600 points, some of them far away.

    Raises:
        Disproved: sums off by more than 1e-3 of their norm.
    """
    draws = torch.Generator().manual_seed(0)
    scales = 0.08 * torch.exp(0.8 * torch.randn(200, 3, generator=draws))
    scales[0] = 1.5
    positions, rotations = 0.5 * torch.randn(200, 3, generator=draws), torch.randn(200, 4, generator=draws)
    gaussians = torch_form.prepare(positions, scales, rotations, torch.rand(200, generator=draws), torch.rand(200, 4, generator=draws))
    points = 0.6 * torch.randn(600, 3, generator=draws)
    points[:20] *= 50
    true = torch_form.evaluate_torch(gaussians, points)
    made = form.sum_of(gaussians.to(device))(points.to(device))
    for name, got, expected in zip(("sums", "sums of values"), made, true, strict=True):
        must_be_close(name, got, expected)
