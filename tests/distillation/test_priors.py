"""Priors without ComfyUI: score distillation on models known in closed form, combination, presets, memory that runs out, view grids."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.tiny_view_model import picture, view_model
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.distillation import prior_settings, priors
from lathe.pipelines.distillation.prior_settings import SdsSettings
from lathe.pipelines.distillation.view_model_prior import ViewGridDenoiser
from lathe.pipelines.fitting import out_of_memory
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.frozen_copy import FrozenCopy
from lathe.pipelines.view_generation.model import grid_from_views
from lathe.pipelines.view_generation.sampling import encode

SETTINGS = SdsSettings(1.0, 1.0, (0.02, 0.98), (0.02, 0.98), "one_minus_alpha_bar")


def cameras(views: int = 2):
    return posed_cameras([90.0 * v for v in range(views)], [0.0] * views, 2.0, 40.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The exact denoiser of pictures drawn from N(mode, spread^2), on a cosine schedule."""

    one_time = False

    def __init__(self, mode: torch.Tensor, spread: float = 0.1) -> None:
        self.mode, self.spread, self.size = mode, spread, tuple(mode.shape[-2:])
        self.asked: list[torch.Tensor] = []

    def encode(self, images):
        return images * 2 - 1

    def noise_ratio(self, times):
        return torch.tan(times * math.pi / 2)

    def denoised(self, latents, times, noise, cameras, guidance):
        self.asked.append(times)
        ratio = self.noise_ratio(times).view(-1, 1, 1, 1)
        noised, variance = latents + ratio * noise, (2 * self.spread) ** 2
        mean = self.mode * 2 - 1
        return mean + (noised - mean) * variance / (variance + ratio**2)

    def picture(self, latents):
        return latents / 2 + 0.5


def distilled(model, steps: int, prior=None, rate: float = 0.02) -> torch.Tensor:
    """A picture that follows a prior, by Adam."""
    shown = torch.full((2, 3, 8, 8), 0.5, requires_grad=True)
    adam, draws = torch.optim.Adam([shown], lr=rate), generator()
    prior = prior or priors.ScoreDistillation(model, {"coarse": SETTINGS})
    for step in range(steps):
        told = prior.guide(shown, cameras(), step / steps, draws)
        adam.zero_grad()
        (told.gradient * shown).sum().backward()
        adam.step()
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
    return shown.detach()


def test_a_score_with_a_known_mode_is_followed_to_it():
    mode = torch.rand(2, 3, 8, 8, generator=generator(1)) * 0.8 + 0.1
    found = distilled(Gaussian(mode), 400)
    assert float((found - mode).abs().mean()) < 0.02
    assert float((torch.full_like(mode, 0.5) - mode).abs().mean()) > 0.15


def test_the_slider_moves_the_result_from_one_mode_to_the_other():
    one, other = torch.rand(2, 2, 3, 8, 8, generator=generator(2)).unbind()
    parts = [priors.ScoreDistillation(Gaussian(mode), {"coarse": SETTINGS}) for mode in (one, other)]
    shares = []
    for imagination in (0.0, 0.5, 1.0):
        weights = priors.trade(imagination)
        found = distilled(None, 200, priors.combine(list(zip(parts, weights, strict=True))))
        shares.append(float(((found - other) * (one - other)).sum() / (one - other).square().sum()))
    assert shares[0] == pytest.approx(0, abs=0.05) and shares[1] == pytest.approx(0.5, abs=0.1) and shares[2] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("weighting", prior_settings.WEIGHTINGS)
