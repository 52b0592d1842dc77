"""Whether a form encodes points, and returns the gradients, as the PyTorch form does: the proof that `choose_backend` asks for."""

from __future__ import annotations

from itertools import product
from types import ModuleType

import torch
from torch import Tensor

from ..choose_backend import Disproved, must_be_close, must_be_equal
from . import torch_form
from .layout import HashLayout

LEVELS = 5


def scene() -> tuple[HashLayout, Tensor, Tensor]:
    """A layout of two dense and three hashed levels, its table, and points: inside, outside, on borders of the cube and of cells."""
    layout = HashLayout.of(LEVELS, 9, 4, 40)
    draws = torch.Generator().manual_seed(0)
    table = torch.rand(layout.starts[-1], 2, generator=draws) * 2 - 1
    anywhere = (torch.rand(300, 3, generator=draws) * 2 - 1) * 1.1
    corners = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3)))
    on_cells = torch.randint(0, 5, (60, 3), generator=draws) / 2 - 1  # corners of the coarsest level's 4 cells along an axis
    sides = anywhere[:60].clone()
    sides[torch.arange(60), torch.arange(60) % 3] = torch.tensor([-1.0, 1.0]).repeat(30)
    return layout, table, torch.cat([anywhere, corners, on_cells, sides])


def encode(form: ModuleType, device: torch.device, levels: int) -> list[Tensor]:
    """The features of the scene's points, and the gradients of table and points of a sum of them weighted at random."""
    layout, table, points = scene()
    leaves = [part.to(device).requires_grad_() for part in (table, points)]
    encoded = form.encode(*leaves, layout, levels)
    if encoded.shape != (len(points), 2 * levels):
        raise Disproved(f"features: shape {tuple(encoded.shape)}, expected {(len(points), 2 * levels)}")
    weights = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(1)).to(device)
    return [encoded, *torch.autograd.grad((encoded * weights).sum(), leaves)]


def prove(form: ModuleType, device: torch.device) -> None:
    """Encodes a few hundred points, at all levels and at the coarse ones.

    Raises:
        Disproved: features or a gradient are off by more than 1e-3 of their norm, level by level for the features, or a second run has
            other bits than the first (not asked of forms that declare `ATOMICS`).
    """
    for levels in (LEVELS, 2):
        true, made = encode(torch_form, torch.device("cpu"), levels), encode(form, device, levels)
        for level in range(levels):
            columns = slice(2 * level, 2 * level + 2)
            must_be_close(f"features of level {level}", made[0][:, columns], true[0][:, columns])
        for name, gradient, expected in zip(("table", "points"), made[1:], true[1:], strict=True):
            must_be_close(f"gradient of the {name}", gradient, expected)
        if not getattr(form, "ATOMICS", False):
            for name, second, first in zip(
                ("features", "gradient of the table", "gradient of the points"), encode(form, device, levels), made, strict=True
            ):
                must_be_equal(f"a second run's {name}", second, first)
