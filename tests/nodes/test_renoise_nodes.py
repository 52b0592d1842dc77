"""Re-noise Refine as ComfyUI runs it, with a generator that needs no network."""

import types

import pytest
import torch
from lathe.nodes import core_models, host, splat_sockets
from lathe.nodes.renoise import LatheRenoiseRefine
from lathe.pipelines.cameras import orbit_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.splat_start import start_at_centre

CAMERAS = orbit_cameras(3, elevation=20)
WIDGETS = {
    "rounds": 2, "level": 0.3, "steps": 2, "fit_iterations": 2, "cfg": 1.0, "seed": 0, "preset": "fast", "new_masks": "render",
    "model": "any", "positive": [], "negative": [], "vae": "any",
}  # fmt: skip


class Darker:
    """A generator that darkens what it is given."""

    is_video = False

    def __init__(self, **parts): ...

    def __call__(self, images, masks, cameras, level, seed, tick):
        tick(1, 1)
        return images * (1 - level)


class Film(Darker):
    """One that has the picture of one asset in its conditioning."""

    is_video = True


@pytest.fixture(autouse=True)
def running_node(monkeypatch):
    host.register_model_folder()
    monkeypatch.setattr(core_models, "CoreRenoise", Darker)
    monkeypatch.setattr(LatheRenoiseRefine, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


def cloud(degree: int = 0) -> Splats:
    round_ones = start_at_centre(60, 0)
    sh = torch.zeros(60, (degree + 1) ** 2, 3)
    sh[:, 1:] = 0.1
    return Splats(round_ones.positions, round_ones.scales * 2, round_ones.rotations, torch.full((60,), 0.9), sh)


def refine(*splats: Splats, **changes):
    images = torch.full((3 * len(splats), 24, 24, 3), 0.5)
    masks = torch.zeros(3 * len(splats), 24, 24)
    masks[:, 6:18, 6:18] = 1
    with torch.inference_mode():
        socket = splat_sockets.to_core_splat(list(splats))
        return LatheRenoiseRefine.execute(socket, images, CAMERAS, masks=masks, **{**WIDGETS, **changes}).args


def test_colours_that_change_with_the_view_are_kept():
    (plain,), (gleaming,) = (splat_sockets.from_core_splat(refine(cloud(degree))[0]) for degree in (0, 2))
    assert plain.degree == 0 and gleaming.degree == 2
    assert float(gleaming.sh[:, 1:].abs().mean()) > 0.05


def test_a_batch_comes_out_whole():
    splat, images, masks, preview, curve = refine(cloud(), cloud(1))
    assert [one.degree for one in splat_sockets.from_core_splat(splat)] == [1, 1]
    assert images.shape == (6, 24, 24, 3) and masks.shape == (6, 24, 24) and len(preview) == len(curve) == 2
    assert not images.requires_grad and float(images.mean()) < 0.8


def test_one_film_for_two_assets_is_refused(monkeypatch):
    monkeypatch.setattr(core_models, "CoreRenoise", Film)
    with pytest.raises(ValueError, match="2 assets, but the conditioning of SV3D and SVD holds the picture of one"):
        refine(cloud(), cloud())
    assert len(splat_sockets.from_core_splat(refine(cloud())[0])) == 1


def test_4k_views_are_refused_before_anything_is_fitted_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(host, "memory_left", lambda: 2**28)
    frames = torch.zeros(1).expand(3, 2048, 2048, 3)
    with pytest.raises(ValueError, match=r"3 views of 2048 x 2048 pixels takes about \d+\.\d GiB; 0\.2 GiB are free"):
        LatheRenoiseRefine.execute(splat_sockets.to_core_splat([cloud()]), frames, CAMERAS, **WIDGETS)
