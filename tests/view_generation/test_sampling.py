"""View diffusion: every stage of the published pipeline's run, the sampling loop, and what a user may get wrong."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from data.seeded_weights import seed_module_
from data.tiny_view_model import GOLDEN, error, picture, view_model
from lathe.pipelines.nets import zero123plus as parts
from lathe.pipelines.nets.reference_attention import ReferenceUNet
from lathe.pipelines.view_generation import model as vm
from lathe.pipelines.view_generation import sampling as vd


@pytest.fixture(scope="module")
def model():
    return view_model()


# ---- stage by stage --------------------------------------------------------------------------------------------------


def test_pixel_values_are_the_published_ones_to_one_grey_level(model):
    assert error(model.codec.pixel_values(picture()[None]), "pixel_values_vae") <= 0.0098
    assert error(model.conditioner.pixel_values(picture()[None]), "pixel_values_clip") <= 0.0151


def test_preprocessing_takes_the_centre_of_a_wide_picture():
    wide = torch.zeros(1, 3, 40, 100)
    wide[..., 30:70] = 1
    assert (parts.resize_and_crop(wide, 20, "bilinear")[..., 2:-2] == 1).all()
    assert parts.resize_and_crop(torch.rand(1, 3, 1, 1), 16, "bicubic").shape == (1, 3, 16, 16)


def test_autoencoder_moments(model):
    with torch.no_grad():
        assert error(model.codec.moments(GOLDEN["pixel_values_vae"]), "vae_moments") < 2e-5
        assert error(model.codec.moments(torch.zeros(1, 3, 64, 64)), "vae_moments_neg") < 2e-5


def test_reference_latents_are_raw_samples_in_the_published_draw_order(model):
    generator = torch.Generator().manual_seed(123)
    with torch.no_grad():
        given = model.codec._sample(GOLDEN["pixel_values_vae"], generator)
        without = model.codec.encode_no_reference(picture()[None], generator)
    assert error(torch.cat([without, given]), "unet0_cond_lat") < 2e-5


def test_picture_embedding_and_prompt_tokens(model):
    assert model.conditioner.ramp.shape == (77,)
    assert error(model.conditioner.ramp, "ramping_coefficients") == 0
    assert error(model.conditioner.empty_prompt, "text_embeds") < 2e-5
    with torch.no_grad():
        embedding = model.conditioner.embed(GOLDEN["pixel_values_clip"])
    assert error(embedding, "image_embeds") < 2e-5
    tokens = model.conditioner.empty_prompt + embedding[:, None] * model.conditioner.ramp[:, None]
    assert error(tokens, "prompt_embeds_cond") < 2e-5
    with torch.no_grad():
        # From the picture itself: one grey level of preprocessing lies between.
        assert error(model.conditioner.tokens(picture()[None]), "prompt_embeds_cond") < 0.1


@pytest.mark.parametrize(("steps", "prefix"), [(4, ""), (28, "sched28_"), (75, "sched75_")])
def test_timesteps_and_sigmas(steps, prefix):
    scheduler = vm.NoiseSchedule().scheduler("euler_ancestral", steps)
    assert error(scheduler.timesteps, f"{prefix}timesteps") == 0
    assert error(scheduler.sigmas, f"{prefix}sigmas") < 1e-5
    if steps == 4:
        assert float(scheduler.init_noise_sigma) == pytest.approx(float(GOLDEN["init_noise_sigma"]), rel=1e-6)


@pytest.mark.parametrize("sampler", vm.SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 27, 61, 103, 121, 244, 1000])
def test_any_number_of_steps_starts_at_the_noisiest_timestep_and_ends_above_zero(sampler, steps):
    scheduler = vm.NoiseSchedule().scheduler(sampler, steps)
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == steps and len(scheduler.sigmas) == steps + 1
    assert timesteps[0] == 999 and timesteps[-1] >= 0 and timesteps == sorted(set(timesteps), reverse=True)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("name", ["scale_latents", "unscale_latents", "scale_image", "unscale_image"])
def test_scales(name):
    assert error(getattr(parts, name)(GOLDEN["scale_in"]), name) < 1e-6


@pytest.fixture()
def given_pixels(model, monkeypatch):
    """The published run's own preprocessed pictures: the libraries' preprocessing differs by a grey level between versions."""
    monkeypatch.setattr(model.codec, "pixel_values", lambda image: GOLDEN["pixel_values_vae"])
    monkeypatch.setattr(model.conditioner, "pixel_values", lambda image: GOLDEN["pixel_values_clip"])


def test_every_call_of_the_denoiser_and_the_latents_after_each_step(model, given_pixels, monkeypatch):
    calls, latents_after, forward = [], [], ReferenceUNet.forward

    def recorded(self, sample, t, tokens, reference):
        calls.append((sample, t, tokens, reference, forward(self, sample, t, tokens, reference)))
        return calls[-1][-1]

    monkeypatch.setattr(ReferenceUNet, "forward", recorded)
    generator = torch.Generator().manual_seed(123)
    with torch.no_grad():
        (condition,) = vd.encode(model, picture()[None], [generator], guided=True)
        final = vd.denoise(model, condition, generator, steps=4, guidance=4.0)
    for i, (sample, t, tokens, reference, out) in enumerate(calls):
        sigma = GOLDEN["sigmas"][i]
        noised = (GOLDEN[f"unet{i}_cond_lat"] + sigma * GOLDEN[f"draw{3 + 2 * i:02d}"]) / (sigma**2 + 1) ** 0.5
        assert float(t) == float(GOLDEN[f"unet{i}_t"])
        assert error(tokens, f"unet{i}_ehs") < 2e-5
        assert (reference - noised).abs().max() < 2e-5
        assert error(sample, f"unet{i}_sample") < 1e-4
        assert error(out, f"unet{i}_out") < 1e-4
        latents_after.append(sample * (sigma**2 + 1) ** 0.5)
    for i in range(3):
        assert error(latents_after[i + 1][:1], f"latents_after_step{i}") < 1e-4 * float(GOLDEN["sigmas"][i + 1] + 1)
    assert error(final, "latents_after_step3") < 1e-4
    assert error(parts.unscale_latents(final), "latents_unscaled_before_postprocess") < 2e-4


def test_decoding(model):
    with torch.no_grad():
        raw = model.codec.decode_raw(GOLDEN["latents_after_step3"])
        assert error(raw, "decoded_raw") < 3e-4
        assert error(parts.unscale_image(raw), "decoded_unscaled") < 3e-4
        assert error(model.codec.decode_grid(GOLDEN["latents_after_step3"]), "final_image01") < 3e-4


def test_the_whole_run(model, given_pixels):
    views = vd.generate_views(model, picture(), seed=123)
    assert views.shape == (6, 3, 64, 64)
    assert error(vm.grid_from_views(views, 3, 2), "final_image01") < 3e-4


def test_the_whole_run_from_the_picture_itself_stays_close(model):
    views = vd.generate_views(model, picture(), seed=123)
    assert error(vm.grid_from_views(views, 3, 2), "final_image01") < 0.05


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_a_batch_equals_single_runs_and_each_network_is_asked_for_once(model):
    entered, inside = [], []

    @contextmanager
    def use(name):
        entered.append(name)
        inside.append(name)
        yield
        inside.remove(name)

    other = picture().flip(-1)
    batch = vd.generate_views(model, torch.stack([picture(), other]), seed=7, steps=2, use=use)
    assert entered == ["vision_encoder", "vae", "unet", "vae"] and not inside
    assert set(entered) == set(model.modules())
    assert torch.equal(batch[:6], vd.generate_views(model, picture(), seed=7, steps=2))
    assert torch.equal(batch[6:], vd.generate_views(model, other, seed=8, steps=2))
    assert not torch.equal(batch[:6], vd.generate_views(model, picture(), seed=8, steps=2))


def test_inputs_and_the_global_random_state_stay_as_they_were(model):
    image, mask = picture(), torch.ones(80, 80)
    before, state = image.clone(), torch.get_rng_state()
    vd.generate_views(model, image, mask, seed=0, steps=1)
    assert torch.equal(image, before) and torch.equal(torch.get_rng_state(), state)


def test_progress_has_a_picture_each_step_and_cancel_passes_through(model):
    seen = []

    def tick(step, total, preview=None):
        seen.append((step, total))
        if step:
            assert preview.shape == (24, 16, 3) and 0 <= preview.min() and preview.max() <= 1
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vd.generate_views(model, torch.stack([picture()] * 2), seed=0, steps=2, tick=tick)
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_the_preview_matches_what_the_decoder_makes_of_flat_latents(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.codec.encode_reference(picture()[None], generator)
        flat = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
        decoded = model.codec.decode_grid(flat).mean((2, 3))
    assert (model.codec.preview(flat)[0, 0] - decoded[0]).abs().max() < 0.1


def test_the_mask_lays_the_picture_on_the_models_background(model):
    mask = torch.zeros(80, 80)
    mask[20:60, 20:60] = 1
    grey = dataclasses.replace(model, background=(0.25, 0.5, 0.75))
    laid = picture() * mask + torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1) * (1 - mask)
    assert torch.equal(vd.generate_views(grey, picture(), mask, seed=0, steps=1), vd.generate_views(grey, laid, seed=0, steps=1))


def test_a_picture_on_the_models_background_is_left_as_it_is(model):
    soft = torch.linspace(0, 1, 80).expand(80, 80).clone()
    soft[:, :5] = 0
    laid = picture() * soft + (1 - soft)
    assert torch.equal(vd._checked_pictures(laid, soft, (1.0, 1.0, 1.0))[0][0], laid)
    both, _ = vd._checked_pictures(torch.stack([laid, picture()]), torch.stack([soft, soft])[:, None], (1.0, 1.0, 1.0))
    assert torch.equal(both[0], laid) and torch.allclose(both[1], laid)


def test_guidance_one_skips_the_unguided_half(model, monkeypatch):
    batches, forward = [], ReferenceUNet.forward
    monkeypatch.setattr(ReferenceUNet, "forward", lambda self, x, *rest: batches.append(len(x)) or forward(self, x, *rest))
    vd.generate_views(model, picture(), seed=0, steps=2, guidance=1)
    assert batches == [1, 1]


def test_both_samplers_denoise_a_perfect_network_to_its_picture(model):
    """A network that always names one clean picture: any sampler must end at it."""
    clean = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 4, 24, 16))).float()
    kept = model.schedule.scheduler("euler_ancestral", 1).alphas_cumprod

    def oracle(self, sample, t, tokens, reference):
        a = kept[int(t)]
        noise = (sample - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    condition = vd.Condition(torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 32))
    for sampler in vm.SAMPLERS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReferenceUNet, "forward", oracle)
            patch.setattr(model.codec, "_preview", torch.zeros(5, 3))
            out = vd.denoise(model, condition, torch.Generator().manual_seed(0), steps=61, guidance=1.0, sampler=sampler)
        assert (out - clean).abs().max() < 1e-3, sampler


class PixelCodec:
    """The smallest codec there is: latents are pictures, a quarter of the size."""

    channels, factor = 3, 4

    def modules(self):
        return {}

    def encode_reference(self, image, generator):
        return torch.nn.functional.avg_pool2d(image * 2 - 1, 4)

    def encode_no_reference(self, image, generator):
        return torch.zeros_like(self.encode_reference(image, generator))

    def decode_grid(self, latents):
        return torch.nn.functional.interpolate(latents / 2 + 0.5, scale_factor=4).clamp(0, 1)

    def preview(self, latents):
        return self.decode_grid(latents)[0].permute(1, 2, 0)

    def activation_bytes(self, height, width):
        return {}


class MeanColor:
    """The smallest conditioner: one token that holds the picture's mean colour."""

    def modules(self):
        return {}

    def tokens(self, image):
        return image.mean((2, 3))[:, None].repeat(1, 1, 8)[..., :16]

    def no_tokens(self, image):
        return torch.zeros(1, 1, 16)

    def activation_bytes(self):
        return {}


