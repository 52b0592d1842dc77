"""The losses of Magic123 against values worked out by hand, and against the published ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.ops import distil_losses as losses

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "dmtet_magic123.npz"


@pytest.fixture(scope="module")
def golden():
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN).items() if value.dtype.kind in "fi"}


def picture(*rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def test_published_values_of_picture_losses(golden):
    normals = golden["loss_normal_img"].movedim(-1, 1)
    assert float(losses.normal_variation(normals)) == pytest.approx(float(golden["loss_smooth"]), rel=1e-6)
    assert float(losses.normal_blur(normals)) == pytest.approx(float(golden["loss_smooth2d"]), rel=1e-6)
    assert float(losses.entropy(golden["loss_weights_in"])) == pytest.approx(float(golden["loss_entropy"]), rel=1e-6)
    depths, targets = (golden[name].view(1, 1, 15, 20) for name in ("depth_pred", "depth_gt"))
    made = losses.depth_correlation(depths, targets, torch.ones_like(depths))
    assert float(made) == pytest.approx(float(golden["loss_depth_unweighted"]), rel=1e-6)


@pytest.mark.parametrize("name", ["tets32_sphere", "kuhn4_sphere", "kuhn4_noise", "kuhn8_sphere", "kuhn8_noise"])
def test_published_values_of_mesh_losses(golden, name):
    vertices, faces = golden[f"{name}_v"], golden[f"{name}_f"].long()
    assert float(losses.laplacian(vertices, faces)) == pytest.approx(float(golden[f"{name}_lap"]), rel=1e-6)
    if name == "tets32_sphere":  # the others' faces are not wound alike, as no surface of this project is
        expected = float(golden[f"{name}_normal_consistency"])
        assert float(losses.normal_consistency(vertices, faces)) == pytest.approx(expected, rel=1e-4)


def test_depth_counts_neither_scale_nor_shift():
    depths, all_of_it = picture([1.0, 2, 4], [7, 3, 0]), torch.ones(1, 1, 2, 3, dtype=torch.float64)
    assert float(losses.depth_correlation(depths, 3 * depths + 5, all_of_it)) == pytest.approx(0, abs=1e-12)
    assert float(losses.depth_correlation(depths, -depths, all_of_it)) == pytest.approx(1)
    # Deviations (-1, 0, 1) and (-1, 2, -1): covariance 0.
    assert float(losses.depth_correlation(picture([1.0, 2, 3]), picture([0.0, 3, 0]), all_of_it[:, :, :1])) == pytest.approx(0.5)
    # (-1, 0, 1) and (0, -1, 1): r = 1 / 2.
    assert float(losses.depth_correlation(picture([1.0, 2, 3]), picture([1.0, 0, 2]), all_of_it[:, :, :1])) == pytest.approx(0.25)
    half = picture([1.0, 1, 1], [0, 0, 0])
    assert float(losses.depth_correlation(depths, depths + 100 * (1 - half), half)) == pytest.approx(0, abs=1e-12)


def test_depth_of_flat_views_and_of_empty_masks_pulls_nowhere():
    depths = torch.ones(2, 1, 2, 2, requires_grad=True)
    value = losses.depth_correlation(depths, torch.rand(2, 1, 2, 2), torch.tensor([1.0, 0]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
    value.backward()
    assert float(value.detach()) == 0.5 and not depths.grad.any()


def test_depth_gradient():
    draws = torch.Generator().manual_seed(0)
    depths, targets, mask = (torch.rand(2, 1, 4, 4, generator=draws, dtype=torch.float64) for _ in range(3))
    assert torch.autograd.gradcheck(lambda d: losses.depth_correlation(d, targets, mask), depths.requires_grad_())


def test_normals_smooth_and_not():
    flat = torch.full((1, 3, 12, 12), 0.3)
    assert float(losses.normal_blur(flat)) == pytest.approx(0, abs=1e-12) and float(losses.normal_variation(flat)) == 0
    steps = torch.zeros(1, 1, 2, 3)
    steps[..., 2] = 1  # across: (0, 1) in both rows; down: nothing
    assert float(losses.normal_variation(steps)) == pytest.approx(0.5)
    dot = torch.zeros(1, 1, 17, 17)
    dot[..., 8, 8] = 1
    taps = [math.exp(-0.5 * (i / 1.7) ** 2) for i in range(-4, 5)]
    kernel = [t / sum(taps) for t in taps]
    squares = sum((float(i == j == 4) - a * b) ** 2 for i, a in enumerate(kernel) for j, b in enumerate(kernel))
    assert float(losses.normal_blur(dot)) == pytest.approx(squares / 289, rel=1e-5)
    small = torch.rand(1, 3, 3, 3, requires_grad=True)
    losses.normal_blur(small).backward()
    assert small.grad.any()


def test_entropy():
    assert float(losses.entropy(torch.tensor([0.5]))) == pytest.approx(1)
    assert float(losses.entropy(torch.tensor([0.25, 0.5]))) == pytest.approx((1 + 0.811278) / 2, rel=1e-5)
    sure = torch.tensor([0.0, 1.0], requires_grad=True)
    losses.entropy(sure).backward()
    assert float(losses.entropy(sure).detach()) < 3e-4 and sure.grad.isfinite().all()
    assert float(losses.entropy(torch.zeros(0))) == 0


def test_opacity_and_orientation():
    assert float(losses.opacity(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3))) == pytest.approx(0.5)
    weights = torch.tensor([0.5, 1.0], requires_grad=True)
    normals = torch.tensor([[0.0, 0, 1], [0, 0.6, 0.8]], requires_grad=True)
    value = losses.orientation(weights, normals, torch.tensor([[0.0, 0, -1], [0, 0, 1]]))
    assert float(value.detach()) == pytest.approx(0.64 / 2)  # the first looks at the camera
    value.backward()
    assert weights.grad is None and not normals.grad[0].any() and normals.grad[1, 2] == pytest.approx(0.8)
    assert float(losses.orientation(torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def roof(angle):
    """Two unit squares' halves that meet at the z axis, bent by `angle` degrees."""
    turned = math.radians(180 - angle)
    corners = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [math.cos(turned), math.sin(turned), 0]]
    return torch.tensor(corners, dtype=torch.float64, requires_grad=True), torch.tensor([[0, 1, 2], [1, 0, 3]])


@pytest.mark.parametrize("angle", [0, 30, 90])
def test_normal_consistency_is_one_minus_the_cosine(angle):
    vertices, faces = roof(angle)
    assert float(losses.normal_consistency(vertices, faces).detach()) == pytest.approx(1 - math.cos(math.radians(angle)), abs=1e-12)


def test_laplacian_by_hand():
    vertices = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])
    faces = torch.tensor([[0, 1, 2]])
    # Sums of leaving edges: (3, 3), (-6, 3), (3, -6).
    expected = (math.sqrt(18) + 2 * math.sqrt(45)) / 3
    assert float(losses.laplacian(vertices, faces)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [losses.laplacian, losses.normal_consistency])
def test_mesh_losses_have_gradients_where_there_is_something_and_else_none(loss):
    vertices, faces = roof(30)
    assert torch.autograd.gradcheck(lambda v: loss(v, faces), vertices)
    flat = torch.zeros(4, 3, requires_grad=True)
    loss(flat, faces).backward()
    assert flat.grad.isfinite().all(), "faces without an area"
    value = loss(vertices, faces[:0])
    value.backward()
    assert float(value.detach()) == 0
