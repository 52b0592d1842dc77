"""Samples along rays through a sparse density."""

import math

import torch
from lathe.pipelines.cameras import posed_cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.ray_march import OccupancyGrid, march

DENSITY, RADIUS = 3.0, 0.5


def ball(points: torch.Tensor) -> torch.Tensor:
    return torch.where(points.norm(dim=-1) < RADIUS, DENSITY, 0.0)


def known_grid(density=ball, resolution: int = 32) -> OccupancyGrid:
    grid, draws = OccupancyGrid(resolution, 1.0, 0.9, 1.0), torch.Generator().manual_seed(0)
    for _ in range(6):
        grid.update(density, draws)
    return grid


def test_opacity_of_a_ball_is_that_of_its_chords():
    camera = posed_cameras([20.0], [10.0], 1.8, 40.0)
    origins, directions = (part.reshape(-1, 3) for part in camera_math.rays(camera.c2w, camera.K, 16, 16))
    samples = march(origins, directions, known_grid(), 0.004)
    optical = samples.spread(ball(samples.points)) * samples.lengths
    alpha = torch.zeros(256).index_copy(0, samples.rays, -torch.expm1(-optical.sum(1)))
    unit = torch.nn.functional.normalize(directions, dim=-1)
    off = (origins - (origins * unit).sum(-1, keepdim=True) * unit).norm(dim=-1)
    chord = 2 * (RADIUS**2 - off**2).clamp(min=0).sqrt()
    error = (alpha - (1 - torch.exp(-DENSITY * chord))).abs()
    assert float(error[off < 0.8 * RADIUS].max()) < 0.02 and float(error.mean()) < 0.01  # grazed cells may be taken for empty


def test_empty_cells_and_what_lies_behind_are_not_sampled():
    camera = posed_cameras([0.0], [0.0], 1.8, 40.0)
    origins, directions = (part.reshape(-1, 3) for part in camera_math.rays(camera.c2w, camera.K, 16, 16))
    unknown = march(origins, directions, OccupancyGrid(32, 1.0, 0.9, 1.0), 0.02)
    thin = march(origins, directions, known_grid(), 0.02)
    solid = march(origins, directions, known_grid(lambda p: 100 * ball(p)), 0.02)
    assert len(unknown.points) > 3 * len(thin.points) > 6 * len(solid.points) > 0
    assert float(thin.points.norm(dim=1).max()) < RADIUS + math.sqrt(3) * 2 / 32 + 1e-6
    assert float(solid.points[:, 2].min()) > -0.2  # the far side of a solid ball is hidden


def test_an_update_remembers_and_forgets():
    grid, draws = known_grid(), torch.Generator().manual_seed(1)
    assert float(grid.at(torch.zeros(1, 3))) == DENSITY and float(grid.at(torch.full((1, 3), 0.9))) == 0
    assert torch.allclose(grid.high, torch.full((3,), RADIUS), atol=0.07) and torch.allclose(grid.low, -grid.high, atol=1e-6)
    for _ in range(20):
        grid.update(lambda p: torch.zeros(len(p)), draws)
    assert float(grid.density.max()) < 0.5
    samples = march(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]]), grid, 0.1)  # a ray that misses the cube
    assert len(samples.rays) == 0 and samples.points.shape == (0, 3) and samples.depths.numel() == 0
