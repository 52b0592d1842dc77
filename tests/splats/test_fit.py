"""The fit of Gaussians to views."""

import logging
from dataclasses import replace

import pytest
import torch
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.fitting import failed_steps, targets
from lathe.pipelines.fitting.perceptual import Perceptual, load_perceptual
from lathe.pipelines.metrics import psnr
from lathe.pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras
from lathe.pipelines.plots.loss_curve import loss_curve
from lathe.pipelines.splats import fit as splat_fit
from lathe.pipelines.splats import fit_settings
from lathe.pipelines.splats import start as splat_start
from lathe.pipelines.splats.density_control import EveryGaussianPruned
from lathe.pipelines.splats.fit import SplatFit, fit_splats, with_changes
from lathe.pipelines.splats.fit_settings import load_fit_preset
from lathe.pipelines.splats.start import start_at_centre

SIZE = 48
CAMERAS = posed_cameras([0, 60, 120, 180, 240, 300], [0, 30, -20, 10, 40, -10], 4.0, 30.0)
QUICK = with_changes(load_fit_preset("fast"), steps=30, points=400, weights={"perceptual": 0.0, "ms_ssim": 0.0}, perceptual_size=32)


def ball(seed: int = 0, count: int = 800) -> Splats:
    """A coloured ball."""
    generator = torch.Generator().manual_seed(seed)
    points = 0.7 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    colors = 0.5 + 0.5 * torch.sin(4 * points)
    turns = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    return Splats(points, torch.full((count, 3), 0.06), turns, torch.full((count,), 0.95), (colors[:, None] - 0.5) / 0.28209479)