@pytest.mark.parametrize("predicts", ["eps", "v", "flow"])
def test_the_gradient_is_the_weighted_difference_of_noises(weighting, predicts):
    """By hand in float64: any answer of a network, turned into its guess of the clean latents as samplers do."""
    draws = generator(3)
    clean, noise, answer = (torch.randn(2, 4, 5, 5, generator=draws, dtype=torch.float64) for _ in range(3))
    share = torch.tensor([0.03, 0.7], dtype=torch.float64).view(-1, 1, 1, 1)  # abar, or the flow's time
    if predicts == "flow":
        signal, level = 1 - share, share
        denoised = (signal * clean + level * noise) - level * answer  # answer = noise - clean
        predicted_noise = (signal * clean + level * noise) + signal * answer
    else:
        signal, level = share.sqrt(), (1 - share).sqrt()
        noised = signal * clean + level * noise
        predicted_noise = answer if predicts == "eps" else signal * answer + level * noised
        denoised = (noised - level * predicted_noise) / signal
    ratio = (level / signal).flatten()
    weight = priors.time_weight(weighting, ratio)
    kept = signal.flatten() ** 2 / (signal.flatten() ** 2 + level.flatten() ** 2)
    by_hand = {"one_minus_alpha_bar": 1 - kept, "one_minus_sqrt_alpha_bar": 1 - kept.sqrt(), "one": torch.ones_like(kept)}[weighting]
    expected = by_hand.view(-1, 1, 1, 1) * (predicted_noise - noise)
    torch.testing.assert_close(priors.sds_gradient(clean, denoised, ratio, weight), expected, rtol=1e-9, atol=1e-9)


def test_the_gradient_on_the_renders_is_that_on_the_latents_through_the_encoder():
    """Renders of another size, an encoder of slope 2: the chain rule by finite differences in float64 of <g, encode(resize(x))>."""
    model = Gaussian(torch.rand(2, 3, 4, 4, generator=generator(4)))
    images = torch.rand(2, 3, 8, 8, generator=generator(5))
    told = priors.ScoreDistillation(model, {"coarse": SETTINGS}).guide(images, cameras(), 0.0, generator(6))
    draws = generator(6)
    times = SETTINGS.draw_times(2, 0.0, draws)
    noise = torch.randn(2, 3, 4, 4, generator=draws)
    latents = model.encode(priors.resized(images, (4, 4)))
    ratio = model.noise_ratio(times)
    towards = priors.sds_gradient(latents, model.denoised(latents, times, noise, None, 1.0), ratio, ratio**2 / (1 + ratio**2)) / 2
    step = 1e-3 * torch.randn(images.shape, generator=generator(7))
    shrink = {"size": (4, 4), "mode": "bilinear", "antialias": True}
    ends = [model.encode(torch.nn.functional.interpolate((images + sign * step).double(), **shrink)) for sign in (1, -1)]
    slope = (towards * (ends[0] - ends[1])).sum() / 2
    assert float((told.gradient * step).sum()) == pytest.approx(float(slope), rel=1e-4)
    assert not told.gradient.requires_grad and images.grad is None and told.finite
    errors = (latents - model.denoised(latents, times, noise, None, 1.0)) / ratio.view(-1, 1, 1, 1)
    expected = (ratio**2 / (1 + ratio**2) * errors.square().mean((1, 2, 3))).mean()
    assert told.loss == pytest.approx(float(expected), rel=1e-5)
    assert told.guess.shape == (2, 3, 4, 4) and 0 <= float(told.guess.min()) and float(told.guess.max()) <= 1


def test_a_prior_is_bit_equal_for_a_seed_and_works_inside_inference_mode():
    model = Gaussian(torch.rand(2, 3, 8, 8, generator=generator(8)))
    prior = priors.ScoreDistillation(model, {"coarse": SETTINGS})
    with torch.inference_mode():
        images = torch.rand(2, 3, 8, 8, generator=generator(9))
        first = prior.guide(images, cameras(), 0.0, generator(10))
    again = prior.guide(images.clone(), cameras(), 0.0, generator(10))
    assert torch.equal(first.gradient, again.gradient) and first.loss == again.loss
    assert not torch.equal(first.gradient, prior.guide(images, cameras(), 0.0, generator(11)).gradient)


