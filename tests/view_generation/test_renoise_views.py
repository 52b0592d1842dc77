"""Views noised to a level and denoised again: from nearly nothing to pure noise, the same for the same seed, errors in plain words."""

import dataclasses

import pytest
import torch
from data.tiny_view_model import picture, view_model
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.nets.reference_attention import ReferenceUNet
from lathe.pipelines.view_generation import model as vm
from lathe.pipelines.view_generation import sampling as vd
from lathe.pipelines.weights import mini_models


@pytest.fixture(scope="module")
def model():
    return view_model()


@pytest.fixture(scope="module")
def mini():
    return mini_models.load_views()


def views(count: int = 6, size: int = 64) -> torch.Tensor:
    """Smooth pictures, each of its own colour."""
    axis = torch.linspace(0, 1, size)
    ramp = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size), torch.full((size, size), 0.5)])
    return torch.stack([(ramp * 0.8 + 0.2 * i / max(count - 1, 1)).clamp(0, 1) for i in range(count)])


def masks(count: int = 6, size: int = 64) -> torch.Tensor:
    out = torch.zeros(count, 1, size, size)
    out[:, :, size // 4 : -size // 4, size // 4 : -size // 4] = 1
    return out


def renoised(model, level, given=None, seed=0, **settings):
    """What leaves the denoiser, unless a test says otherwise."""
    given = views() if given is None else given
    outline = masks(len(given), given.shape[-1])
    return vd.renoise_views(model, given, outline, picture(), level=level, seed=seed, **{"share": 0, **settings})


# ---- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", vm.SAMPLERS)
@pytest.mark.parametrize(("level", "steps", "first", "count"), [
    (1.0, 10, 999, 10), (0.4, 10, 399, 10), (0.005, 10, 4, 5), (0.0004, 10, 0, 1), (0.3, 1, 299, 1),
])  # fmt: skip
def test_a_level_starts_the_schedule_part_of_the_way(sampler, level, steps, first, count):
    scheduler = vm.NoiseSchedule().scheduler(sampler, steps, level)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps[0] == first and len(timesteps) == count and len(scheduler.sigmas) == count + 1
    assert timesteps == sorted(set(timesteps), reverse=True) and scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("level", [0.0, -0.1, 1.1, float("nan")])
def test_a_level_outside_is_refused(level):
    with pytest.raises(ValueError, match="noise level"):
        vm.NoiseSchedule().scheduler("dpmpp_2m", 10, level)


# ---- the codec -------------------------------------------------------------------------------------------------------


def test_the_mini_codec_encodes_a_grid_it_has_decoded(mini):
    latents = torch.randn(1, mini.codec.channels, 24, 16, generator=torch.Generator().manual_seed(0)) * 0.05
    grid = mini.codec.decode_grid(latents)
    assert grid.shape == (1, 3, 192, 128)
    inside = (grid > 0) & (grid < 1)  # clamped pixels are lost
    again = mini.codec.decode_grid(mini.codec.encode_grid(grid))
    assert float((again - grid)[inside].abs().max()) < 0.05 and float((again - grid)[inside].abs().mean()) < 1e-3


# ---- levels ----------------------------------------------------------------------------------------------------------


def test_towards_level_0_the_codecs_reconstruction_comes_back(mini):
    given = views()
    with torch.no_grad():
        grid = mini.codec.decode_grid(mini.codec.encode_grid(vm.grid_from_views(given, 3, 2)))
    reconstruction = vm.views_from_grid(grid, 3, 2)
    errors = [float((renoised(mini, level) - reconstruction).abs().mean()) for level in (0.001, 0.3, 0.9)]
    assert errors[0] < 0.01 and errors[0] < errors[1] < errors[2]


def test_an_oracle_gives_its_own_picture_from_any_level(model, monkeypatch):
    """A network that always names one clean picture: what comes out is that picture, not the given views."""
    clean = torch.full((1, 4, 24, 16), 0.3)
    kept = model.schedule.scheduler("dpmpp_2m", 1).alphas_cumprod

    def oracle(self, sample, t, tokens, reference):
        a = kept[int(t)]
        noise = (sample - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    monkeypatch.setattr(ReferenceUNet, "forward", oracle)
    with torch.no_grad():
        model.codec.encode_reference(picture()[None], torch.Generator().manual_seed(0))
        wanted = vm.views_from_grid(model.codec.decode_grid(clean), 3, 2)
    for level in (0.2, 1.0):
        for sampler in vm.SAMPLERS:
            assert float((renoised(model, level, sampler=sampler) - wanted).abs().max()) < 1e-3


def test_level_1_is_generation_but_for_what_the_last_timestep_keeps(model):
    """At the last timestep the schedule keeps 4 % of the picture: from grey views the start is that of `generate_views`, nearly."""
    new = vd.generate_views(model, picture(), seed=5, steps=4, sampler="dpmpp_2m")
    start = vm.views_from_grid(model.codec.decode_grid(torch.zeros(1, 4, 24, 16)), 3, 2).detach()
    again = renoised(model, 1.0, start, seed=5, steps=4, guidance=None)
    low = renoised(model, 0.2, start, seed=5, steps=4)
    assert float((again - new).abs().mean()) < 0.1 * float((low - new).abs().mean())


def test_a_higher_level_moves_the_views_farther(mini):
    moved = [float((renoised(mini, level) - views()).abs().mean()) for level in (0.1, 0.4, 0.8)]
    assert moved[0] < moved[1] < moved[2]


# ---- the rest of the contract ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_views_and_inputs_stay(model):
    given, outline, state = views(), masks(), torch.get_rng_state()
    kept = given.clone(), outline.clone()
    once = vd.renoise_views(model, given, outline, picture(), level=0.5, seed=3, steps=3)
    again = vd.renoise_views(model, given, outline, picture(), level=0.5, seed=3, steps=3)
    other = vd.renoise_views(model, given, outline, picture(), level=0.5, seed=4, steps=3)
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(given, kept[0]) and torch.equal(outline, kept[1]) and torch.equal(torch.get_rng_state(), state)


def test_a_batch_equals_single_runs(model):
    given, pictures = torch.cat([views(), views().flip(-1)]), torch.stack([picture(), picture().flip(-1)])
    both = vd.renoise_views(model, given, masks(12), pictures, level=0.5, seed=3, steps=2)
    second = vd.renoise_views(model, given[6:], masks(), pictures[1], level=0.5, seed=4, steps=2)
    assert torch.equal(both[6:], second)


def test_views_of_another_size_come_back_at_theirs(mini):
    assert renoised(mini, 0.3, views(size=96), steps=2).shape == (6, 3, 96, 96)


def test_the_guide_of_the_given_views_is_their_latents_and_coverage(mini):
    channels, guess = mini.guide.of_views(views(), masks())
    assert torch.equal(guess, vm.grid_from_views(views(), 3, 2))
    assert torch.equal(channels[:, :-1], mini.codec.encode_grid(guess))
    assert channels.shape == (1, mini.codec.channels + 1, 24, 16) and set(channels[:, -1].unique().tolist()) == {0.0, 1.0}


def test_the_share_of_the_given_views_is_the_models_and_can_be_said(mini, model):
    alone = renoised(mini, 0.3, steps=2)
    assert mini.guide_share == 0.5 and model.guide_share == 0
    assert torch.allclose(renoised(mini, 0.3, steps=2, share=None), (alone + views()) / 2, atol=1e-6)
    assert torch.equal(renoised(mini, 0.3, steps=2, share=1), views())
    assert torch.equal(renoised(model, 0.3, steps=2, share=None), renoised(model, 0.3, steps=2))


def test_progress_counts_the_steps_that_are_made(model):
    seen = []
    renoised(model, 0.005, steps=10, tick=lambda step, total, preview=None: seen.append((step, total)))
    assert seen == [(i + 1, 5) for i in range(5)]


@pytest.mark.parametrize(("change", "words"), [
    ({"views": views(5), "masks": masks(5)}, "6 views"),
    ({"views": views(7), "masks": masks(7)}, "6 views"),
    ({"masks": masks(6, 32)}, "do not fit"),
    ({"views": views() * float("nan")}, "finite"),
    ({"level": 0.0}, "noise level"),
    ({"steps": 0}, "1 to 1000"),
    ({"share": 1.5}, "share"),
    ({"guidance": -1.0}, "Guidance"),
    ({"image": torch.zeros(3, 8)}, "shape"),
])  # fmt: skip
def test_bad_input_is_said_before_any_network_runs(model, change, words):
    def use(name):
        raise AssertionError("a network was asked for")

    arguments = {"views": views(), "masks": masks(), "image": picture(), "level": 0.5, "seed": 0, "use": use} | change
    with pytest.raises(ValueError, match=words):
        vd.renoise_views(model, arguments.pop("views"), arguments.pop("masks"), arguments.pop("image"), **arguments)


def test_each_network_is_asked_for_and_the_guides_own_is_not(mini):
    asked = []
    renoised(mini, 0.2, steps=1, use=lambda name: asked.append(name) or vd.in_place(name))
    assert asked == ["query_encoder", "codec", "codec", "codec", "unet", "codec"] and "relief" in mini.modules()


def test_how_far_cameras_stand_from_where_they_should():
    preset = preset_cameras("sv3d_p_core", elevation=20)
    assert vm.turned_apart(preset, [18.0 * i for i in range(21)], [20.0] * 21) < 1e-4
    assert vm.turned_apart(preset_cameras("sv3d_p_core", input_azimuth=77), [18.0 * i for i in range(21)]) < 1e-4
    assert vm.turned_apart(preset, [18.0 * i for i in range(21)], [0.0] * 21) == pytest.approx(20, abs=1e-4)
    assert vm.turned_apart(orbit_cameras(4), [0.0, -90.0, -180.0, -270.0]) == pytest.approx(180, abs=1e-4)


def test_models_without_a_guide_take_views_as_well(model):
    assert model.guide is None
    assert renoised(dataclasses.replace(model, guidance=1.0), 0.4, steps=1).shape == (6, 3, 64, 64)