def shown(splats: Splats, cameras: Cameras = CAMERAS, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    viewmats, Ks = splat_cameras(cameras, size, size)
    rendered = render_gaussians(
        splats.positions, splats.rotations, splats.scales, splats.opacities, splats.sh, viewmats, Ks, size, size,
        sh_degree=splats.degree, background=torch.ones(3),
    )  # fmt: skip
    return rendered.color.movedim(-1, 1).clamp(0, 1), rendered.alpha.movedim(-1, 1)


@pytest.fixture(scope="module")
def views():
    return shown(ball())


def same(first: Splats, second: Splats) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


START = start_at_centre(400, seed=9)


def a_fit(views, settings=QUICK) -> SplatFit:
    return SplatFit(*views, CAMERAS, start=START, settings=settings)


def fitted(images, masks, cameras=CAMERAS, settings=QUICK, **options) -> list[Splats]:
    """The splats of each asset."""
    return [result.splats for result in fit_splats(images, masks, cameras, settings=settings, start=START, **options)]


def test_views_that_were_not_shown_are_right_after_a_short_fit(views):
    settings = replace(QUICK, steps=200)
    result = fit_splats(*views, CAMERAS, settings=settings)[0]
    others = posed_cameras([30, 150, 270], [10, 10, 10], 4.0, 30.0)
    assert float(psnr(shown(result.splats, others)[0], shown(ball(), others)[0]).mean()) > 25
    assert result.preview.shape == (3, 2 * SIZE, 4 * SIZE) and result.curve.shape[0] == 3


def test_every_term_of_paper_falls_from_a_start_at_the_centre(views):
    fit = a_fit(views, with_changes(load_fit_preset("paper"), steps=25))
    fit.run(25)
    assert set(fit.losses[0]) == {"perceptual", "1 - SSIM", "mask", "total"}
    for name in fit.losses[0]:
        assert fit.losses[-1][name] < 0.93 * fit.losses[0][name], name


@pytest.mark.parametrize("weights, threads", [({"perceptual": 1.0, "ms_ssim": 0.2}, (1, 1)), ({}, (1, 2))])
def test_same_seed_same_bits(views, weights, threads):
    """On one thread; on any number of them for what is computed here. Convolutions are added up by PyTorch's libraries, which on some
    processors take the order from the number of threads."""
    rules = replace(QUICK.densify, first=5, every=5, gradient=1e-5)
    settings = with_changes(QUICK, weights=weights, densify=rules)
    made, before = [], torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            made += fitted(*views, settings=settings, seed=7)
    finally:
        torch.set_num_threads(before)
    assert same(*made)
    assert not same(made[0], fitted(*views, settings=settings, seed=8)[0])


def test_a_batch_gives_what_single_runs_give(views):
    other = shown(ball(seed=5))
    images, masks = (torch.cat(pair) for pair in zip(views, other, strict=True))
    ticks = []
    both = fitted(images, masks, tick=lambda step, total, preview=None: ticks.append((step, total)))
    singles = [fitted(*one)[0] for one in (views, other)]
    assert all(same(a, b) for a, b in zip(both, singles, strict=True))
    assert ticks == [(step, 60) for step in range(1, 61)]


def test_the_hulls_of_a_batch_are_ticked_before_their_steps(views):
    images, masks = (torch.cat([part, part]) for part in views)
    ticks, parts = [], 128**3 // splat_start.POINTS_AT_ONCE
    fit_splats(images, masks, CAMERAS, settings=replace(QUICK, steps=2), tick=lambda step, total, preview=None: ticks.append((step, total)))
    hulls = [[(asset * parts + part, 2 * parts) for part in range(1, parts + 1)] for asset in range(2)]
    assert ticks == [*hulls[0], (1, 4), (2, 4), *hulls[1], (3, 4), (4, 4)]


def test_views_are_not_written_into_and_the_tick_shows_a_picture(views):
    before, seen = [part.clone() for part in views], []
    a_fit(views).run(20, lambda step, total, preview=None: seen.append(preview))
    assert all(torch.equal(a, b) for a, b in zip(before, views, strict=True))
    assert [step for step, preview in enumerate(seen, 1) if preview is not None] == [10, 20]
    assert seen[9].shape == (SIZE, 2 * SIZE, 3)


def test_cancel_leaves_the_state_after_the_last_step(views):
    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        if step == 7:
            raise Cancelled

    stopped, whole = a_fit(views), a_fit(views)
    with pytest.raises(Cancelled):
        stopped.run(30, tick)
    whole.run(7)
    assert stopped.steps_done == 7 and same(stopped.splats(), whole.splats())
    stopped.run(2)
    whole.run(2)
    assert same(stopped.splats(), whole.splats())


def test_new_targets_keep_gaussians_and_optimiser(views):
    fit = a_fit(views)
    fit.run(20)
    before = fit.splats()
    fit.retarget(1 - views[0], views[1])
    assert same(before, fit.splats())
    fit.run(120)
    late = shown(fit.splats())[0]
    assert float(psnr(late, torch.where(views[1] > 0.5, 1 - views[0], 1.0)).mean()) > float(psnr(late, views[0]).mean()) + 3


def test_a_step_that_is_not_finite_changes_nothing_and_too_many_end_the_fit(views, monkeypatch, caplog):
    fit = a_fit(views)
    fit.run(3)
    before, real = fit.splats(), fit._targets.compare
    broken = lambda *a: {name: value * float("nan") for name, value in real(*a).items()}  # noqa: E731
    monkeypatch.setattr(fit._targets, "compare", broken)
    fit.run(4)
    assert fit.skipped == 4 and same(before, fit.splats()) and "not finite" in caplog.text
    monkeypatch.setattr(fit._targets, "compare", real)
    fit.run(3)
    assert fit.skipped == 4 and not same(before, fit.splats())
    good = fit.splats()
    monkeypatch.setattr(fit._targets, "compare", broken)
    with pytest.raises(failed_steps.FitBroken, match="20 steps in a row"):
        fit.run(100)
    assert same(good, fit.splats())


def test_density_changes_as_planned(views):
    settings = replace(QUICK, steps=40, densify=replace(QUICK.densify, first=10, every=10, last=30, gradient=0.0, most=700))
    fit = a_fit(views, settings)
    counts = []
    for _ in range(40):
        fit.step()
        counts.append(len(fit.parameters))
    assert counts[8] == 400 and 400 < counts[9] <= 700 and max(counts) <= 700 and len(set(counts[29:])) == 1


def test_every_gaussian_pruned_away_is_said_and_keeps_the_last_state(views):
    settings = replace(QUICK, densify=replace(QUICK.densify, first=5, every=5, opacity=1.1))
    fit = a_fit(views, settings)
    with pytest.raises(EveryGaussianPruned, match="pruning would leave nothing"):
        fit.run(30)
    assert len(fit.splats()) == 400
    with pytest.raises(EveryGaussianPruned, match="faded below an opacity of 1"):
        a_fit(views, replace(QUICK, final_opacity=1.0)).result()


def test_faint_gaussians_are_pruned_at_the_end(views):
    start = ball()
    start.opacities[::2] = 0.001
    fit = SplatFit(*views, CAMERAS, start=start, settings=QUICK)
    assert len(fit.splats()) == 800 and len(fit.result().splats) == 400


def test_the_comparison_shows_the_splats_that_come_out(views):
    start = ball()
    start.opacities[:] = torch.where(torch.arange(800) % 2 == 0, 0.95, 0.3)
    fit = SplatFit(*views, CAMERAS, start=start, settings=replace(QUICK, final_opacity=0.5, background=(1.0, 1.0, 1.0)))
    result, whole = fit.result(), shown(fit.splats())[0]
    drawn = shown(result.splats)[0]
    assert len(result.splats) == 400 and float((drawn - whole).abs().mean()) > 0.01
    first, second = result.preview[:, SIZE:, :SIZE], result.preview[:, SIZE:, SIZE : 2 * SIZE]
    assert torch.allclose(first, drawn[0], atol=1e-4) and torch.allclose(second, drawn[1], atol=1e-4)


def test_a_start_of_another_degree_is_cut_or_padded(views):
    settings = replace(QUICK, sh_degree=1)
    fit = SplatFit(*views, CAMERAS, start=ball(), settings=settings)
    fit.run(5)
    assert fit.splats().sh.shape[1] == 4 and bool(fit.splats().sh[:, 1:].any())
    again = SplatFit(*views, CAMERAS, start=fit.splats(), settings=QUICK)
    assert again.splats().degree == 0


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_views_and_cameras_that_do_not_match(views):
    images, masks = views
    with pytest.raises(ValueError, match="5 views do not fit cameras of 6 views"):
        fit_splats(images[:5], masks[:5], CAMERAS, settings=QUICK)
    with pytest.raises(ValueError, match="6 views need as many masks, not 5"):
        fit_splats(images, masks[:5], CAMERAS, settings=QUICK)
    with pytest.raises(ValueError, match="as many masks of that size"):
        fit_splats(images, masks[..., :40], CAMERAS, settings=QUICK)
    with pytest.raises(ValueError, match="1 assets, but there are 2"):
        fit_splats(images, masks, CAMERAS, settings=QUICK, start=[ball(), ball()])
    with pytest.raises(ValueError, match="at least 16"):
        fit_splats(images[..., :8, :8], masks[..., :8, :8], CAMERAS, settings=QUICK)


def test_one_view_and_identical_views_work_and_warn(views, caplog):
    images, masks = views
    one = fitted(images[:1], masks[:1], CAMERAS.select([0]))[0]
    assert len(one) > 0 and "one view alone" in caplog.text
    six = images[:1].expand(6, -1, -1, -1), masks[:1].expand(6, -1, -1, -1)
    assert len(fitted(*six)[0]) > 0 and "same picture" in caplog.text


def test_views_with_empty_masks_are_left_out(views, caplog):
    images, masks = views[0].clone(), views[1].clone()
    images[2], masks[2] = 0, 0
    others = [0, 1, 3, 4, 5]
    made = fitted(images, masks)[0]
    assert "1 of 6 views are empty" in caplog.text
    assert same(made, fitted(images[others], masks[others], CAMERAS.select(others))[0])
    with pytest.raises(ValueError, match="all masks are empty"):
        fit_splats(images, masks * 0, CAMERAS, settings=QUICK)
    masks[1:] = 0  # the hull of one mask alone would be a cone
    assert float(splat_fit.default_start(images, masks, CAMERAS, QUICK, 0).positions.norm(dim=1).max()) <= 0.5


def test_nan_in_views_or_masks(views):
    for part in range(2):
        spoiled = [views[0].clone(), views[1].clone()]
        spoiled[part][3, 0, 5, 5] = float("nan")
        with pytest.raises(ValueError, match="NaN or infinite"):
            fit_splats(*spoiled, CAMERAS, settings=QUICK)


def test_no_masks_and_what_lies_outside_of_them(views):
    assert len(fit_splats(views[0], None, CAMERAS, settings=QUICK)[0].splats) > 0
    alone = with_changes(QUICK, weights={"l1": 0.0})
    with pytest.raises(ValueError, match="only the mask loss"):
        fit_splats(views[0], None, CAMERAS, settings=alone)
    short = replace(QUICK, steps=3)
    cluttered = torch.where(views[1] > 0.01, views[0], 0.3)
    assert same(fit_splats(cluttered, views[1], CAMERAS, settings=short)[0].splats, fit_splats(*views, CAMERAS, settings=short)[0].splats)


def test_memory_of_4k_frames_is_known_before_they_are_fitted():
    gib = 2.0**30
    fast, paper = load_fit_preset("fast"), load_fit_preset("paper")
    assert fit_settings.estimate_memory(16, 4096, 4096, paper) / gib > 40
    assert fit_settings.estimate_memory(16, 4096, 4096, fast) / gib > 10
    assert fit_settings.estimate_memory(16, 256, 256, fast) / gib < 1
    with pytest.raises(ValueError, match="masks are 64 x 64 pixels, the views 96 x 64"):
        targets.resized_views(torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 64), 48)
    images, masks = targets.resized_views(torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 96), 48)
    assert images.shape == (1, 3, 32, 48) and masks is not None and masks.shape == (1, 1, 32, 48)


