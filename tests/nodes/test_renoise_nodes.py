"""Re-noise Refine as ComfyUI runs it, with a generator that needs no network."""

import types

import pytest
import torch
from lathe.nodes.core import folders, memory, view_refiner
from lathe.nodes.core.splat import from_core_splat, to_core_splat
from lathe.nodes.renoise import LatheRenoiseRefine, LatheRenoiseViews
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.splats.start import start_at_centre

GREY, WHITE = 0.5, 1.0
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


class Painter:
    """A view model that paints on a colour, and keeps what it was given."""

    def __init__(self, shade: float) -> None:
        self.model = types.SimpleNamespace(
            background=(shade,) * 3, camera_preset="zero123plus_v1.2", n_views=6, mask_method="plain_background"
        )
        self.given: list[torch.Tensor] = []

    def renoise(self, views, view_masks, images, masks, tick, **settings):
        self.given.append(views.clone())
        return views


@pytest.fixture(autouse=True)
def running_node(monkeypatch):
    folders.register_model_folder()
    monkeypatch.setattr(view_refiner, "CoreRenoise", Darker)
    for node in (LatheRenoiseRefine, LatheRenoiseViews):
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


def cloud(degree: int = 0) -> Splats:
    round_ones = start_at_centre(60, 0)
    sh = torch.zeros(60, (degree + 1) ** 2, 3)
    sh[:, 1:] = 0.1
    return Splats(round_ones.positions, round_ones.scales * 2, round_ones.rotations, torch.full((60,), 0.9), sh)


def speck() -> Splats:
    """A cloud that leaves the pictures' corners free."""
    large = cloud()
    return Splats(large.positions * 0.3, large.scales * 0.3, large.rotations, large.opacities, large.sh)


def refine(*splats: Splats, **changes):
    images = torch.full((3 * len(splats), 24, 24, 3), 0.5)
    masks = torch.zeros(3 * len(splats), 24, 24)
    masks[:, 6:18, 6:18] = 1
    with torch.inference_mode():
        socket = to_core_splat(list(splats))
        return LatheRenoiseRefine.execute(socket, images, CAMERAS, masks=masks, **{**WIDGETS, **changes}).args


def test_colours_that_change_with_the_view_are_kept():
    (plain,), (gleaming,) = (from_core_splat(refine(cloud(degree))[0]) for degree in (0, 2))
    assert plain.degree == 0 and gleaming.degree == 2
    assert float(gleaming.sh[:, 1:].abs().mean()) > 0.05


def test_a_batch_comes_out_whole():
    splat, images, masks, preview, curve = refine(cloud(), cloud(1))
    assert [one.degree for one in from_core_splat(splat)] == [1, 1]
    assert images.shape == (6, 24, 24, 3) and masks.shape == (6, 24, 24) and len(preview) == len(curve) == 2
    assert not images.requires_grad and float(images.mean()) < 0.8


def test_one_film_for_two_assets_is_refused(monkeypatch):
    monkeypatch.setattr(view_refiner, "CoreRenoise", Film)
    with pytest.raises(ValueError, match="2 assets, but the conditioning of SV3D and SVD holds the picture of one"):
        refine(cloud(), cloud())
    assert len(from_core_splat(refine(cloud())[0])) == 1


def test_4k_views_are_refused_before_anything_is_fitted_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(memory, "memory_left", lambda *where: 2**28)
    frames = torch.zeros(1).expand(3, 2048, 2048, 3)
    with pytest.raises(ValueError, match=r"3 views of 2048 x 2048 pixels takes about \d+\.\d GiB; 0\.2 GiB are free"):
        LatheRenoiseRefine.execute(to_core_splat([cloud()]), frames, CAMERAS, **WIDGETS)


@pytest.mark.parametrize("shade", [GREY, WHITE])
def test_a_view_model_is_shown_the_asset_on_its_own_background(shade):
    painter, core = Painter(shade), dict.fromkeys(("model", "positive", "negative", "vae"))
    images, masks = torch.ones(6, 24, 24, 3), torch.zeros(6, 24, 24)
    masks[:, 6:18, 6:18] = 1
    with torch.inference_mode():
        socket = to_core_splat([speck()])
        out = LatheRenoiseRefine.execute(
            socket, images, preset_cameras("zero123plus_v1.2"), masks=masks, view_model=painter, image=torch.ones(1, 24, 24, 3),
            **{**WIDGETS, **core},
        ).args  # fmt: skip
    assert len(painter.given) == 2
    for corner in (*(views[..., 0, 0] for views in painter.given), out[1][:, 0, 0]):
        torch.testing.assert_close(corner, torch.full((6, 3), shade), atol=1e-3, rtol=0)


def test_core_models_are_shown_the_asset_on_white():
    torch.testing.assert_close(refine(speck(), rounds=1, level=0.0)[1][:, 0, 0], torch.ones(3, 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shade", [GREY, WHITE])
def test_re_noise_views_lays_masked_views_on_the_models_background(shade):
    painter = Painter(shade)
    images, masks = torch.ones(6, 24, 24, 3), torch.zeros(6, 24, 24)
    masks[:, 6:18, 6:18] = 1
    images[:, 6:18, 6:18] = torch.tensor([0.9, 0.1, 0.2])
    picture = torch.ones(1, 24, 24, 3)
    new, found = LatheRenoiseViews.execute(painter, images, picture, 0.3, 2, 0.0, 0, masks=masks).args
    expected = torch.where(masks[..., None] > 0, images, torch.full((3,), shade))
    assert torch.equal(painter.given[0].movedim(1, -1), expected) and torch.equal(new, expected) and torch.equal(found > 0.5, masks > 0.5)
    LatheRenoiseViews.execute(painter, images, picture, 0.3, 2, 0.0, 0)
    assert torch.equal(painter.given[1].movedim(1, -1), images), "found outlines change no picture"
    with pytest.raises(ValueError, match="do not fit"):
        LatheRenoiseViews.execute(painter, images, picture, 0.3, 2, 0.0, 0, masks=masks[:, :12])
