"""The learned elevation: its file, what it reads, how frames are chosen and framed."""

import json

import pytest
import torch
from lathe.pipelines.disk import state_dicts
from lathe.pipelines.nets.elevation_head import ElevationHead, fingerprint, frame_pictures, orbit_features, spread_frames
from lathe.pipelines.weights import mini_models
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def net():
    return mini_models.load_elevation()


def rewritten(path, **changes):
    """The bundled file with other settings in its header."""
    config = json.loads(state_dicts.read_metadata(mini_models.ELEVATION)["lathe_config"])
    save_file(load_file(mini_models.ELEVATION), path, metadata={"lathe_config": json.dumps({**config, **changes})})
    return path


def test_the_bundled_estimator_answers_in_radians(net):
    assert not net.training and not any(p.requires_grad for p in net.head.parameters())
    pictures = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, first = net(pictures), net(pictures[:1])
    assert both.shape == (2,) and net.span == (-15, 65) and bool(((both > -0.27) & (both < 1.14)).all())
    torch.testing.assert_close(both[:1], first)
    assert 3 < net.deviation < 20


def test_features_are_the_mean_over_frames_in_any_order(net):
    pictures = torch.rand(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = orbit_features(net.encoder, pictures)
        torch.testing.assert_close(features, orbit_features(net.encoder, pictures[:, [2, 0, 3, 1]]), atol=1e-5, rtol=1e-4)
        single = orbit_features(net.encoder, pictures[:, :1])
    assert features.shape == (1, 65 * 96) and not torch.allclose(features, single)


def test_shapes_that_do_not_fit_are_named(net):
    with pytest.raises(ValueError, match=r"pictures \(B, 4, 3, 64, 64\), not \(1, 3, 3, 64, 64\)"):
        net(torch.zeros(1, 3, 3, 64, 64))
    with pytest.raises(ValueError, match=r"features \(B, 7\), not \(2, 8\)"):
        ElevationHead(7)(torch.zeros(2, 8))


def test_files_that_do_not_fit_are_refused(net, tmp_path):
    with pytest.raises(ValueError, match="another reconstruction model"):
        mini_models.load_elevation(rewritten(tmp_path / "a.safetensors", encoder=fingerprint(net.encoder) ^ 1))
    with pytest.raises(ValueError, match="does not fit its own settings"):
        mini_models.load_elevation(rewritten(tmp_path / "b.safetensors", hidden=7))
    with pytest.raises(ValueError, match="expects a elevation|expects an elevation"):
        mini_models.load_elevation(mini_models.LRM_FILE)


def test_four_frames_far_apart():
    steps = torch.arange(16) * 22.5
    assert sorted(spread_frames(steps)) == [0, 4, 8, 12]
    assert sorted(spread_frames((steps + 300) % 360)) == [0, 4, 8, 12]
    assert sorted(spread_frames(-steps)) == [0, 4, 8, 12]
    closed = torch.cat([torch.arange(20) * 18.0, torch.tensor([360.0])])  # the last repeats the first
    assert len({float(closed[i]) % 360 for i in spread_frames(closed)}) == 4
    assert sorted(spread_frames(torch.tensor([0.0, 90.0]))) == [0, 0, 0, 1]


def test_framing_fills_the_picture_about_the_axis_whatever_size_and_place():
    size = 200
    centres = torch.tensor([[0.5, 0.5], [0.45, 0.5]])
    masks = torch.zeros(2, 1, size, size)
    masks[0, 0, 90:110, 80:120] = 1
    masks[1, 0, 80:120, 80:100] = 1
    images = torch.zeros(2, 3, size, size).where(masks > 0.5, torch.tensor(0.3))
    framed = frame_pictures(images, masks, centres, 64)
    assert framed.shape == (2, 3, 64, 64) and float(framed.max()) == 1
    dark = framed[:, 0] < 0.5
    for view, (width, height) in enumerate([(61, 30), (30, 61)]):
        rows, columns = (torch.nonzero(dark[view].any(axis)).flatten() for axis in (1, 0))
        assert len(columns) == pytest.approx(width, abs=2) and len(rows) == pytest.approx(height, abs=2)
        assert float(columns.float().mean()) == pytest.approx(31.5, abs=1) and float(rows.float().mean()) == pytest.approx(31.5, abs=1)
    # an object beside the axis stays beside it, and a large picture is framed as a small one
    small = frame_pictures(*(torch.nn.functional.interpolate(x, scale_factor=0.5, mode="area") for x in (images, masks)), centres, 64)
    assert float((small - framed).abs().mean()) < 0.05
    shifted = frame_pictures(images[:1], masks[:1], torch.tensor([[0.4, 0.5]]), 64)[0, 0] < 0.5
    assert int(torch.nonzero(shifted.any(0)).min()) >= 31
    assert frame_pictures(images, torch.zeros_like(masks), centres, 64).shape == (2, 3, 64, 64)
