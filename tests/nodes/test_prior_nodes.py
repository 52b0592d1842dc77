"""Priors from core's real classes, built small: against the networks called by hand, under core's memory management, and bad input."""

import logging
import math
from types import SimpleNamespace

import comfy.hooks
import comfy.model_management as mm
import comfy.model_sampling
import comfy.ops
import comfy.sample
import comfy.samplers
import pytest
import small_core
import torch
from lathe.nodes import priors as nodes
from lathe.nodes.core import denoisers
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.distillation import priors
from lathe.pipelines.distillation.prior_settings import SdsSettings

core, encoders = small_core.module("core"), small_core.module("encoders")
SETTINGS = SdsSettings(1.0, 3.0, (0.2, 0.6), (0.2, 0.6), "one_minus_alpha_bar")
VIEWS = posed_cameras([0.0, 90.0, 180.0], [0.0, 10.0, -10.0], 1.8, 40.0)
WIDGETS = {"preset": "threestudio", "strength": 1.0, "guidance": 3.0, "resolution": 64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditioning(seed: int = 4, tokens: int = 7, batch: int = 1):
    return [[torch.randn(batch, tokens, core.TOKEN, generator=generator(seed)), {}]]


@pytest.fixture(autouse=True)
def in_a_node():
    """Nodes run under inference mode: models and tensors of sockets are made there."""
    with torch.inference_mode():
        yield


def images(count: int = 3, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=generator(1))


def denoiser(family: str = "sd15", model=None, **options) -> denoisers.CoreDenoiser:
    return denoisers.CoreDenoiser(
        model or core.small_model(family), conditioning(4), conditioning(5), core.small_vae(), size=64, **options
    )  # fmt: skip


def guided(model, seed: int = 2, pictures=None) -> priors.Guidance:
    pictures = images() if pictures is None else pictures
    return priors.ScoreDistillation(model, {"coarse": SETTINGS}).guide(pictures, VIEWS, 0.0, generator(seed))


def by_hand(model, pictures: torch.Tensor, seed: int = 2) -> torch.Tensor:
    """d loss / d latents in float64, from the network itself and its betas: w(t) (eps_uncond + s (eps_cond - eps_uncond) - eps) / V."""
    net, count = model.model.model.diffusion_model, len(pictures)
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    draws = generator(seed)
    steps = (SETTINGS.draw_times(count, 0.0, draws) * 999).round().long()
    noise = torch.randn(count, 4, 8, 8, generator=draws).double()
    clean = 0.18215 * model.vae.encode(pictures.movedim(1, -1)).double()
    signal, level = (x.sqrt().view(-1, 1, 1, 1) for x in (kept[steps], 1 - kept[steps]))
    noised = signal * clean + level * noise
    net.double()
    answers = []
    for text in (model.positive, model.negative):
        tokens = text[0][0].double().expand(count, -1, -1)
        with torch.inference_mode():
            answers.append(net(noised, steps.double(), context=tokens).double())
    net.float()
    if isinstance(model.model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION):
        answers = [signal * v + level * noised for v in answers]
    eps = answers[1] + SETTINGS.guidance * (answers[0] - answers[1])
    return (level**2 * (eps - noise) / count).float()


@pytest.mark.parametrize("family", ["sd15", "v"])
def test_the_gradient_is_the_one_by_hand(family):
    """The one on the renders, against that on the latents by hand in float64 times the derivative of the VAE by finite differences."""
    model, pictures = denoiser(family), images()
    found = guided(model, pictures=pictures)
    towards = by_hand(model, pictures).double()
    step = 2e-4 * torch.randn(pictures.shape, generator=generator(3))
    ends = [0.18215 * model.vae.encode((pictures + sign * step).movedim(1, -1)).double() for sign in (1, -1)]
    slope = float((towards * (ends[0] - ends[1])).sum() / 2)
    assert float((found.gradient * step).sum()) == pytest.approx(slope, rel=2e-3)
    assert found.finite and found.loss > 0 and found.guess.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("family", ["sd15", "v"])
def test_the_gradient_on_the_latents_is_the_one_by_hand(family):
    """As above without the encoder, number by number."""
    model, pictures = denoiser(family), images()
    draws = generator(2)
    with torch.inference_mode(False), torch.no_grad():
        clean = model.encode(pictures.clone())
        times = SETTINGS.draw_times(3, 0.0, draws)
        noise = torch.randn(clean.shape, generator=draws)
        guess = model.denoised(clean, times, noise, VIEWS, SETTINGS.guidance)
        ratio = model.noise_ratio(times)
        found = priors.sds_gradient(clean, guess, ratio, priors.time_weight(SETTINGS.weighting, ratio)) / 3
    expected = by_hand(model, pictures)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_latents_are_what_the_vae_encodes():
    model, pictures = denoiser(), images()
    with torch.inference_mode(False):
        latents = model.encode(pictures.clone())
    torch.testing.assert_close(latents, 0.18215 * model.vae.encode(pictures.movedim(1, -1)), atol=1e-6, rtol=0)


def test_short_memory_encodes_view_by_view_to_the_same_gradient(monkeypatch):
    whole = guided(denoiser())
    monkeypatch.setattr(denoisers, "ROOM", 0.0)
    monkeypatch.setattr(denoisers, "views_at_once", lambda model, shape: 2)
    apart = guided(denoiser())
    torch.testing.assert_close(apart.gradient, whole.gradient, atol=1e-6 * float(whole.gradient.abs().max()), rtol=1e-3)


def test_a_flow_model_is_a_prior_too():
    model = denoiser("flow")
    times = torch.tensor([0.25, 0.5])
    sigmas = model.sigmas(times)
    torch.testing.assert_close(model.noise_ratio(times), sigmas / (1 - sigmas))
    assert guided(model).finite


def patched(model, strength: float = 1.0):
    """As a LoRA patches a MODEL."""
    model = model.clone()
    change = torch.randn(model.model.diffusion_model.out[2].weight.shape, generator=generator(3)) * 0.1
    assert model.add_patches({"diffusion_model.out.2.weight": ("diff", (change,))}, strength)
    return model


def test_a_patched_model_changes_the_gradient_and_leaves_the_weights():
    plain = core.small_model("sd15")
    before = {name: weight.clone() for name, weight in plain.model.state_dict().items()}
    first, other, again = guided(denoiser(model=plain)), guided(denoiser(model=patched(plain))), guided(denoiser(model=plain))
    assert float((first.gradient - other.gradient).abs().max()) > 0.01 * float(first.gradient.abs().max())
    assert torch.equal(first.gradient, again.gradient), "two clones of one model are switched without a trace"
    mm.unload_all_models()
    assert all(torch.equal(weight, before[name]) for name, weight in plain.model.state_dict().items())


def test_a_lora_hook_in_the_conditioning_acts_like_the_patch():
    model = core.small_model("sd15")
    change = torch.randn(model.model.diffusion_model.out[2].weight.shape, generator=generator(3)) * 0.1
    hooks = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.weights, hook.need_weight_init = {"diffusion_model.out.2.weight": ("diff", (change,))}, False
    hooks.add(hook)
    hooked = [comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in (conditioning(4), conditioning(5))]
    by_hook = guided(denoisers.CoreDenoiser(model, *hooked, core.small_vae(), size=64))
    by_patch = guided(denoiser(model=patched(model)))
    torch.testing.assert_close(by_hook.gradient, by_patch.gradient, atol=1e-6, rtol=1e-4)


def test_a_controlnet_in_the_conditioning_is_obeyed():
    """A hint changes the gradient; strength 0 is without."""
    import comfy.cldm.cldm
    import comfy.controlnet

    settings = {**core.unet_settings({}, False), "hint_channels": 3, "device": "cpu"}
    settings = {name: value for name, value in settings.items() if name not in ("out_channels", "transformer_depth_output")}
    net = core.filled(comfy.cldm.cldm.ControlNet(**settings, operations=comfy.ops.disable_weight_init), seed=8)
    control = comfy.controlnet.ControlNet(net, load_device=mm.get_torch_device())
    hint = torch.rand(1, 3, 64, 64, generator=generator(5))

    def controlled(strength: float) -> torch.Tensor:
        texts = []
        for text in (conditioning(4), conditioning(5)):
            own = control.copy().set_cond_hint(hint, strength, (0.0, 1.0))
            texts.append([[text[0][0], {"control": own, "control_apply_to_uncond": False}]])
        return guided(denoisers.CoreDenoiser(core.small_model("sd15"), *texts, core.small_vae(), size=64)).gradient

    plain = guided(denoiser()).gradient
    assert float((controlled(1.0) - plain).abs().max()) > 1e-3 * float(plain.abs().max())
    torch.testing.assert_close(controlled(0.0), plain, atol=1e-6 * float(plain.abs().max()), rtol=1e-3)


def test_unloading_between_steps_changes_nothing():
    def run(unload: bool) -> list[torch.Tensor]:
        one, other = denoiser("sd15", patched(core.small_model("sd15"))), denoiser("v")
        both = priors.combine([(priors.ScoreDistillation(model, {"coarse": SETTINGS}), 1.0) for model in (one, other)])
        draws, out = generator(6), []
        for step in range(3):
            out.append(both.guide(images(), VIEWS, step / 3, draws).gradient)
            if unload:
                mm.unload_all_models()
        return out

    assert all(torch.equal(kept, moved) for kept, moved in zip(run(False), run(True), strict=True))


def test_a_render_follows_the_gradient_in_a_loop():
    """Outside inference mode, as the loops run: Adam on a picture lowers the prior's loss for fixed noise."""
    prior = priors.ScoreDistillation(denoiser(), {"coarse": SETTINGS})
    with torch.inference_mode(False), torch.enable_grad():
        shown = images().clone().requires_grad_()
        adam, losses = torch.optim.Adam([shown], lr=0.02), []
        for _ in range(6):
            told = prior.guide(shown.clamp(0, 1), VIEWS, 0.0, generator(2))
            losses.append(told.loss)
            adam.zero_grad()
            (told.gradient * shown).sum().backward()
            adam.step()
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.995 * losses[0], losses


# ---- prompts by view -------------------------------------------------------------------------------------------------


def test_words_of_views():
    views = posed_cameras([0, 44, 46, 134, 136, 180, -46, -136, 10], [0, 0, 0, 59, 0, 0, 0, 0, 61], 2.0, 40.0)
    assert denoisers.view_words(views) == ["front", "front", "side", "side", "back", "back", "side", "back", "overhead"]


def test_each_view_is_asked_with_its_prompt():
    texts = {"front": conditioning(10), "side": conditioning(11), "back": None}
    both, model, vae = denoiser(by_word=texts), core.small_model("sd15"), core.small_vae()
    with torch.inference_mode(False):
        latents, times, noise = torch.randn(3, 4, 8, 8), torch.full((3,), 0.5), torch.randn(3, 4, 8, 8)
        found = both.denoised(latents, times, noise, VIEWS, 3.0)
        for view, text in enumerate((texts["front"], texts["side"], conditioning(4))):
            alone = denoisers.CoreDenoiser(model, text, conditioning(5), vae, size=64)
            one = slice(view, view + 1)
            expected = alone.denoised(latents[one], times[one], noise[one], VIEWS.select([view]), 3.0)
            torch.testing.assert_close(found[one], expected, atol=1e-4, rtol=1e-4)


# ---- Zero123 ---------------------------------------------------------------------------------------------------------


def zero123(**options) -> denoisers.Zero123Denoiser:
    picture = torch.rand(1, 3, 80, 80, generator=generator(7))
    return denoisers.Zero123Denoiser(
        core.small_model("zero123"), encoders.small_clip_vision(), core.small_vae(), picture, size=64, **options
    )  # fmt: skip


def test_poses_are_the_cameras():
    views = posed_cameras([0.0, 30.0, -90.0], [10.0, 40.0, -20.0], 2.5, 40.0)
    stable, old = (zero123(elevation=10.0, radius=1.8, fourth=kind).pose(views) for kind in (denoisers.STABLE, denoisers.ZERO123))
    rad = math.radians
    expected = torch.tensor([[0, 0, 1, rad(80)], [rad(-30), 0.5, math.sqrt(0.75), rad(80)], [rad(30), -1, 0, rad(80)]], dtype=torch.float64)
    torch.testing.assert_close(stable, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(old[:, :3], expected[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(old[:, 3], torch.full((3,), 0.7, dtype=torch.float64), atol=1e-5, rtol=0)


def test_zero123_is_asked_as_core_asks_it():
    """Conditioning as core's own node writes it for elevation 20 and azimuth 35, sampled by core in one step from the same noise."""
    model, views = zero123(), posed_cameras([35.0], [20.0], 1.8, 40.0)
    picture = torch.rand(1, 3, 80, 80, generator=generator(7)).movedim(1, -1)
    pooled = encoders.small_clip_vision().encode_image(picture).image_embeds.unsqueeze(0)
    pose = torch.tensor([[[math.radians((90 - 20) - 90), math.sin(math.radians(35)), math.cos(math.radians(35)), math.radians(90)]]])
    seen = model.latents
    positive = [[torch.cat([pooled, pose], dim=-1), {"concat_latent_image": seen}]]
    negative = [[torch.zeros_like(pooled), {"concat_latent_image": torch.zeros_like(seen)}]]
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator(seed)) for seed in (8, 9))
    sigmas = torch.cat([model.sigmas(torch.tensor([0.4])), torch.zeros(1)])
    euler = comfy.samplers.sampler_object("euler")
    expected = comfy.sample.sample_custom(
        model.model, noise, 5.0, euler, sigmas, positive, negative, clean / 0.18215, disable_pbar=True, seed=0
    )  # fmt: skip
    with torch.inference_mode(False):
        found = model.denoised(clean.clone(), torch.tensor([0.4]), noise.clone(), views, 5.0)
    torch.testing.assert_close(found / 0.18215, expected.clone(), atol=1e-4, rtol=1e-4)
    small = torch.nn.functional.interpolate(picture.movedim(-1, 1), (64, 64), mode="bilinear", antialias=True).movedim(1, -1)
    torch.testing.assert_close(seen, model.vae.encode(small), atol=1e-5, rtol=0)  # unscaled


def test_zero123_guides_and_knows_left_from_right():
    model = zero123()
    assert guided(model).finite
    with torch.inference_mode(False):
        latents, noise = (torch.randn(1, 4, 8, 8, generator=generator(seed)).expand(2, -1, -1, -1) for seed in (8, 9))
        times = torch.full((2,), 0.4)
        sides = model.denoised(latents, times, noise, posed_cameras([90.0, -90.0], [0.0, 0.0], 1.8, 40.0), 5.0)
        one = model.denoised(latents[:1], times[:1], noise[:1], posed_cameras([-90.0], [0.0], 1.8, 40.0), 5.0)
    assert float((sides[0] - sides[1]).abs().max()) > 1e-3
    torch.testing.assert_close(sides[1:], one, atol=1e-4, rtol=1e-4)


# ---- the nodes -------------------------------------------------------------------------------------------------------


def from_model(model=None, vae=None, **changes):
    return nodes.LathePriorFromModel.execute(
        model or core.small_model("sd15"), conditioning(4), conditioning(5), vae or core.small_vae(), **{**WIDGETS, **changes}
    ).result[0]


def test_nodes_make_priors_with_stages():
    one = from_model(front=conditioning(8), strength=2.0, preset="paper", guidance=0.0)
    assert one.settings.weight == 2 and one.settings.guidance == 100 and priors.at_stage(one, "fine").settings.weight == 0.002
    picture, mask = torch.rand(1, 40, 40, 3), torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    three = nodes.LathePriorFromZero123.execute(
        core.small_model("zero123"), encoders.small_clip_vision(), core.small_vae(), picture, nodes.ZERO123, 5.0, 2.0, mask=mask, **WIDGETS
    ).result[0]
    assert three.elevation == 5 and three.model.fourth == denoisers.ZERO123 and three.settings.guidance == 3
    both = nodes.LatheCombinePriors.execute(one, three, 0.25).result[0]
    assert [weight for _, weight in both.parts] == [0.5, 1.0]
    told = both.guide(images(), VIEWS, 0.0, generator())
    assert told.finite and told.gradient.shape == (3, 3, 64, 64)


def test_the_picture_is_laid_on_white():
    picture, mask = torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="mask is empty"):
        nodes.one_picture(picture, mask)
    mask[0, 1, 2] = 1
    laid = nodes.on_white(*nodes.one_picture(picture, mask))
    assert float(laid[0, :, 1, 2].max()) == 0 and float(laid.sum()) == 3 * 15
    with pytest.raises(ValueError, match="one reference picture, not 2"):
        nodes.one_picture(torch.zeros(2, 4, 4, 3), None)
    with pytest.raises(ValueError, match="mask's shape"):
        nodes.one_picture(picture, torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match="must be square.*6 x 4"):
        nodes.one_picture(torch.zeros(1, 4, 6, 3), None, square=True)


def test_a_view_model_becomes_a_prior():
    from lathe.nodes.view_generation import LoadedViewModel
    from lathe.pipelines.weights import mini_models

    mini, picture = LoadedViewModel(mini_models.load_views), torch.ones(1, 64, 64, 3)
    with pytest.raises(ValueError, match="Wire a mask"):
        nodes.LathePriorFromViewModel.execute(mini, torch.rand(1, 64, 64, 3), "threestudio", 1.0, 0.0, 0)
    picture[:, 16:48, 20:44] = torch.tensor([0.8, 0.2, 0.1])
    prior = nodes.LathePriorFromViewModel.execute(mini, picture, "threestudio", 1.0, 0.0, 0).result[0]
    views = priors.required_cameras(prior)
    assert views.n_views == 6 and prior.settings.guidance is None
    pictures = torch.rand(6, 3, 64, 64, generator=generator(1))
    first = prior.guide(pictures, views, 0.3, generator(2))
    mm.unload_all_models()
    again = prior.guide(pictures, views, 0.3, generator(2))
    assert first.finite and float(first.gradient.abs().max()) > 0 and torch.equal(first.gradient, again.gradient)
    assert first.guess.shape[0] == 6


# ---- bad input -------------------------------------------------------------------------------------------------------


def fake(**changes):
    """A MODEL of another kind of latents."""
    model = core.small_model("sd15").clone()
    model.add_object_patch("latent_format", SimpleNamespace(latent_channels=4, **changes))
    return model


@pytest.mark.parametrize(("make", "words"), [
    (lambda: from_model(core.small_model("svd")), "SVD_img2vid.*denoises films"),
    (lambda: from_model(fake(latent_dimensions=1)), "not image diffusion: its latents are sound or shapes"),
    (lambda: from_model(fake(latent_dimensions=3)), "denoises films"),
    (lambda: from_model(vae=SimpleNamespace(latent_dim=3)), "VAE does not encode single pictures"),
    (lambda: zero123(fourth="radius"), "fourth pose value"),
    (lambda: denoisers.Zero123Denoiser(core.small_model("sd15"), None, core.small_vae(), torch.rand(1, 3, 8, 8)), "not told a pose"),
])  # fmt: skip
def test_models_of_another_kind_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_vae_of_another_model_and_renders_out_of_proportion_are_refused():
    model = core.small_model("sd15").clone()
    own = model.get_model_object("latent_format")
    model.add_object_patch("latent_format", SimpleNamespace(latent_channels=16, process_in=own.process_in))
    with pytest.raises(ValueError, match="4, 8, 8.*16 channels"):
        guided(denoiser(model=model))
    with pytest.raises(ValueError, match="96x64 pixels do not fit this prior"):
        guided(denoiser(), pictures=torch.rand(3, 3, 64, 96))
    with pytest.raises(ValueError, match="5 frames"):
        guided(denoisers.CoreDenoiser(core.small_model("sd15"), conditioning(4, batch=5), conditioning(5), core.small_vae(), size=64))


def test_numbers_that_are_none_are_told_and_memory_that_runs_out_is_an_error(monkeypatch, caplog):
    model = patched(core.small_model("sd15"), float("nan"))
    with caplog.at_level(logging.WARNING):
        assert not guided(denoiser(model=model)).finite
    mm.unload_all_models()
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("out")))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        guided(denoiser())
