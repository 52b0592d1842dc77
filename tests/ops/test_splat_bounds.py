"""Where splats are: strays and faint Gaussians do not count."""

import pytest
import torch
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.ops.splat_bounds import bounding_sphere, fit_to_sphere


def ball(count: int, centre, radius: float, opacity: float = 0.9) -> Splats:
    draw = torch.Generator().manual_seed(count)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=-1)
    rotations = torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)
    places = torch.tensor(centre) + radius * directions
    return Splats(places, torch.full((count, 3), 0.02), rotations, torch.full((count,), opacity), torch.zeros(count, 1, 3))


def together(*parts: Splats) -> Splats:
    return Splats(*(torch.cat([getattr(p, name) for p in parts]) for name in ("positions", "scales", "rotations", "opacities", "sh")))


def test_a_ball_with_strays_and_haze():
    splats = together(ball(5000, [3.0, -2.0, 1.0], 2.0), ball(20, [90.0, 0.0, 0.0], 1.0), ball(2000, [-50.0, 0.0, 0.0], 9.0, opacity=0.02))
    centre, radius = bounding_sphere(splats)
    torch.testing.assert_close(centre, torch.tensor([3.0, -2.0, 1.0]), atol=0.05, rtol=0)
    assert radius == pytest.approx(2.0, abs=0.05)
    fitted = fit_to_sphere(splats)
    assert bounding_sphere(fitted)[1] == pytest.approx(0.95, abs=1e-3) and bounding_sphere(fitted)[0].norm() < 1e-3
    assert float(fitted.scales[0, 0]) == pytest.approx(0.02 * 0.95 / radius, rel=1e-4)


def test_one_gaussian_has_the_size_of_itself():
    centre, radius = bounding_sphere(ball(1, [1.0, 2.0, 3.0], 0.0))
    assert centre.tolist() == [1.0, 2.0, 3.0] and radius == pytest.approx(0.02)
    with pytest.raises(ValueError, match="no Gaussians"):
        bounding_sphere(ball(1, [0.0, 0.0, 0.0], 0.0).select(torch.zeros(1, dtype=torch.bool)))
