"""The loop between splats and diffusion: what each round does to the targets, the fit and the distance between them."""

import dataclasses
import logging

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.fitting.perceptual import load_perceptual
from lathe.pipelines.rendering.splats import render_splats
from lathe.pipelines.splats import renoise
from lathe.pipelines.splats.fit import SplatFit, with_changes
from lathe.pipelines.splats.fit_settings import load_fit_preset

SIZE, VIEWS = 32, 4
CAMERAS = orbit_cameras(VIEWS, elevation=10)


def ball(color=0.0) -> Splats:
    places = torch.nn.functional.normalize(torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    turns, sh = torch.tensor([[1.0, 0, 0, 0]]).repeat(80, 1), torch.full((80, 1, 3), -0.6)
    sh[..., 0] += color
    return Splats(places * 0.5, torch.full((80, 3), 0.12), turns, torch.full((80,), 0.8), sh)


@pytest.fixture(scope="module")
def perceptual():
    return load_perceptual()


@pytest.fixture(scope="module")
def seen():
    return render_splats(ball(), CAMERAS, SIZE, SIZE)


def loop(seen, perceptual, redenoise, start=None, **options) -> renoise.RenoiseLoop:
    settings = with_changes(load_fit_preset("fast"), steps=40)
    settings = dataclasses.replace(settings, densify=dataclasses.replace(settings.densify, last=0))
    fit = SplatFit(seen.images, seen.masks, CAMERAS, start=start or ball(), settings=settings, perceptual=perceptual)
    return renoise.RenoiseLoop(fit, seen.images, seen.masks, CAMERAS, redenoise, perceptual, **options)


def reddened(images, masks, cameras, level, seed, tick):
    """A generator whose views are redder, by as much as it may change them."""
    tick(1, 2)
    tick(2, 2)
    return torch.cat([images[:, :1] + level * masks * 0.5, images[:, 1:]], dim=1).clamp(0, 1)


def test_a_round_gives_the_generator_the_renders_and_fits_on_to_what_comes_back(seen, perceptual):
    asked = []

    def generator(images, masks, cameras, level, seed, tick):
        asked.append((images, masks, cameras, level, seed))
        return reddened(images, masks, cameras, level, seed, tick)

    run = loop(seen, perceptual, generator)
    run.round(0.5, 25, seed=9)
    images, masks, cameras, level, seed = asked[0]
    assert torch.allclose(images, seen.images, atol=1e-5) and torch.allclose(masks, seen.masks, atol=1e-5)
    assert cameras is CAMERAS and (level, seed) == (0.5, 9)
    assert not images.requires_grad and torch.equal(run.images, reddened(images, masks, CAMERAS, 0.5, 0, lambda *a: None))
    after = render_splats(run.fit.splats(), CAMERAS, SIZE, SIZE)
    inside = seen.masks > 0.9
    moved = (after.images - seen.images)[:, 0][inside[:, 0]].mean()
    assert 0.04 < float(moved) < 0.4, "the asset follows the new views"
    assert run.fit.steps_done == 25


def test_the_distance_is_told_before_and_after_and_falls_where_views_agree(seen, perceptual, caplog):
    """Views of a red ball were fitted by a grey one; re-noised renders agree with it, whatever the generator leaves as it is."""
    red = render_splats(ball(0.8), CAMERAS, SIZE, SIZE)
    run = loop(red, perceptual, lambda images, *rest: images)
    with caplog.at_level(logging.INFO):
        before, after = run.round(0.3, 5, seed=0)
    assert before > 0.02 and after < 0.25 * before
    assert f"{before:.4f} before the round, {after:.4f} after" in caplog.text
    assert [value for _, value in run.disagreements] == [before, after]
    assert run.curve().shape[0] == 3 and torch.isfinite(run.curve()).all()


def test_rounds_go_on_from_each_other(seen, perceptual):
    run = loop(seen, perceptual, reddened)
    run.round(0.2, 10, seed=0)
    first = run.images.clone()
    run.round(0.2, 10, seed=1)
    assert float((run.images - first)[:, 0].mean()) > 0 and run.fit.steps_done == 20 and len(run.disagreements) == 4


def test_progress_grows_and_cancel_keeps_the_last_targets_and_splats(seen, perceptual):
    steps = []
    run = loop(seen, perceptual, reddened)
    run.round(0.3, 8, seed=0, tick=lambda step, total, preview=None: steps.append((step, total)))
    assert steps == sorted(steps) and steps[-1] == (renoise.WHOLE, renoise.WHOLE)
    targets, splats = run.images, run.fit.splats()

    def cancelled(step, total, preview=None):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.round(0.3, 8, seed=1, tick=cancelled)
    assert run.images is targets and torch.equal(run.fit.splats().positions, splats.positions)


def test_the_same_seed_gives_the_same_splats(seen, perceptual):
    both = []
    for _ in range(2):
        run = loop(seen, perceptual, reddened)
        run.round(0.3, 6, seed=0)
        both.append(run.fit.splats())
    assert torch.equal(both[0].positions, both[1].positions) and torch.equal(both[0].sh, both[1].sh)


def test_a_generator_that_changes_the_size_is_told_off(seen, perceptual):
    with pytest.raises(ValueError, match=r"\(4, 3, 16, 16\)"):
        loop(seen, perceptual, lambda images, *rest: images[..., ::2, ::2]).round(0.3, 2, seed=0)


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_masks_by_the_render_are_its_opacity(seen):
    assert torch.equal(renoise.remask(torch.rand(VIEWS, 3, SIZE, SIZE), seen.masks, "render"), seen.masks)


def test_masks_found_anew_fall_back_on_the_render_view_by_view(caplog):
    images = torch.ones(2, 3, 64, 64)
    images[0, :, 16:48, 16:48] = 0.2
    opacities = torch.full((2, 1, 64, 64), 0.25)
    masks = renoise.remask(images, opacities, "plain_background")
    assert float(masks[0, 0, 32, 32]) == 1 and float(masks[0, 0, 2, 2]) == 0
    assert torch.equal(masks[1], opacities[1]) and "views 1" in caplog.text


def test_other_masking_is_refused(seen, perceptual):
    with pytest.raises(ValueError, match="plain_background"):
        loop(seen, perceptual, reddened, mask_method="magic")


def test_the_distance_ignores_what_lies_outside_the_masks(seen, perceptual):
    littered = torch.where(seen.masks > 0.01, seen.images, torch.rand_like(seen.images))
    assert renoise.disagreement(perceptual, littered, seen.masks, seen.images) < 1e-3
    assert renoise.disagreement(perceptual, littered, None, seen.images) > 0.1
