"""Whether a form takes the samples that the PyTorch form takes: the proof that `choose_backend` asks for."""

from __future__ import annotations

from types import ModuleType

import torch

from ..choose_backend import must_be_close, must_be_equal
from . import torch_form
from .occupancy import OccupancyGrid

STEP = 0.03


def prove(form: ModuleType, device: torch.device) -> None:
    """Rays through a grid of empty, thin and dense cells; some meet nothing, some end behind what is opaque.

    Raises:
        Disproved: other samples, or points or depths off by more than 1e-5 of their norm.
    """
    draws = torch.Generator().manual_seed(0)
    density = torch.rand(8, 8, 8, generator=draws)
    density = torch.where(density < 0.7, 0.0, 60 * (density - 0.69)) * (torch.arange(8) < 6)
    directions = torch.nn.functional.normalize(torch.randn(150, 3, generator=draws), dim=-1) * 1.3
    middle = 0.5 * (torch.rand(150, 3, generator=draws) * 2 - 1)
    near = torch.rand(150, generator=draws)
    origins, far = middle - directions * (near + 0.5)[:, None], near + 0.2 + torch.rand(150, generator=draws)
    rays = origins, directions, near, far, torch.rand(150, 1, generator=draws), STEP * directions.norm(dim=-1, keepdim=True)
    made = []
    for module, where in ((torch_form, torch.device("cpu")), (form, device)):
        grid = OccupancyGrid(8, 1.0, 0.9, 1.0, where)
        grid.restore(density)
        made.append(module.march(*(part.to(where) for part in rays), grid, STEP, 7.0))
    true, got = made
    for index, name in ((0, "rays"), (3, "slots")):
        must_be_equal(name, got[index], true[index])
    for index, name in ((1, "points"), (2, "depths")):
        must_be_close(name, got[index], true[index], 1e-5)
