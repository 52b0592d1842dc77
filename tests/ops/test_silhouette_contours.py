"""Rays of silhouettes' rims: the numba kernel beside the definition, and what rim and miss mean."""

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math, choose_backend
from lathe.pipelines.ops.silhouette_contours import dispatch, numba_form, torch_form
from lathe.pipelines.ops.silhouette_contours.dispatch import rim_misses
from lathe.pipelines.ops.silhouette_contours.torch_form import find_rim


def discs(cameras, radius=0.5, size=48):
    """Silhouettes of a ball around the origin."""
    directions = camera_math.rays(cameras.c2w, cameras.K, size, size)[1]
    eye = cameras.c2w[:, None, None, :3, 3]
    along = (directions * -eye).sum(-1) / directions.square().sum(-1)
    return ((eye + along[..., None] * directions).norm(dim=-1) < radius).float()[:, None]


@pytest.mark.parametrize("height, width", [(24, 24), (20, 31)])
def test_the_kernel_computes_what_the_definition_says(height, width):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(5, 1, height, width)
    for view in range(5):
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        masks[view, 0, top : top + 9, left : left + 12] = 1
    orbit = orbit_cameras(5, elevation=25)
    K = orbit.K.clone()
    K[:, 2] += torch.linspace(-0.05, 0.05, 5)
    cameras = Cameras(orbit.c2w, K, orbit.names)
    rim = find_rim(masks, 40)
    for reach, worst in ((1.2, 6.0), (4.5, 100.0)):  # the second goes behind the cameras
        expected = torch_form.rim_misses(rim, cameras, reach, 13, worst)
        torch.testing.assert_close(numba_form.rim_misses(rim, cameras, reach, 13, worst), expected, atol=1e-9, rtol=0)
        assert expected.min() >= 0 and expected.max() <= worst and expected.std() > 0


def test_rim_lies_inside_along_the_edge_and_not_on_the_pictures_border():
    masks = torch.zeros(2, 1, 10, 12)
    masks[0, 0, 3:7, 4:9] = 1
    masks[1, 0, 6:, :] = 1  # cut by the picture
    rim = find_rim(masks, 1000)
    first = rim.place[rim.view == 0] * torch.tensor([12.0, 10.0]) - 0.5
    assert len(first) == 2 * (4 + 5) - 4
    assert first.amin(0).tolist() == pytest.approx([4, 3]) and first.amax(0).tolist() == pytest.approx([8, 6])
    second = rim.place[rim.view == 1] * torch.tensor([12.0, 10.0]) - 0.5
    assert set(second[:, 1].round().tolist()) == {6.0}
    assert rim.distances[0, 4, 5] == 0 and rim.distances[0, 4, 0] == pytest.approx(3.5)
    assert len(find_rim(masks, 5).view) < 12
    assert bool((find_rim(torch.zeros(1, 1, 4, 4), 5).distances >= 8).all())


def test_rays_of_a_ball_meet_its_hull_and_miss_a_hull_of_wrong_cameras():
    cameras = orbit_cameras(8, elevation=20)
    rim = find_rim(discs(cameras), 200)
    assert float(rim_misses(rim, cameras, 0.7, 64, 8.0).mean()) < 0.05
    shifted = Cameras(cameras.c2w, cameras.K + torch.tensor([[0.0, 0.0, 0.1, 0.0]]) * (torch.arange(8) % 2)[:, None], cameras.names)
    assert float(rim_misses(rim, shifted, 0.7, 64, 8.0).mean()) > 1


def test_plain_pytorch_serves_where_numba_does_not_work(monkeypatch):
    choose_backend.forget()
    monkeypatch.setattr(numba_form, "rim_misses", lambda *_: torch.zeros(1))
    assert dispatch.backend_for(torch.device("cpu")) is torch_form
    monkeypatch.undo()
    choose_backend.forget()
    assert dispatch.backend_for(torch.device("cpu")) is numba_form
