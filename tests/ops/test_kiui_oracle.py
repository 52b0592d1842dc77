"""kiui, another author's 3D toolkit, as an independent oracle of conventions that are easily mirrored or turned."""

import torch
from kiui.cam import orbit_camera
from kiui.grid_put import linear_grid_put_2d
from lathe.pipelines.ops.camera_math import orbit
from lathe.pipelines.ops.texture_sampling import sample_texture


def test_orbit_cameras_agree_with_kiui() -> None:
    """kiui counts elevations downwards, azimuths as we do."""
    azimuths, elevations = torch.tensor([0.0, 30, 100, -145, 270]), torch.tensor([0.0, 20, -35, 60, -80])
    ours = orbit(azimuths, elevations, 2.5)
    for azimuth, elevation, pose in zip(azimuths.tolist(), elevations.tolist(), ours, strict=True):
        torch.testing.assert_close(pose, torch.from_numpy(orbit_camera(-elevation, azimuth, 2.5)).float(), atol=1e-5, rtol=0)


def test_the_gradient_of_a_texture_lookup_is_kiuis_scatter() -> None:
    """What a lookup reads with bilinear weights, its gradient writes with them; kiui's places span texel centre to texel centre."""
    draws = torch.Generator().manual_seed(0)
    height, width, count = 7, 11, 200
    inner = 0.5 + torch.rand(count, 2, generator=draws) * torch.tensor([width - 1.0, height - 1.0])  # no wrapping around the border
    values = torch.rand(count, 3, generator=draws)
    texture = torch.zeros(height, width, 3, requires_grad=True)
    (sample_texture(texture, inner / torch.tensor([width, height])) * values).sum().backward()
    places = (inner.flip(1) - 0.5) / torch.tensor([height - 1.0, width - 1.0]) * 2 - 1
    scattered, _ = linear_grid_put_2d(height, width, places, values, return_count=True)
    torch.testing.assert_close(texture.grad, scattered, atol=1e-4, rtol=0)