# ---- settings, losses, curve -----------------------------------------------------------------------------------------


def test_presets_are_what_the_paper_says():
    assert fit_settings.preset_names() == ("fast", "paper", "pixel")
    paper = load_fit_preset("paper")
    weights = paper.weights
    assert (weights.perceptual, weights.ms_ssim, weights.mask, weights.l1, weights.l2) == (10, 0.2, 1, 0, 0)
    assert (paper.steps, paper.points, paper.densify.every, paper.views_per_step, paper.start) == (1200, 5000, 50, 0, "centre")
    fast, pixel = load_fit_preset("fast"), load_fit_preset("pixel")
    assert (fast.views_per_step, fast.perceptual_size) == (1, 128) and pixel.weights.perceptual == pixel.weights.ms_ssim == 0
    assert (fast.steps, fast.rates, fast.densify) == (pixel.steps, pixel.rates, pixel.densify)
    with pytest.raises(ValueError, match="no fit preset 'quick'"):
        load_fit_preset("quick")
    assert with_changes(paper, steps=600).densify.last == paper.densify.last // 2
    for bad in ({"steps": 0}, {"sh_degree": 4}, {"start": "edge"}, {"weights": dict.fromkeys(vars(weights), 0.0)}):
        with pytest.raises(ValueError):
            with_changes(paper, **bad)


