"""Scores against cases whose value is known in closed form."""

import math

import pytest
import torch
from lathe.pipelines import metrics
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops import mesh_sampling


def square(z: float, side: float = 2.0) -> Mesh:
    """A square of the given side at height z, as two triangles of very different order."""
    h = side / 2
    vertices = torch.tensor([[-h, -h, z], [h, -h, z], [h, h, z], [-h, h, z]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def test_sampling_is_uniform_by_area():
    # a big and a small triangle, areas 8 : 1 (total 4.5)
    vertices = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [10, 0, 0], [11, 0, 0], [10, 1, 0]])
    mesh = Mesh(vertices, torch.tensor([[3, 4, 5], [0, 1, 2]]))
    points = mesh_sampling.sample_surface(mesh, 40_000, seed=1)
    big = points[:, 0] < 5
    assert abs(float(big.double().mean()) - 4 / 4.5) < 0.006
    # the mean of a uniform triangle is its centroid
    torch.testing.assert_close(points[big].mean(0), torch.tensor([4 / 3, 2 / 3, 0.0]), atol=0.02, rtol=0)
    assert bool((points[big, 0] / 4 + points[big, 1] / 2 <= 1 + 1e-6).all())


def test_sampling_repeats_with_its_seed_only():
    a, b, c = (mesh_sampling.sample_surface(square(0), 100, seed) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_sampling_refuses_a_mesh_without_surface():
    with pytest.raises(ValueError, match="no faces"):
        mesh_sampling.sample_surface(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)), 10, 0)
    with pytest.raises(ValueError, match="zero area"):
        mesh_sampling.sample_surface(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), 10, 0)


def test_chamfer_is_the_sum_of_both_means():
    a = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    b = torch.tensor([[0.0, 0, 0], [0, 0, 3]])
    # there: 0 and 1 -> .5; back: 0 and 3 -> 1.5
    assert metrics.chamfer(a, b) == pytest.approx(2.0)
    assert metrics.chamfer(a, a) == 0


def test_parallel_planes_have_twice_their_distance():
    a, b = mesh_sampling.sample_surface(square(0), 16_000, 0), mesh_sampling.sample_surface(square(0.3), 16_000, 1)
    assert metrics.chamfer(a, b) == pytest.approx(0.6, abs=2e-3)
    scores = metrics.surface_scores(a, b, (0.29, 0.32))
    assert scores["fscore_0.29"] == 0 and scores["fscore_0.32"] > 0.999


def test_fscore_is_the_harmonic_mean():
    truth = torch.tensor([[float(i), 0, 0] for i in range(4)])
    points = torch.tensor([[0.0, 0, 0], [0.01, 0, 0]])  # precision 1, recall 1/4
    assert metrics.surface_scores(points + 100, truth)["fscore_0.05"] == 0
    scores = metrics.surface_scores(points, truth)
    assert scores["fscore_0.05"] == pytest.approx(2 * 0.25 / 1.25)
    assert scores["chamfer"] == pytest.approx(metrics.chamfer(points, truth))
    assert set(scores) == {"fscore_0.2", "fscore_0.1", "fscore_0.05", "chamfer"}


def test_empty_point_sets_are_refused():
    with pytest.raises(ValueError, match="empty"):
        metrics.chamfer(torch.zeros(0, 3), torch.zeros(4, 3))


def test_psnr_of_a_constant_difference():
    truth = torch.full((2, 3, 16, 16), 0.5)
    images = torch.stack([truth[0] + 0.1, truth[1]])
    torch.testing.assert_close(metrics.psnr(images, truth), torch.tensor([20.0, 100.0], dtype=torch.float64), atol=1e-4, rtol=0)


def test_psnr_in_the_box_ignores_the_rest():
    truth, images = torch.ones(1, 3, 20, 20), torch.ones(1, 3, 20, 20)
    mask = torch.zeros(1, 1, 20, 20)
    mask[0, 0, 5, 4:8] = 1
    mask[0, 0, 12, 10] = 1  # box: rows 5..12, columns 4..10 = 56 pixels
    images[:, :, 5:13, 4:11] -= 0.1
    images[:, :, 0, 0] = 0
    assert float(metrics.box_masks(mask).sum()) == 56
    assert float(metrics.psnr_box(images, truth, mask)) == pytest.approx(20.0, abs=1e-4)
    expected = -10 * math.log10((56 * 0.01 + 1) / 400)
    assert float(metrics.psnr(images, truth)) == pytest.approx(expected, abs=1e-4)
    # a view in which the object is not seen counts whole
    assert float(metrics.psnr_box(images, truth, torch.zeros_like(mask))) == pytest.approx(expected, abs=1e-4)


def test_ssim():
    truth = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(2))
    # two flat pictures: only the luminance term remains, (2ab + c1) / (a^2 + b^2 + c1)
    a, b, c1 = 0.4, 0.8, 0.01**2
    flat = metrics.ssim(torch.full((1, 3, 32, 32), a), torch.full((1, 3, 32, 32), b))
    assert float(flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-4)


def test_ms_ssim():
    truth = torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.ms_ssim(truth, truth), torch.ones(2))
    # flat pictures: the structure terms are 1, the luminance term of the coarsest scale carries the weight .1333
    a, b, c1 = 0.4, 0.8, 0.01**2
    flat = metrics.ms_ssim(torch.full((1, 3, 176, 176), a), torch.full((1, 3, 176, 176), b))
    assert float(flat) == pytest.approx(((2 * a * b + c1) / (a * a + b * b + c1)) ** 0.1333, abs=1e-3)
    with pytest.raises(ValueError, match="161 pixels"):
        metrics.ms_ssim(truth[..., :160, :160], truth[..., :160, :160])


def test_gradient_energy_of_a_ramp_and_sharpness_of_a_blur():
    ramp = (torch.arange(32) * 0.02).expand(1, 3, 32, 32)
    inner = torch.zeros(1, 1, 32, 32)
    inner[..., 4:28, 4:28] = 1
    assert float(metrics.gradient_energy(ramp, inner)) == pytest.approx(0.02**2, rel=1e-5)
    assert float(metrics.gradient_energy(ramp.transpose(2, 3), inner)) == pytest.approx(0.02**2, rel=1e-5)
    assert float(metrics.gradient_energy(ramp, torch.zeros(1, 1, 32, 32))) == 0
    truth = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(truth, 3, stride=1, padding=1)
    assert float(metrics.sharpness(truth, truth, inner)) == pytest.approx(1)
    assert float(metrics.sharpness(blurred, truth, inner)) < 0.3
    assert float(metrics.sharpness(0.5 * truth, truth, inner)) == pytest.approx(0.25, rel=1e-5)
    outside = torch.where(inner > 0, truth, torch.zeros(()))
    inmost = torch.nn.functional.pad(torch.ones(1, 1, 20, 20), (6, 6, 6, 6))
    assert float(metrics.sharpness(outside, truth, inmost)) == pytest.approx(1)


def test_pictures_of_other_size_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 5, 4))