def test_numbers_that_are_none_are_told():
    model = Gaussian(torch.full((2, 3, 8, 8), float("nan")))
    told = priors.ScoreDistillation(model, {"coarse": SETTINGS}).guide(torch.rand(2, 3, 8, 8), cameras(), 0.0, generator())
    assert not told.finite and math.isnan(told.loss)


def test_noise_levels_fall_with_progress():
    settings = replace(SETTINGS, times=(0.02, 0.98), final_times=(0.02, 0.5))
    for progress, most in ((0.0, 0.98), (0.5, 0.74), (1.0, 0.5), (7.0, 0.5)):
        drawn = settings.draw_times(2000, progress, generator())
        assert 0.02 <= float(drawn.min()) < 0.03 and most - 0.02 < float(drawn.max()) <= most


def test_by_angle_views_near_the_reference_count_little():
    mode = torch.rand(3, 3, 8, 8, generator=generator(12))
    views = posed_cameras([0.0, 90.0, 180.0], [20.0, 0.0, -20.0], 2.0, 40.0)
    images = torch.rand(3, 3, 8, 8, generator=generator(13))
    rows = [{"coarse": replace(SETTINGS, by_angle=on)} for on in (False, True)]
    both = [priors.ScoreDistillation(Gaussian(mode), row, elevation=20.0) for row in rows]
    plain, angled = (prior.guide(images, views, 0.0, generator(1)) for prior in both)
    shares = (angled.gradient / plain.gradient).flatten(1).median(1).values
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.5, 1.0]), atol=1e-3, rtol=0)


# ---- combination and stages ------------------------------------------------------------------------------------------


class Says:
    """A prior that says the same always."""

    def __init__(self, value: float, required_cameras=None) -> None:
        self.value = value
        self.required_cameras = required_cameras

    def guide(self, images, cameras, progress, generator):
        return priors.Guidance(torch.full_like(images, self.value), self.value, torch.full((1, 3, 2, 2), self.value))


def test_combined_gradients_and_losses_are_weighted_sums():
    both = priors.combine([(Says(0.25), 2.0), (Says(0.5), 40.0), (Says(9.0), 0.0)])
    told = both.guide(torch.zeros(2, 3, 4, 4), cameras(), 0.0, generator())
    assert torch.equal(told.gradient, torch.full((2, 3, 4, 4), 20.5)) and told.loss == 20.5 and float(told.guess[0, 0, 0, 0]) == 0.5


def test_combinations_pass_on_stage_and_cameras():
    stages = prior_settings.stages_of("as_coded", "2d")
    part = priors.ScoreDistillation(Gaussian(torch.rand(2, 3, 8, 8)), stages)
    fixed = preset_cameras("zero123plus_v1.2")
    both = priors.combine([(priors.combine([(part, 1.0)]), 1.0), (Says(1.0, fixed), 1.0)])
    assert priors.required_cameras(both) is fixed and priors.required_cameras(Says(0.0)) is None
    fine = priors.at_stage(both, "fine")
    assert fine.parts[0][0].parts[0][0].settings == stages["fine"] and part.settings == stages["coarse"]
    assert priors.required_cameras(fine) is fixed and priors.at_stage(fine, "coarse").parts[1][0] is both.parts[1][0]
    with pytest.raises(ValueError, match="coarse and fine, not 'late'"):
        priors.at_stage(both, "late")


@pytest.mark.parametrize(("parts", "words"), [
    ([], "no prior"), ([(Says(1.0), -1.0)], "at least 0"), ([(Says(1.0), math.nan)], "at least 0"),
    ([(Says(1.0, preset_cameras(f"zero123plus_v1.{x}")), 1.0) for x in (1, 2)], "different fixed cameras"),
])  # fmt: skip
def test_combinations_that_make_no_sense_are_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        priors.combine(parts)


def test_the_slider_runs_from_one_prior_over_both_to_the_other():
    assert [priors.trade(x) for x in (0, 0.25, 0.5, 0.75, 1)] == [(0, 1), (0.5, 1), (1, 1), (1, 0.5), (1, 0)]
    with pytest.raises(ValueError, match="0 to 1"):
        priors.trade(1.5)


