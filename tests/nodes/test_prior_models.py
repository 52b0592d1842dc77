"""Transformers of core as priors: models whose latents have an axis for frames, and models with their guidance built in."""

import logging

import comfy.sample
import comfy.samplers
import pytest
import small_core
import torch
from lathe.nodes import priors as nodes
from lathe.nodes.core import denoisers, image_models
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.distillation import priors
from lathe.pipelines.distillation.prior_settings import SdsSettings

core, made = small_core.module("core"), small_core.module("image_transformers")
SETTINGS = SdsSettings(1.0, 3.0, (0.2, 0.6), (0.2, 0.6), "one_minus_alpha_bar")
VIEWS = posed_cameras([0.0, 90.0, 180.0], [0.0, 10.0, -10.0], 1.8, 40.0)
WIDGETS = {"preset": "threestudio", "strength": 1.0, "resolution": 64}
VAES = {"flux": made.small_flux_vae, "schnell": made.small_flux_vae}


@pytest.fixture(autouse=True)
def in_a_node():
    with torch.inference_mode():
        yield


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditioning(seed: int, width: int = core.TOKEN, pooled: int | None = made.POOLED):
    options = {} if pooled is None else {"pooled_output": torch.randn(1, pooled, generator=generator(seed))}
    return [[torch.randn(1, 7, width, generator=generator(seed)), options]]


def denoiser(family: str) -> denoisers.CoreDenoiser:
    vae = VAES.get(family, made.small_wan_vae)()
    return denoisers.CoreDenoiser(made.small_transformer(family), conditioning(4), conditioning(5), vae, size=64)


@pytest.mark.parametrize("family", ["qwen", "cosmos"])
def test_pictures_of_one_frame_are_judged(family):
    """Latents, guess and gradient against core's own VAE and its own sampler of one step from the same noise."""
    model, pictures = denoiser(family), torch.rand(3, 3, 64, 64, generator=generator(1))
    with torch.inference_mode(False), torch.no_grad():
        latents = model.encode(pictures.clone())
    own = model.model.get_model_object("latent_format")
    alone = [own.process_in(model.vae.encode(one.movedim(0, -1)[None])) for one in pictures]
    assert latents.shape == (3, 16, 8, 8)
    torch.testing.assert_close(latents, torch.cat(alone).squeeze(2), atol=1e-5, rtol=1e-4)

    clean, noise, time = (
        torch.randn(1, 16, 8, 8, generator=generator(8)),
        torch.randn(1, 16, 8, 8, generator=generator(9)),
        torch.tensor([0.4]),
    )
    sigmas = torch.cat([model.sigmas(time), torch.zeros(1)])
    expected = comfy.sample.sample_custom(
        model.model, noise[:, :, None], 3.0, comfy.samplers.sampler_object("euler"), sigmas, conditioning(4), conditioning(5),
        own.process_out(clean[:, :, None]), disable_pbar=True, seed=0,
    )  # fmt: skip
    with torch.inference_mode(False):
        found = model.denoised(clean.clone(), time, noise.clone(), VIEWS.select([0]), 3.0)
    torch.testing.assert_close(found, own.process_in(expected)[:, :, 0].clone(), atol=1e-4, rtol=1e-3)

    told = priors.ScoreDistillation(model, {"coarse": SETTINGS}).guide(pictures, VIEWS, 0.0, generator(2))
    assert told.finite and told.gradient.shape == pictures.shape and float(told.gradient.abs().max()) > 0
    assert told.guess.shape == (3, 3, 8, 8)
    step = 1e-3 * torch.randn(pictures.shape, generator=generator(3))
    losses = [priors.ScoreDistillation(model, {"coarse": SETTINGS}).guide(pictures + s * step, VIEWS, 0.0, generator(2)) for s in (0, 1)]
    assert losses[0].loss != losses[1].loss


@pytest.mark.parametrize(("family", "words"), [("wan", "WAN21.*denoises films"), ("cosmos_film", "CosmosPredict2.*denoises films")])
def test_films_are_refused(family, words):
    with pytest.raises(ValueError, match=words):
        denoiser(family)


def test_vaes_with_and_without_frames_are_told_apart():
    for family, vae in (("qwen", made.small_flux_vae), ("flux", made.small_wan_vae)):
        with pytest.raises(ValueError, match="VAE .* wire the VAE that belongs to it"):
            denoisers.CoreDenoiser(made.small_transformer(family), conditioning(4), conditioning(5), vae(), size=64)


def test_textual_inversion_refuses_latents_with_frames():
    from lathe.nodes.core.text_encoder import CoreWords

    with pytest.raises(ValueError, match="SD 1.5, SD 2 or SDXL, not QwenImage"):
        CoreWords(made.small_transformer("qwen"), None, made.small_wan_vae(), torch.rand(1, 3, 64, 64))


def from_model(model, vae, guidance: float, texts=None):
    texts = texts or (conditioning(4), conditioning(5))
    return nodes.LathePriorFromModel.execute(model, *texts, vae, guidance=guidance, **WIDGETS).result[0]


@pytest.mark.parametrize("family", ["flux", "schnell"])
def test_models_with_guidance_built_in_start_without_more_and_it_is_said(family, caplog):
    model, vae = made.small_transformer(family), made.small_flux_vae()
    assert image_models.is_guidance_distilled(model)
    with caplog.at_level(logging.WARNING):
        prior = from_model(model, vae, 0.0)
        assert prior.settings.guidance == priors.at_stage(prior, "fine").settings.guidance == 1
        assert "guidance built in, so guidance is 1" in caplog.text
        caplog.clear()
        assert from_model(model, vae, 4.0).settings.guidance == 4 and not caplog.records
    assert prior.guide(torch.rand(3, 3, 64, 64, generator=generator(1)), VIEWS, 0.0, generator(2)).finite


@pytest.mark.parametrize("family", ["qwen", "cosmos"])
def test_other_transformers_keep_the_presets_guidance(family):
    assert from_model(made.small_transformer(family), made.small_wan_vae(), 0.0).settings.guidance == 100
    assert not image_models.is_guidance_distilled(core.small_model("sd15"))


@pytest.mark.parametrize(
    ("model", "vae", "texts"),
    [
        ("sd15", core.small_vae, {"width": 96}),
        ("sdxl", core.small_vae, {"pooled": None}),
        ("sdxl", core.small_vae, {"width": core.TOKEN + core.POOLED, "pooled": None}),
        ("flux", made.small_flux_vae, {"width": 96}),
        ("flux", made.small_flux_vae, {"pooled": made.POOLED - 8}),
        ("qwen", made.small_wan_vae, {"width": 96}),
        ("cosmos", made.small_wan_vae, {"width": 96}),
    ],
)
def test_the_text_of_another_models_encoder_is_named(model, vae, texts):
    own = made.small_transformer(model) if model in made.FAMILIES else core.small_model(model)
    prior = from_model(own, vae(), 3.0, (conditioning(4, **texts), conditioning(5, **texts)))
    with pytest.raises(
        ValueError, match=r"cannot compute with this conditioning, tokens of \d+ numbers .* CLIP that belongs to this MODEL"
    ):
        prior.guide(torch.rand(3, 3, 64, 64, generator=generator(1)), VIEWS, 0.0, generator(2))
