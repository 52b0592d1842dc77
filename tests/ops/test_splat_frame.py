"""The half turn between the world and 3DGS's space, checked against rotations and colours written out in full."""

import pytest
import torch
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.ops.coordinate_frames.splats import turn_upside

HALF_TURN = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def some_splats(count: int = 50, degree: int = 3, seed: int = 0) -> Splats:
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    rotations = torch.nn.functional.normalize(normal(count, 4), dim=-1)
    opacities = torch.rand(count, generator=draw)
    return Splats(normal(count, 3), normal(count, 3).exp(), rotations, opacities, normal(count, (degree + 1) ** 2, 3))


def covariances(splats: Splats) -> torch.Tensor:
    """R S S^T R^T with R from the quaternion, by its product with the unit vectors."""
    w, v = splats.rotations[:, :1], splats.rotations[:, 1:]
    columns = []
    for axis in torch.eye(3):
        e = axis.expand_as(v)
        t = 2 * torch.linalg.cross(v, e)
        columns.append(e + w * t + torch.linalg.cross(v, t))
    stretched = torch.stack(columns, -1) * splats.scales[:, None]
    return stretched @ stretched.mT


def legendre_colors(sh: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Colour seen along unit vectors (M, 3) from coefficients (N, K, 3): harmonics by scipy, made real in 3DGS's order."""
    from scipy.special import sph_harm_y

    x, y, z = directions.double().unbind(-1)
    polar, azimuth = torch.acos(z.clamp(-1, 1)), torch.atan2(y, x)
    basis = []
    for degree in range(round(sh.shape[1] ** 0.5)):
        for order in range(-degree, degree + 1):
            complex_value = torch.as_tensor(sph_harm_y(degree, abs(order), polar.numpy(), azimuth.numpy()))
            part = complex_value.imag if order < 0 else complex_value.real
            basis.append(part * (2**0.5 if order else 1))
    return 0.5 + torch.einsum("mk,nkc->mnc", torch.stack(basis, -1), sh.double())


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_twice_is_where_it_began(degree):
    splats = some_splats(degree=degree)
    back = turn_upside(turn_upside(splats))
    for name in ("positions", "scales", "opacities", "sh"):
        assert torch.equal(getattr(back, name), getattr(splats, name))
    assert torch.equal(back.rotations, -splats.rotations)


def test_shapes_turn_with_their_places():
    splats = some_splats()
    turned = turn_upside(splats)
    torch.testing.assert_close(turned.positions, splats.positions @ HALF_TURN)
    torch.testing.assert_close(covariances(turned), HALF_TURN @ covariances(splats) @ HALF_TURN, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_seen_from_turned_directions_are_the_same(degree):
    splats = some_splats(degree=degree)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(5)), dim=-1)
    before = legendre_colors(splats.sh, directions)
    after = legendre_colors(turn_upside(splats).sh, directions @ HALF_TURN)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    if degree:
        assert (legendre_colors(splats.sh, directions @ HALF_TURN) - before).abs().mean() > 0.3