def test_views_that_do_not_fit_are_refused():
    prior = priors.ScoreDistillation(Gaussian(torch.rand(2, 3, 8, 8)), {"coarse": SETTINGS})
    with pytest.raises(ValueError, match="16x8 pixels do not fit this prior, which works on 8x8"):
        prior.guide(torch.rand(2, 3, 8, 16), cameras(), 0.0, generator())
    with pytest.raises(ValueError, match=r"3 cameras do not fit \(2, 3, 8, 8\)"):
        prior.guide(torch.rand(2, 3, 8, 8), cameras(3), 0.0, generator())
    fixed = priors.ScoreDistillation(prior.model, prior.stages, required_cameras=cameras(2))
    with pytest.raises(ValueError, match="judges only the 2 views of its own cameras"):
        fixed.guide(torch.rand(2, 3, 8, 8), posed_cameras([0.0, 45.0], [0.0, 0.0], 2.0, 40.0), 0.0, generator())


# ---- presets ---------------------------------------------------------------------------------------------------------


def test_presets_hold_the_published_numbers():
    assert set(prior_settings.preset_names()) == {"threestudio", "as_coded", "paper"}
    three, coded, paper = (prior_settings.load_prior_preset(name).settings for name in ("threestudio", "as_coded", "paper"))
    assert (three["2d"]["coarse"].weight, three["3d"]["coarse"].weight) == (0.025, 1.0) and three["2d"] == {**three["2d"]}
    assert three["2d"]["fine"].weighting == "one_minus_sqrt_alpha_bar" and three["3d"]["fine"].guidance == 5
    for stage, weights in {"coarse": (1.0, 40.0), "fine": (0.001, 0.01)}.items():
        for kind, weight in zip(("2d", "3d"), weights, strict=True):
            assert paper[kind][stage].weight == weight
            assert coded[kind][stage].weight == pytest.approx(weight / 65536), "the loss scale of half precision divides it"
    assert coded["2d"]["coarse"].guidance == 101 and paper["2d"]["coarse"].guidance == 100, "c + 100 (c - u) is guidance 101"
    assert coded["3d"]["coarse"].by_angle and not paper["3d"]["coarse"].by_angle
    assert coded["2d"]["coarse"].times == (0.2, 0.6) and coded["2d"]["fine"].times == (0.02, 0.5)


def test_strength_and_guidance_change_a_preset():
    rows = prior_settings.stages_of("paper", "3d", 2.0, 7.5)
    assert rows["coarse"].weight == 80 and rows["fine"].weight == 0.02 and rows["fine"].guidance == 7.5
    assert prior_settings.stages_of("paper", "views")["coarse"].guidance is None
    with pytest.raises(ValueError, match="no preset 'best'"):
        prior_settings.stages_of("best", "3d")


