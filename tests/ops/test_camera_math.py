"""Camera geometry: conventions and consistency of projection, rays and clip matrices."""

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math as cm


def ring():
    azimuths = torch.tensor([0.0, 90.0, 200.0, 300.0])
    return cm.orbit(azimuths, torch.tensor([0.0, 20.0, -10.0, 60.0]), 4.0), cm.intrinsics(30.0, 4)


def test_azimuth_zero_is_on_plus_z_and_grows_towards_plus_x():
    c2w, _ = ring()
    assert torch.allclose(c2w[0, :3, 3], torch.tensor([0.0, 0.0, 4.0]), atol=1e-6)
    assert c2w[1, 0, 3] > 3.7 and c2w[1, 1, 3] > 0
    assert torch.allclose(c2w[0, :3, 0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


def test_rays_project_back_to_their_pixels():
    c2w, K = ring()
    K = K + torch.tensor([0.1, 0.2, 0.03, -0.04])
    origins, directions = cm.rays(c2w, K, 6, 8)
    for view in range(4):
        points = (origins[view] + 3.5 * directions[view]).reshape(-1, 3)
        uv, depth = cm.project(points, c2w, K)
        pixels = uv[view].reshape(6, 8, 2) * torch.tensor([8.0, 6.0])
        assert torch.allclose(pixels[2, 3], torch.tensor([3.5, 2.5]), atol=1e-4)
        assert torch.allclose(depth[view], torch.full((48,), 3.5), atol=1e-5)


def test_clip_matrices_agree_with_project():
    c2w, K = ring()
    K = K + torch.tensor([0.1, 0.2, 0.03, -0.04])
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    uv, depth = cm.project(points, c2w, K)
    clip = torch.einsum("vij,nj->vni", cm.clip_matrices(c2w, K), torch.cat([points, torch.ones(50, 1)], 1))
    ndc = clip[..., :2] / clip[..., 3:]
    assert torch.allclose(clip[..., 3], depth, atol=1e-5)
    assert torch.allclose((ndc[..., 0] + 1) / 2, uv[..., 0], atol=1e-5)
    assert torch.allclose((1 - ndc[..., 1]) / 2, uv[..., 1], atol=1e-5)


def test_cameras_reject_mirrored_poses():
    c2w, K = ring()
    mirrored = c2w.clone()
    mirrored[:, :3, 0] *= -1
    try:
        Cameras(mirrored, K, tuple("abcd"))
    except ValueError as error:
        assert "left-handed" in str(error)
    else:
        raise AssertionError("a mirrored pose was accepted")