def test_the_same_loop_serves_another_codec_conditioner_grid_and_clean_reference():
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        in_channels=3, out_channels=3, block_out_channels=(16, 16), norm_num_groups=8, cross_attention_dim=16, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1,
    )  # fmt: skip
    seed_module_(unet, prefix="mini.")
    small = vm.ViewModel(unet, PixelCodec(), MeanColor(), "none", rows=1, columns=4, view_size=32, reference_is_noised=False, steps=2)
    views = vd.generate_views(small, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), seed=0)
    assert views.shape == (4, 3, 32, 32) and torch.isfinite(views).all() and views.std() > 0
    assert set(small.modules()) == {"unet"}


def test_views_and_grid_are_inverses_row_by_row():
    views = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 4, 5)
    grid = vm.grid_from_views(views, 3, 2)
    assert grid.shape == (1, 3, 12, 10)
    assert grid[0, 0, ::4, ::5].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(vm.views_from_grid(grid, 3, 2), views)


@pytest.mark.parametrize(("change", "words"), [
    ({"image": torch.zeros(1, 8, 8)}, "shape"),
    ({"image": torch.full((3, 8, 8), float("nan"))}, "finite"),
    ({"image": torch.full((3, 8, 8), 255.0)}, r"\[0, 1\]"),
    ({"mask": torch.ones(4, 4)}, "does not fit"),
    ({"sampler": "magic"}, "euler_ancestral"),
    ({"steps": 0}, "1 to 1000"),
    ({"guidance": -1.0}, "Guidance"),
])  # fmt: skip
def test_bad_input_is_said_before_any_network_runs(model, change, words):
    def use(name):
        raise AssertionError("a network was asked for")

    arguments = {"image": picture(), "mask": None, "seed": 0, "use": use} | change
    with pytest.raises(ValueError, match=words):
        vd.generate_views(model, arguments.pop("image"), arguments.pop("mask"), **arguments)


def test_memory_estimate_grows_with_the_grid(model):
    need, large = vm.memory_required(model), vm.memory_required(dataclasses.replace(model, view_size=128))
    assert set(need) == set(model.modules())
    assert large["unet"] == 4 * need["unet"] and large["vae"] == 4 * need["vae"] > 0