@pytest.mark.parametrize(("changes", "words"), [
    ({"times": (0.0, 0.5)}, "above 0"), ({"final_times": (0.6, 0.5)}, "lower first"), ({"weight": -1.0}, "at least 0"),
    ({"guidance": math.inf}, "at least 0"), ({"weighting": "two"}, "no weighting 'two'"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(SETTINGS, **changes)


# ---- poses -----------------------------------------------------------------------------------------------------------


def test_relative_poses_count_from_the_reference():
    views = posed_cameras([0.0, 30.0, -90.0, 180.0], [10.0, 40.0, -20.0, 0.0], 2.5, 40.0)
    polar, azimuth, further = camera_math.relative_pose(views.c2w, elevation=10.0, radius=1.8)
    torch.testing.assert_close(torch.rad2deg(polar), torch.tensor([0.0, -30.0, 30.0, 10.0]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.rad2deg(azimuth).abs(), torch.tensor([0.0, 30.0, 90.0, 180.0]).double(), atol=1e-4, rtol=0)
    assert float(azimuth[1]) > 0 > float(azimuth[2])
    torch.testing.assert_close(further, torch.full((4,), 0.7).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [30, 90, -90])
def test_azimuths_run_against_the_published_mirrored_cameras(turn):
    """Magic123's poses are left-handed, its pictures mirrored: what it calls +30 and tells the network as -30 is our -30."""
    golden = np.load(Path(__file__).parents[1] / "data/goldens/magic123_camera.npz")
    pose = torch.from_numpy(golden[f"pose_phi{turn}"])[0].double()
    assert float(torch.linalg.det(pose[:3, :3])) == pytest.approx(-1, abs=1e-5)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    # Mirrored about x, world and picture, a left-handed camera becomes a right-handed one that sees the unmirrored picture.
    unmirrored = mirror @ pose
    assert float(torch.linalg.det(unmirrored[:3, :3])) == pytest.approx(1, abs=1e-5)
    azimuth = float(camera_math.relative_pose(unmirrored[None], radius=1.8)[1])
    published = math.sin(math.radians(-turn))
    assert math.sin(azimuth) == pytest.approx(published, abs=1e-5)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_the_resolution_is_halved_once_with_a_warning(caplog):
    size, asked = out_of_memory.FittingSize(128), []

    def step(side: int) -> int:
        asked.append(side)
        if side > 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return side

    with caplog.at_level(logging.WARNING):
        assert size.run(step) == 64 and size.run(step) == 64
    assert asked == [128, 64, 64] and size.size == 64
    assert len(caplog.records) == 1 and "128 pixels" in caplog.text and "goes on at 64" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_the_second_time_it_is_a_clear_error(error):
    def step(side: int) -> None:
        raise error

    size = out_of_memory.FittingSize(128)
    with pytest.raises(ValueError, match="at 128 and 64 pixels.*smaller resolution"):
        size.run(step)
    with pytest.raises(ValueError, match="at 20 pixels"):
        out_of_memory.FittingSize(20).run(step)


def test_other_errors_pass():
    def step(side: int) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        out_of_memory.FittingSize(128).run(step)


# ---- private weights and view grids ----------------------------------------------------------------------------------


def test_a_network_made_in_inference_mode_is_differentiated_through_on_copies():
    with torch.inference_mode():
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(6, 2))
        before = {name: weight.clone() for name, weight in net.state_dict().items()}
    copy = FrozenCopy(net, "cpu", skip=("1.",))
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    out = copy(net[0], x)
    net[0].weight.data = torch.zeros(1)  # the host moves the weights away before the backward pass
    (gradient,) = torch.autograd.grad(out.sum(), x)
    expected = before["0.weight"].sum(0)
    torch.testing.assert_close(gradient[0, :, 3, 3], expected.sum((1, 2)))


@pytest.fixture(scope="module")
def grid_model():
    return view_model()


def grid_prior(model, seed: int = 0):
    image = torch.nn.functional.interpolate(picture()[None], (64, 64))
    denoiser = ViewGridDenoiser(model, image, seed=seed)
    stages = prior_settings.stages_of("threestudio", "views")
    return priors.ScoreDistillation(denoiser, stages, required_cameras=preset_cameras(model.camera_preset))


def test_a_view_model_judges_its_grid(grid_model):
    prior, draws = grid_prior(grid_model), generator(3)
    images = torch.rand(6, 3, 32, 32, generator=generator(2))
    told = prior.guide(images, prior.required_cameras, 0.0, draws)
    assert told.gradient.shape == images.shape and told.finite and float(told.gradient.abs().min(0).values.max()) > 0
    assert all(float(told.gradient[view].abs().max()) > 0 for view in range(6))
    assert told.guess.shape == (6, 3, 8, 8)
    assert torch.equal(told.gradient, grid_prior(grid_model).guide(images, prior.required_cameras, 0.0, generator(3)).gradient)
    with pytest.raises(ValueError, match="own cameras"):
        prior.guide(images, posed_cameras([60.0 * v for v in range(6)], [0.0] * 6, 4.0, 30.0), 0.0, draws)


def test_the_view_models_guess_is_the_networks(grid_model):
    """By hand: the scheduler's noising, the two passes with guidance, v to clean latents, in the order of the published pipeline."""
    from lathe.pipelines.nets.reference_attention import ReferenceUNet

    prior = grid_prior(grid_model)
    latents = torch.randn(1, 4, 24, 16, generator=generator(4))
    noise, times = torch.randn(latents.shape, generator=generator(5)), torch.tensor([0.4])
    got = prior.model.denoised(latents, times, noise, prior.required_cameras, 3.0)
    scheduler = grid_model.schedule.scheduler("euler_ancestral", 1)
    kept = scheduler.alphas_cumprod[400]
    assert float(prior.model.noise_ratio(times)) == pytest.approx(float(((1 - kept) / kept).sqrt()), rel=1e-5)
    with torch.no_grad():
        (condition,) = encode(grid_model, prior.model.image, [generator(0)], guided=True)
        noised = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        reference = kept.sqrt() * condition.reference + (1 - kept).sqrt() * torch.randn(condition.reference.shape, generator=generator(0))
        network = ReferenceUNet(grid_model.unet)
        without, given = network(noised.expand(2, -1, -1, -1), torch.tensor(400), condition.tokens, reference).chunk(2)
        v = without + 3.0 * (given - without)
        expected = kept.sqrt() * noised - (1 - kept).sqrt() * v
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_gradients_through_the_grids_encoder(grid_model):
    views = torch.rand(6, 3, 64, 64, generator=generator(6)).requires_grad_()
    latents = grid_prior(grid_model).model.encode(views)
    plain = grid_model.codec.encode_grid(grid_from_views(views.detach(), 3, 2))
    torch.testing.assert_close(latents.detach(), plain, atol=1e-6, rtol=0)
    towards = torch.randn(latents.shape, generator=generator(7))
    (gradient,) = torch.autograd.grad(latents, views, towards)
    step = torch.randn(views.shape, generator=generator(8)) * 1e-3
    with torch.no_grad():
        ends = [grid_model.codec.encode_grid(grid_from_views(views + sign * step, 3, 2)).double() for sign in (1, -1)]
    slope = float((towards * (ends[0] - ends[1])).sum() / 2)
    assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-3)


def test_the_mini_model_pulls_grey_views_towards_what_it_draws():
    """Its first guess keeps the share it has in its own pictures: without, only blobs come of it (12 dB)."""
    from lathe.pipelines.view_generation.sampling import generate_views
    from lathe.pipelines.weights import mini_models

    model, image = mini_models.load_views(), torch.ones(1, 3, 64, 64)
    image[:, :, 14:50, 24:40], image[:, :, 30:50, 14:50] = torch.tensor([0.8, 0.3, 0.1]).view(3, 1, 1), 0.3
    drawn = generate_views(model, image[0], seed=0, steps=8)
    prior = priors.ScoreDistillation(
        ViewGridDenoiser(model, image), prior_settings.stages_of("threestudio", "views"),
        required_cameras=preset_cameras(model.camera_preset),
    )  # fmt: skip
    shown, draws = torch.full((6, 3, 64, 64), 0.5, requires_grad=True), generator()
    adam = torch.optim.Adam([shown], lr=0.06)
    for step in range(24):
        told = prior.guide(shown.clamp(0, 1), prior.required_cameras, step / 24, draws)
        adam.zero_grad()
        (told.gradient * shown).sum().backward()
        adam.step()
    ends = (torch.full_like(drawn, 0.5), shown.detach().clamp(0, 1))
    errors = [-10 * math.log10(float((views - drawn).square().mean())) for views in ends]
    assert errors[1] > 15 and errors[1] > errors[0] + 5, errors
