"""Textual inversion with core's real classes, built small: gradients, what is learned, the file, names, cancel."""

import math
import types

import comfy.model_management as mm
import folder_paths
import pytest
import small_core
import torch
from lathe.nodes.core import gradients, progress, text_encoder
from lathe.nodes.textual_inversion import LatheTextualInversion
from lathe.pipelines.distillation import textual_inversion as inversion
from safetensors.torch import load_file, save_file

core, encoders = small_core.module("core"), small_core.module("encoders")
WIDGETS = {"name": "thing", "starts_as": "toy", "vectors": 1, "steps": 3, "rate": 0.005, "batch": 1, "resolution": 64, "seed": 0}


@pytest.fixture(autouse=True)
def in_a_node(monkeypatch, tmp_path):
    """Under inference mode, with an embeddings folder of its own."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors", ".pt", ".bin"}))
    monkeypatch.setattr(LatheTextualInversion, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)
    with torch.inference_mode():
        yield


def picture() -> torch.Tensor:
    image = torch.ones(1, 48, 48, 3)
    image[:, 12:36, 16:30] = torch.tensor([0.9, 0.2, 0.1])
    return image


def words(family: str = "sd15", model=None) -> text_encoder.CoreWords:
    with torch.inference_mode(False):
        copies = inversion.augmented(picture()[0].movedim(-1, 0).clone(), 4, 64, torch.Generator().manual_seed(0))
        kind = "sdxl" if family == "sdxl" else "sd15"
        return text_encoder.CoreWords(model or core.small_model(family), encoders.small_clip(kind), core.small_vae(), copies)


def learn(family: str, steps: int, **options) -> inversion.LearnedWord:
    asked = words(family)
    with gradients.differentiable():
        start = asked.start("toy", 1)
        return asked.held(lambda loss: inversion.learn_word(start, loss, asked.latents.shape[1:], copies=4, steps=steps, **options))


def run(**changes):
    clip = encoders.small_clip()
    out = LatheTextualInversion.execute(core.small_model("sd15"), clip, core.small_vae(), picture(), **{**WIDGETS, **changes})
    return clip, *out.result


@pytest.mark.parametrize("family", ["sd15", "v", "sdxl"])
def test_the_gradient_is_that_of_finite_differences(family):
    asked = words(family)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def check(loss):
        given = (inversion.SENTENCES[0], torch.tensor([1]), torch.tensor([0.4]), noise.clone())
        vectors = {name: v.requires_grad_() for name, v in asked.start("toy", 2).items()}
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            loss(vectors, *given).backward()
        assert set(vectors) == ({"l", "g"} if family == "sdxl" else {"l"}) and all(len(v) == 2 for v in vectors.values())
        size = math.sqrt(sum(float(v.grad.square().sum()) for v in vectors.values()))
        ahead = {name: v.grad / size for name, v in vectors.items()}
        with torch.no_grad():
            ends = [float(loss({n: v + sign * 0.02 * ahead[n] for n, v in vectors.items()}, *given)) for sign in (1, -1)]
        assert size == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.02) and size > 0
        return True

    with gradients.differentiable():
        assert asked.held(check)


def test_training_lowers_the_error_and_is_the_same_for_a_seed():
    learned, again = learn("sd15", 40, rate=0.1, seed=3), learn("sd15", 2, rate=0.1, seed=3)
    assert learned.losses[:1] == again.losses[:1], "the same seed"
    asked = words()
    with gradients.differentiable():
        start = asked.start("toy", 1)

        def error(loss, vectors):
            draws = torch.Generator().manual_seed(9)
            rows = [(torch.tensor([i % 4]), torch.rand(1, generator=draws), torch.randn(1, 4, 8, 8, generator=draws)) for i in range(12)]
            with torch.no_grad():
                return sum(float(loss(vectors, inversion.SENTENCES[0], which, 0.1 + 0.8 * t, noise)) for which, t, noise in rows)

        before, after = asked.held(lambda loss: (error(loss, start), error(loss, learned.vectors)))
    assert after < before - 1e-4, (before, after)
    assert learned.skipped == 0 and all(map(math.isfinite, learned.losses))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_core_reads_the_file_as_the_vectors(family, tmp_path):
    learned = learn(family, 2)
    inversion.save_word(learned.vectors, tmp_path / "thing.safetensors")
    clip = encoders.small_clip("sdxl" if family == "sdxl" else "sd15", [str(tmp_path)])
    row = clip.tokenize("a photo of embedding:thing")
    for name, vectors in learned.vectors.items():
        (found,) = (token for token, _ in row[name][0] if isinstance(token, torch.Tensor))
        torch.testing.assert_close(found, vectors[0], atol=0, rtol=0)
    if family == "sd15":
        assert set(load_file(tmp_path / "thing.safetensors")) == {"emb_params"}


def test_the_node_trains_saves_and_returns_a_clip_that_knows_the_word(tmp_path):
    model = core.small_model("sd15")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    clip = encoders.small_clip()
    known = {name: weight.clone() for name, weight in clip.cond_stage_model.state_dict().items()}
    image, mask = picture(), torch.ones(1, 48, 48)
    changes = {**WIDGETS, "vectors": 2}
    reader, text, curve = LatheTextualInversion.execute(model, clip, core.small_vae(), image, **changes, mask=mask).result
    assert text == "embedding:thing" and [path.name for path in tmp_path.iterdir()] == ["thing.safetensors"]
    assert curve.shape[0] == 1 and bool(torch.isfinite(curve).all())
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())
    assert all(torch.equal(weight, known[name]) for name, weight in clip.cond_stage_model.state_dict().items())
    said, spelled = reader.tokenize("a photo of <e>, red"), clip.tokenize("a photo of embedding:thing , red")
    plain = clip.tokenize("a <e>")
    vectors = [[token for token, _ in row["l"][0] if isinstance(token, torch.Tensor)] for row in (said, spelled, plain)]
    assert [len(row) for row in vectors] == [2, 2, 0] and all(map(torch.equal, vectors[0], vectors[1]))
    assert torch.equal(reader.encode_from_tokens(said), clip.encode_from_tokens(spelled))


def test_a_second_run_replaces_its_own_file_and_no_other(tmp_path):
    run()
    first = load_file(tmp_path / "thing.safetensors")["emb_params"]
    run(seed=5)
    assert not torch.equal(load_file(tmp_path / "thing.safetensors")["emb_params"], first)
    save_file({"emb_params": torch.zeros(1, 64)}, tmp_path / "mine.safetensors")
    (tmp_path / "old.pt").write_bytes(b"x")
    for name in ("mine", "old"):
        with pytest.raises(ValueError, match="Lathe did not make"):
            run(name=name)
    assert float(load_file(tmp_path / "mine.safetensors")["emb_params"].abs().sum()) == 0


@pytest.mark.parametrize("name", ["../thing", "a/b", "a\\b", "", "  ", "..", "a b", "a,b", "C:thing", "x" * 65, ".hidden", "a.b", "\u00e4"])
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be the name of an embedding"):
        run(name=name)
    assert not list(tmp_path.iterdir()) and not list(tmp_path.parent.glob("thing*"))


def test_cancel_writes_nothing_and_leaves_the_model_usable(tmp_path, monkeypatch):
    steps = 0

    def cancelled():
        nonlocal steps
        steps += 1
        if steps > 2:
            raise mm.InterruptProcessingException

    monkeypatch.setattr(progress, "check_cancelled", cancelled)
    with pytest.raises(mm.InterruptProcessingException):
        run(steps=50)
    assert steps == 3 and not list(tmp_path.iterdir())
    monkeypatch.undo()


@pytest.mark.parametrize(("changes", "words_"), [({"starts_as": " "}, "starts from a word"), ({"rate": 0.0}, "rate above 0")])
def test_settings_that_make_no_sense_are_refused(changes, words_):
    with pytest.raises(ValueError, match=words_):
        run(**changes)


def test_gradients_that_are_none_end_the_training():
    model = core.small_model("sd15").clone()
    weight = model.model.diffusion_model.out[2].weight
    model.add_patches({"diffusion_model.out.2.weight": ("diff", (torch.full(weight.shape, float("nan")),))}, 1.0)
    asked = words(model=model)
    with gradients.differentiable(), pytest.raises(ValueError, match="20 steps in a row gave no finite gradient"):
        asked.held(lambda loss: inversion.learn_word(asked.start("toy", 1), loss, (4, 8, 8), copies=4, steps=50))
    with gradients.differentiable(), pytest.raises(ValueError, match="3 steps in a row gave no finite gradient"):  # nothing was learned
        asked.held(lambda loss: inversion.learn_word(asked.start("toy", 1), loss, (4, 8, 8), copies=4, steps=3))
    mm.unload_all_models()


def test_copies_of_the_picture():
    with torch.inference_mode(False):
        image = picture()[0].movedim(-1, 0).clone()
        copies = inversion.augmented(image, 16, 48, torch.Generator().manual_seed(0))
        torch.testing.assert_close(copies[0], image, atol=1e-5, rtol=0)
        assert float(copies.min()) >= 0 and float(copies.max()) <= 1 and copies.shape == (16, 3, 48, 48)
        assert float((copies[:, :, 0, 0] - 1).abs().max()) < 1e-5, "white around"
        assert float((copies[1:] - copies[0]).abs().mean((1, 2, 3)).min()) > 0.001
        wide = inversion.augmented(torch.zeros(3, 20, 80), 1, 40, torch.Generator().manual_seed(0))[0]
        assert float(wide[:, 18:22].max()) < 0.01 and float(wide[:, :14].min()) > 0.99, "not squeezed"
        assert torch.equal(copies, inversion.augmented(image, 16, 48, torch.Generator().manual_seed(0)))
