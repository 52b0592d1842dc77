"""Core's models as generators, what needs no network: levels, frames, and how many views are denoised together."""

from types import SimpleNamespace

import comfy.model_sampling as sampling
import pytest
import small_core
import torch
from lathe.nodes.core import view_refiner
from lathe.pipelines.cameras.orbits import orbit_cameras

core = small_core.module("core")


def test_levels_of_a_table_are_its_entries():
    table = sampling.ModelSamplingDiscrete()
    sigmas = view_refiner.sigmas_from(table, 0.4, 10)
    assert len(sigmas) == 11 and sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())
    assert sigmas[0] == table.sigmas[400] and sigmas[1] == table.sigmas[360]
    assert view_refiner.sigmas_from(table, 1.0, 10)[0] == table.sigmas[-1]
    assert len(view_refiner.sigmas_from(table, 0.003, 10)) == 5  # timesteps 3, 2, 1, 0


def test_levels_of_a_flow_are_its_times():
    flow = sampling.ModelSamplingDiscreteFlow()
    flow.set_parameters(shift=1.0)
    assert torch.allclose(view_refiner.sigmas_from(flow, 0.5, 5), torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), atol=1e-6)
    assert view_refiner.sigmas_from(flow, 1.0, 5)[0] == 1


def test_levels_of_an_edm_model_are_the_noises_share():
    edm = sampling.ModelSamplingContinuousEDM()
    edm.set_parameters(sigma_min=0.002, sigma_max=700.0, sigma_data=1.0)
    sigmas = view_refiner.sigmas_from(edm, 0.5, 5)
    assert torch.allclose(sigmas / (1 + sigmas), torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), atol=1e-6)
    assert float(view_refiner.sigmas_from(edm, 1.0, 4)[0]) == pytest.approx(700, rel=1e-4)
    assert float(view_refiner.sigmas_from(edm, 0.001, 2)[0]) == pytest.approx(0.002, rel=1e-4)


def test_a_level_means_about_the_same_to_every_kind():
    edm, table = sampling.ModelSamplingContinuousEDM(), sampling.ModelSamplingDiscrete()
    for level in (0.2, 0.4, 0.6):
        first = [float(view_refiner.sigmas_from(kind, level, 10)[0]) for kind in (edm, table)]
        assert 0.4 < first[0] / first[1] < 2.5, (level, first)


@pytest.mark.parametrize(("level", "steps", "words"), [(0.0, 5, "noise level"), (1.5, 5, "noise level"), (0.5, 0, "1 step")])
def test_levels_outside_are_refused(level, steps, words):
    with pytest.raises(ValueError, match=words):
        view_refiner.sigmas_from(sampling.ModelSamplingDiscrete(), level, steps)


@pytest.mark.parametrize(("tokens", "options", "words"), [
    (torch.zeros(1, 1, 8), {"azimuth": [0.0] * 21, "elevation": [0.0] * 21}, r"21 frames \(azimuth\).*6 views"),
    (torch.zeros(5, 7, 8), {}, r"5 frames \(tokens\)"),
    (torch.zeros(1, 1, 8), {"concat_latent_image": torch.zeros(3, 4, 8, 8)}, r"3 frames \(concat_latent_image\)"),
    (torch.zeros(1, 7, 8), {"pooled_output": torch.zeros(2, 8)}, r"2 frames \(pooled_output\)"),
])  # fmt: skip
def test_conditioning_of_another_length_is_refused(tokens, options, words):
    with pytest.raises(ValueError, match=words):
        view_refiner.check_frames([[tokens, options]], 6, "positive")


def test_conditioning_of_one_or_of_all_frames_passes():
    view_refiner.check_frames([[torch.zeros(1, 7, 8), {"azimuth": [0.0] * 6}], [torch.zeros(6, 7, 8), {"guidance": 3.5}]], 6, "positive")


class Model:
    """As much of a MODEL as is asked before sampling: 10 bytes a view."""

    load_device = torch.device("cpu")

    def __init__(self, dimensions: int = 2) -> None:
        self.model = object()
        self.format = SimpleNamespace(latent_dimensions=dimensions, latent_channels=4)

    def get_model_object(self, name):
        return self.format

    def model_size(self):
        return 20

    def memory_required(self, shape):
        return 10 * shape[0]


def generator(positive, **options) -> view_refiner.CoreRenoise:
    return view_refiner.CoreRenoise(Model(**options), positive, [], SimpleNamespace(latent_dim=2), cfg=1.0, steps=3)


def test_views_are_denoised_together_as_memory_allows(monkeypatch):
    same, own = [[torch.zeros(1, 7, 8), {}]], [[torch.zeros(16, 7, 8), {}]]
    monkeypatch.setattr(view_refiner.mm, "get_free_memory", lambda device: 0)
    for total, at_once in ((1000, 16), (130, 8), (80, 4), (30, 1)):
        monkeypatch.setattr(view_refiner.mm, "get_total_memory", lambda device, total=total: total)
        assert generator(same)._at_once(torch.Size([16, 4, 8, 8])) == at_once
        assert generator(own)._at_once(torch.Size([16, 4, 8, 8])) == 16, "each view has its own tokens"
        controlled = [[torch.zeros(1, 7, 8), {"control": object()}]]
        assert generator(controlled)._at_once(torch.Size([16, 4, 8, 8])) == 16


def test_video_latents_are_refused():
    with pytest.raises(ValueError, match="mix several frames"):
        generator([], dimensions=3)


def test_pictures_fill_the_cells_of_the_vae():
    assert view_refiner._whole_cells(torch.rand(2, 3, 68, 100), 8).shape == (2, 3, 72, 104)
    exact = torch.rand(2, 3, 64, 96)
    assert torch.equal(view_refiner._whole_cells(exact, 8), exact)


def test_sdxl_with_a_lora_is_asked_with_its_pooled_words_and_sizes(monkeypatch):
    """Each part of SDXL's conditioning, and a patch on the weights, changes the views; how many views go together does not."""
    plain, vae = core.small_model("sdxl"), core.small_vae()
    positive, negative = core.small_conditioning("sdxl")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 1, 32, 32)

    def views(model=plain, **words) -> torch.Tensor:
        asked = [[positive[0][0], positive[0][1] | words]]
        redenoise = view_refiner.CoreRenoise(model, asked, negative, vae, cfg=5.0, steps=3)
        return redenoise(images, masks, orbit_cameras(3), 0.5, 1, lambda *_: None)

    first = views()
    assert first.shape == images.shape and bool(torch.isfinite(first).all()) and torch.equal(first, views())
    lora = plain.clone()
    weight = plain.model.diffusion_model.out[2].weight
    lora.add_patches({"diffusion_model.out.2.weight": ("diff", (torch.full(weight.shape, 0.1),))}, 1.0)
    for other in (views(pooled_output=-positive[0][1]["pooled_output"]), views(width=64, height=2048), views(lora)):
        assert float((other - first).abs().max()) > 1e-3
    assert torch.equal(first, views()), "the model is as it was"
    monkeypatch.setattr(view_refiner, "views_at_once", lambda model, shape: 1)
    torch.testing.assert_close(views(), first, atol=1e-4, rtol=0)