def test_ms_ssim_gives_way_to_ssim_in_small_views_and_says_so(views, caplog):
    caplog.set_level(logging.INFO)
    settings = with_changes(QUICK, weights={"ms_ssim": 0.2})
    assert "1 - SSIM" in a_fit(views, settings).step() and "SSIM is used for 48 x 48" in caplog.text
    assert "1 - MS-SSIM" in a_fit(shown(ball(), size=176), settings).step()


def test_targets_are_seen_by_the_network_once(views, monkeypatch):
    seen = []
    real = Perceptual.embed
    monkeypatch.setattr(Perceptual, "embed", lambda self, images: seen.append(images.requires_grad) or real(self, images))
    settings = with_changes(QUICK, weights={"perceptual": 1.0}, perceptual_every=1, perceptual_size=16)
    a_fit(views, settings).run(18)
    assert (seen.count(True), seen.count(False)) == (18, 6)
    fit = a_fit(views, replace(settings, perceptual_every=2))
    fit.run(4)
    assert [("perceptual" in step) for step in fit.losses] == [False, True, False, True]


def test_perceptual_distance_in_two_halves_is_the_networks_own():
    net = load_perceptual()
    first, second = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert net.name == "vgg_hed"
    assert torch.allclose(net.between(net.embed(first), net.embed(second)), net.net.distance(first, second), rtol=1e-5)


def test_lpips_is_used_where_its_files_are(tmp_path):
    from lathe.pipelines.nets.lpips import LPIPS
    from safetensors.torch import save_file

    torch.manual_seed(0)
    lpips = LPIPS()
    state = {name.replace("slice", "net.slice"): value for name, value in lpips.state_dict().items() if "slice" in name}
    state |= {f"lin{i}.model.1.weight": torch.rand_like(lpips.get_parameter(f"lin{i}")) for i in range(5)}
    save_file(state, tmp_path / "lpips_vgg.safetensors")
    found = load_perceptual([tmp_path / "none", tmp_path])
    first, second = torch.rand(2, 1, 3, 32, 32)
    assert found.name == "lpips_vgg"
    assert torch.allclose(found.between(found.embed(first), found.embed(second)), found.net.distance(first, second), rtol=1e-4)
    (tmp_path / "lpips_vgg.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError):
        load_perceptual([tmp_path])


def test_curve_shows_each_term_and_survives_odd_losses():
    steps = [{"mask": 0.1 / (i + 1), "total": 1.0 / (i + 1)} | ({"perceptual": 0.5} if i % 4 == 0 else {}) for i in range(100)]
    picture = loss_curve(steps)
    assert picture.shape == (3, 448, 768) and 0 <= float(picture.min()) and float(picture.max()) <= 1
    colors = {tuple(c) for c in (picture * 255).round().int().flatten(1).T.unique(dim=0).tolist()}
    assert {(31, 119, 180), (214, 39, 40), (44, 160, 44)} <= colors
    for odd in ([], [{"total": 0.0}], [{"total": float("nan")}, {"total": 1e-9}]):
        assert loss_curve(odd).shape == (3, 448, 768)


def test_orbits_per_asset_are_taken_apart(views):
    cameras = Cameras(torch.stack([CAMERAS.c2w, CAMERAS.c2w.flip(0)]), torch.stack([CAMERAS.K] * 2), CAMERAS.names)
    images, masks = (torch.cat([part, part.flip(0)]) for part in views)
    first, second = fitted(images, masks, cameras)
    assert same(first, fitted(*views)[0]) and not same(first, second)
