"""Hash encoding in PyTorch: the oracle of the other forms, any device, float32 and float64, differentiable to any order."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .layout import HashLayout

PRIMES = (1, 2654435761, 805459861)


def encode(table: Tensor, points: Tensor, layout: HashLayout, levels: int) -> Tensor:
    """Features (N, levels * F) of points (N, 3) in [-1, 1] from table (rows, F); see `dispatch`."""
    unit = (points.clamp(-1, 1) + 1) / 2
    made = [table.new_zeros((len(points), 0))]
    for level in range(levels):
        resolution, start = layout.resolutions[level], layout.starts[level]
        rows = layout.starts[level + 1] - start
        place = unit * resolution
        cell = place.detach().nan_to_num().floor().clamp(0, resolution - 1).long()
        share = place - cell
        share = share * share * (3 - 2 * share)
        total = table.new_zeros((len(points), table.shape[1]))
        for corner in product((0, 1), repeat=3):
            x, y, z = (cell + torch.tensor(corner, device=cell.device)).unbind(-1)
            if layout.dense[level]:
                row = x + (resolution + 1) * (y + (resolution + 1) * z)
            else:
                row = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % rows
            weight = torch.stack([share[:, i] if side else 1 - share[:, i] for i, side in enumerate(corner)]).prod(0)
            total = total + weight[:, None] * table[start + row]
        made.append(total)
    return torch.cat(made, dim=1)
