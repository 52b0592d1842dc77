"""Samples along rays through a sparse density."""

import math

import pytest
import torch
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.ray_march import dispatch, numba_form, torch_form
from lathe.pipelines.ops.ray_march.dispatch import march
from lathe.pipelines.ops.ray_march.occupancy import OccupancyGrid

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


@pytest.mark.parametrize("seed", [None, 3])
def test_both_forms_take_the_same_samples(seed, monkeypatch):
    camera = posed_cameras([20.0, 200.0], [10.0, -40.0], 1.8, 40.0)
    rays = [part.reshape(-1, 3) for part in camera_math.rays(camera.c2w, camera.K, 24, 24)]
    monkeypatch.setattr(numba_form, "RAYS_AT_ONCE", 100)
    made = []
    for form, threads in ((numba_form, 1), (numba_form, 3), (torch_form, 1)):
        monkeypatch.setattr(dispatch, "backend_for", lambda device, form=form: form)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        made.append(march(*rays, known_grid(lambda p: 20 * ball(p)), 0.02, seed and torch.Generator().manual_seed(seed)))
    for part in ("rays", "points", "depths", "lengths", "slot"):
        one, other, plain = (getattr(samples, part) for samples in made)
        assert torch.equal(one, other)
        torch.testing.assert_close(one, plain)
    assert len(made[0].points) > 1000 and (made[0].depths.diff(dim=1)[made[0].depths[:, 1:] > 0] > 0).all()


def test_gradients_are_those_of_a_sum_over_every_step():
    """A field that is 0 where the grid is empty: skipping must change neither the picture nor what it asks of the field."""
    camera = posed_cameras([20.0], [10.0], 1.8, 40.0)
    origins, directions = (part.reshape(-1, 3) for part in camera_math.rays(camera.c2w, camera.K, 12, 12))
    lobes = torch.tensor([2.0, 1.0, 3.0], requires_grad=True)

    def field(points, leaf):
        shapes = torch.stack([1 + points[:, 0], 1 + points[:, 1], points[:, 2].square()], dim=1)
        return (shapes * leaf).sum(1) * (points.norm(dim=1) < RADIUS)

    grid = known_grid(lambda p: field(p, lobes.detach()), resolution=32)
    grid.occupied = torch.nn.functional.max_pool3d(grid.occupied[None, None], 3, 1, 1)[0, 0].clamp(max=1e-3)  # the rim of the ball, too
    everywhere = OccupancyGrid(32, 1.0, 0.9, 1.0)
    everywhere.low, everywhere.high = grid.low, grid.high  # so that both take the same steps
    made = []
    for known in (grid, everywhere):
        samples = march(origins, directions, known, 0.02)
        optical = samples.spread(field(samples.points, lobes)) * samples.lengths
        shares = torch.exp(-(optical.cumsum(1) - optical)) * -torch.expm1(-optical)
        depth = torch.zeros(144).index_copy(0, samples.rays, (shares * samples.depths).sum(1))
        made.append((len(samples.points), depth.detach(), torch.autograd.grad(depth.square().sum(), lobes)[0]))
    assert made[0][0] < 0.9 * made[1][0]
    torch.testing.assert_close(made[0][1], made[1][1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made[0][2], made[1][2], atol=1e-4, rtol=1e-4)
