"""The visual hull of a sphere seen from six sides."""

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math, visual_hull


def sphere_views(radius=0.6, size=96):
    azimuths = torch.tensor([30.0, 90, 150, 210, 270, 330])
    elevations = torch.tensor([20.0, -10, 20, -10, 20, -10])
    cameras = Cameras(camera_math.orbit(azimuths, elevations, 4.0), camera_math.intrinsics(30.0, 6), tuple("abcdef"))
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, size, size)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    closest = origins - (origins * unit).sum(-1, keepdim=True) * unit
    masks = (closest.norm(dim=-1) < radius).float()[:, None]
    images = torch.cat([masks, masks * 0.5, masks * 0.25], dim=1) + (1 - masks)
    return images, masks, cameras


def test_hull_holds_the_sphere_and_little_more():
    images, masks, cameras = sphere_views()
    occupancy, color = visual_hull.hull_volume(images, masks, cameras, 40, chunk=10000)
    distance = visual_hull.cell_centres(40).norm(dim=-1)
    assert (occupancy[distance < 0.57] > 0.9).all()
    assert (occupancy[distance > 0.85] < 0.1).all()
    assert torch.allclose(color[20, 20, 20], torch.tensor([1.0, 0.5, 0.25]), atol=1e-3)


def test_points_behind_a_camera_or_outside_its_picture_sample_zero():
    images, masks, cameras = sphere_views()
    behind = cameras.c2w[0, :3, 3] * 2
    outside = torch.tensor([30.0, 0.0, 0.0])
    sampled = visual_hull.sample_views(torch.stack([behind, outside]), torch.ones(6, 1, 8, 8), cameras.c2w, cameras.K)
    assert sampled[0, 0].item() == 0
    assert sampled[0, 1].item() == 0
