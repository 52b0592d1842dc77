"""The views of a fit: whose turn it is, what counts, and what the messages say."""

from dataclasses import replace

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.views import asset_views, on_background
from lathe.pipelines.fitting.targets import Targets
from lathe.pipelines.meshes.fit_settings import load_mesh_preset
from lathe.pipelines.ops.losses import LossWeights
from lathe.pipelines.splats.fit_settings import load_fit_preset

CAMERAS = orbit_cameras(4, elevation=10)
PLAIN = replace(load_mesh_preset("fast"), weights=LossWeights(mask=2.0, l1=1.0), views_per_step=3)


def views(count=4, height=24, width=40):
    draws = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, 1, height, width)
    masks[:, :, 6:18, 10:30] = 1
    return torch.rand(count, 3, height, width, generator=draws), masks


def targets(images, masks, settings=PLAIN, cameras=CAMERAS, seed=0):
    return Targets(images, masks, cameras, settings, None, torch.Generator().manual_seed(seed), torch.device("cpu"), "Some Node")


def test_no_view_has_a_second_turn_before_all_had_one():
    some = targets(*views())
    turns = [some.next_views() for _ in range(4)]
    assert all(len(turn) == 3 for turn in turns)
    flat = sum(turns, [])
    assert all(sorted(flat[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 12, 4))
    assert turns == [again.next_views() for again in [targets(*views())] for _ in range(4)]
    assert targets(*views(), replace(PLAIN, views_per_step=0)).next_views() == [0, 1, 2, 3]


@pytest.mark.parametrize("preset", [load_mesh_preset("fast"), load_fit_preset("fast")])
def test_terms_by_hand_with_the_settings_of_either_fit(preset):
    images, masks = views()
    some = targets(images, masks, replace(preset, weights=PLAIN.weights))
    drawn, alphas = torch.zeros(2, 3, 24, 40), torch.zeros(2, 1, 24, 40)
    terms = some.compare(drawn, alphas, [1, 3], perceptual=True)
    shown = on_background(images, masks, (1.0, 1.0, 1.0))[[1, 3]]
    assert float(terms["L1"]) == pytest.approx(float(shown.mean()), rel=1e-5)
    assert float(terms["mask"]) == pytest.approx(float(masks.mean()), rel=1e-5)
    assert float(terms["total"]) == pytest.approx(float(terms["L1"] + 2 * terms["mask"]), rel=1e-6)
    assert set(some.compare(drawn, None, [1, 3], perceptual=True)) == {"L1", "total"}, "without alphas no mask loss"


def test_empty_masks_and_the_fall_back_to_ssim_are_said_by_name(caplog):
    caplog.set_level("INFO")
    images, masks = views()
    masks[1] = 0
    some = targets(images, masks, replace(PLAIN, weights=LossWeights(ms_ssim=1.0)))
    assert len(some) == some.cameras.n_views == 3
    assert torch.equal(some.cameras.c2w, CAMERAS.c2w[[0, 2, 3]])
    assert "1 - SSIM" in some.compare(some.images[:1], None, [0], perceptual=False)
    assert "Some Node: the masks of 1 of 4 views are empty" in caplog.text
    assert "Some Node: MS-SSIM needs views of at least 161 pixels; SSIM is used for 40 x 24" in caplog.text


def test_a_single_view_and_identical_views_are_warned_of(caplog):
    images, masks = views(1)
    targets(images, masks, cameras=CAMERAS.select([0]))
    assert "one view alone says nothing of depth" in caplog.text
    targets(images.expand(4, -1, -1, -1), None)
    assert "all 4 views are the same picture" in caplog.text


def test_batches_are_cut_asset_by_asset_and_checked():
    images, masks = views(8)
    first, second = asset_views(images, masks, CAMERAS, "Some Node")
    assert torch.equal(second[0], images[4:]) and torch.equal(second[1], masks[4:]) and first[2].n_views == 4
    assert asset_views(images, None, CAMERAS, "Some Node")[1][1] is None
    broken = images.clone()
    broken[6, 0, 0, 0] = float("inf")
    for given, words in (((images, masks[:4]), "Some Node: 8 views need as many masks, not 4"), ((broken, masks), "Some Node: .*infinite")):
        with pytest.raises(ValueError, match=words):
            asset_views(*given, CAMERAS, "Some Node")
