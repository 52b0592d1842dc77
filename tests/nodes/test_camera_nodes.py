"""Cameras From 3D Viewer with what cores of different ages wire into it."""

import pytest
import torch
from lathe.nodes.cameras import LatheCamerasFromLoad3D, LatheCamerasToLoad3D
from lathe.pipelines.cameras.orbits import orbit_cameras


def test_a_list_of_cameras_becomes_the_views_it_was_made_of():
    orbit = orbit_cameras(4, elevation=10)
    infos = [LatheCamerasToLoad3D.execute(orbit, view, "own space").args[0] for view in range(4)]
    for value in (infos, tuple(infos)):
        (cameras,) = LatheCamerasFromLoad3D.execute(value, "auto", 1.0).args
        torch.testing.assert_close(cameras.c2w, orbit.c2w, atol=1e-5, rtol=0)
        torch.testing.assert_close(cameras.K, orbit.K, atol=1e-5, rtol=0)
        assert len(set(cameras.names)) == 4
    (one,) = LatheCamerasFromLoad3D.execute(infos[2], "auto", 1.0).args
    torch.testing.assert_close(one.c2w[0], orbit.c2w[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [None, [], [None], [{}], {}, [[{}]], 3, "camera"])
def test_what_is_no_camera_is_refused_in_words(value):
    with pytest.raises(ValueError, match="camera|position"):
        LatheCamerasFromLoad3D.execute(value, "own space", 1.0)
