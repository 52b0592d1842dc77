"""The camera of a cropped picture is found again from the silhouettes of the views."""

import pytest
import torch
from lathe.pipelines.cameras.picture_camera import place_picture
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math


def ellipsoid_mask(cameras: Cameras, size: int) -> torch.Tensor:
    """Silhouettes (V, 1, S, S) of the ellipsoid with half axes .3, .7, .5 around (.1, 0, 0)."""
    axes, centre = torch.tensor([0.3, 0.7, 0.5]), torch.tensor([0.1, 0.0, 0.0])
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, size, size)
    o, d = (origins - centre) / axes, directions / axes
    discriminant = (o * d).sum(-1) ** 2 - (d * d).sum(-1) * ((o * o).sum(-1) - 1)
    return (discriminant > 0).float()[:, None]


def six_views() -> Cameras:
    azimuths = torch.tensor([30.0, 90, 150, 210, 270, 330])
    elevations = torch.tensor([20.0, -10, 20, -10, 20, -10])
    return Cameras(camera_math.orbit(azimuths, elevations, 4.0), camera_math.intrinsics(30.0, 6), tuple("abcdef"))


def test_zoom_and_shift_are_recovered():
    cameras = six_views()
    K = camera_math.intrinsics(30.0, 1) * torch.tensor([1.3, 1.3, 1, 1]) + torch.tensor([0, 0, 0.04, -0.06])
    truth = Cameras(camera_math.orbit(torch.tensor([0.0]), torch.tensor([12.0]), 4.0), K, ("picture",))
    found = place_picture(ellipsoid_mask(truth, 256)[0], ellipsoid_mask(cameras, 128), cameras, elevation=12.0)
    assert torch.allclose(found.c2w, truth.c2w, atol=1e-6)
    assert found.K[0, 0] / K[0, 0] == pytest.approx(1, abs=0.06)  # a cell of the hull is 4 % of its width
    assert (found.K[0, 2:] - K[0, 2:]).abs().max() < 0.015


def test_an_empty_picture_and_views_that_disagree_are_said():
    cameras = six_views()
    masks = ellipsoid_mask(cameras, 64)
    with pytest.raises(ValueError, match="picture's mask is empty"):
        place_picture(torch.zeros(1, 64, 64), masks, cameras, elevation=0.0)
    apart = masks.clone()
    apart[0] = 0
    with pytest.raises(ValueError, match="no volume in common"):
        place_picture(masks[0], apart, cameras, elevation=0.0)
