"""Spherical harmonics: the basis against its definition by associated Legendre functions, and the colours it makes."""

import math

import pytest
import torch
from lathe.pipelines.ops import camera_math, spherical_harmonics
from scipy.special import lpmv


def directions(n: int = 200) -> torch.Tensor:
    drawn = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_the_basis_is_the_real_spherical_harmonics_with_alternating_sign() -> None:
    """Y_lm = (-1)^m times the textbook's real form; scipy's Legendre functions carry that sign (Condon and Shortley) already."""
    d = directions()
    around = torch.atan2(d[:, 1], d[:, 0])
    made, column = spherical_harmonics.basis(d, 3), 0
    for degree in range(4):
        for m in range(-degree, degree + 1):
            k = abs(m)
            scale = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - k) / math.factorial(degree + k))
            turn = 1.0 if m == 0 else math.sqrt(2) * (torch.cos(k * around) if m > 0 else torch.sin(k * around))
            expected = scale * turn * torch.from_numpy(lpmv(k, degree, d[:, 2].numpy()))
            torch.testing.assert_close(made[:, column], expected, atol=1e-12, rtol=0)
            column += 1
    assert made.shape[1] == column == 16


@pytest.mark.parametrize("degree", range(4))
def test_a_lower_degree_is_the_start_of_a_higher_one(degree: int) -> None:
    d = directions(20)
    assert torch.equal(spherical_harmonics.basis(d, degree), spherical_harmonics.basis(d, 3)[:, : (degree + 1) ** 2])


def test_colours_are_offset_and_never_negative() -> None:
    means, viewmats = torch.zeros(2, 3), torch.eye(4)[None]
    viewmats[0, 2, 3] = 4.0
    sh = torch.tensor([[[1.0, 0.0, -9.0]], [[0.5, 0.25, 0.0]]])
    made = spherical_harmonics.colors(sh, means, viewmats, 0)
    torch.testing.assert_close(made[0], torch.tensor([[0.78209479, 0.5, 0.0], [0.6410474, 0.5705237, 0.5]]))


def test_colours_depend_on_the_direction_from_the_camera_to_the_gaussian() -> None:
    """A coefficient of the basis function -y is seen brighter from above than from below: the direction points away from the eye."""
    poses = camera_math.orbit(torch.zeros(2), torch.tensor([60.0, -60.0]), 4.0)
    viewmats = torch.tensor([1.0, -1, -1, 1])[:, None] * camera_math.world_to_camera(poses)
    sh = torch.zeros(1, 4, 3)
    sh[0, 1] = 1.0
    above, below = spherical_harmonics.colors(sh, torch.zeros(1, 3), viewmats, 1)[:, 0, 0].tolist()
    lobe = math.sqrt(3 / (4 * math.pi)) * math.sin(math.radians(60))
    assert above == pytest.approx(0.5 + lobe, abs=1e-6) and below == pytest.approx(0.5 - lobe, abs=1e-6)


def test_degrees_beyond_three_are_refused() -> None:
    with pytest.raises(ValueError, match="degree 0 to 3"):
        spherical_harmonics.basis(directions(2), 4)
