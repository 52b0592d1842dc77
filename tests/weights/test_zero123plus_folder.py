"""The published Zero123++ folder: names and shapes of its networks, every file format, and folders with something wrong."""

import dataclasses
import json

import pytest
import torch
from data.tiny_view_model import FULL, MAKE, TINY, picture, published_name, seeded, view_model
from lathe.pipelines.view_generation import sampling as vd
from lathe.pipelines.view_generation.model import NoiseSchedule
from lathe.pipelines.weights import zero123plus as weights


@pytest.fixture(scope="module")
def model():
    return view_model()


@pytest.mark.parametrize("part", list(MAKE))
def test_the_full_networks_have_the_published_names_and_shapes(part):
    with torch.device("meta"):
        module = MAKE[part](FULL["configs"][part])
    have = {published_name(part, name): list(t.shape) for name, t in module.state_dict().items()}
    expected = {name: shape for name, shape, _ in FULL["entries"][part] if not name.endswith("position_ids")}
    assert have == expected


def test_the_constants_are_the_published_ones():
    assert weights.ramping_coefficients() == FULL["ramping_coefficients"]
    assert weights._schedule(FULL["scheduler"]) == NoiseSchedule()
    assert FULL["tokenizer"]["bos"] == FULL["configs"]["text_encoder"]["vocab_size"] - 2


def test_seeded_weights_are_the_goldens():
    expected = {name: shape for name, shape, _ in TINY["entries"]}
    have = {}
    for part in MAKE:
        module = MAKE[part](TINY["configs"][part])
        have |= {f"{part}.{published_name(part, n)}": list(t.shape) for n, t in module.state_dict().items()}
    assert have == {n: s for n, s in expected.items() if not n.endswith("position_ids")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny networks in the published layout, half of it in each of the file formats."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("zero123plus")
    for part, config in TINY["configs"].items():
        (root / part).mkdir()
        (root / part / "config.json").write_text(json.dumps(config))
        state = {published_name(part, n): t.clone() for n, t in seeded(part).state_dict().items()}
        if part == "vision_encoder":
            state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
            torch.save(state, root / part / "pytorch_model.bin")
        else:
            save_file(state, root / part / ("model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"))
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(FULL["scheduler"]))
    (root / "feature_extractor_vae").mkdir()
    (root / "feature_extractor_vae" / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 64, "width": 64}}))
    return root


def test_a_published_folder_gives_the_same_views(model, folder):
    loaded = dataclasses.replace(weights.load_zero123plus(folder), view_size=64)
    assert loaded.background == (127 / 255,) * 3 and loaded.steps == 28 and loaded.camera_preset == "zero123plus_v1.2"
    assert not any(p.requires_grad or p.is_meta for net in loaded.modules().values() for p in net.parameters())
    views = vd.generate_views(loaded, picture(), seed=3, steps=1)
    # Weights mapped from a file lie differently in memory, which kernels may round by.
    assert (views - vd.generate_views(model, picture(), seed=3, steps=1)).abs().max() < 1e-4


def test_the_white_unet_takes_the_place_of_the_folders(folder, tmp_path):
    white = {n: t * 0.5 for n, t in seeded("unet").state_dict().items()}
    torch.save(white, tmp_path / "diffusion_pytorch_model.bin")
    loaded = weights.load_zero123plus(folder, white_unet=tmp_path / "diffusion_pytorch_model.bin", dtype=torch.bfloat16)
    assert torch.equal(loaded.unet.conv_in.weight, white["conv_in.weight"].bfloat16())
    assert loaded.background == (1, 1, 1) and loaded.steps == 75
    assert {p.dtype for net in loaded.modules().values() for p in net.parameters()} == {torch.bfloat16}


def test_half_precision_stays_close_to_single(model, folder):
    loaded = dataclasses.replace(weights.load_zero123plus(folder, dtype=torch.bfloat16), view_size=64)
    half = vd.generate_views(loaded, picture(), seed=3, steps=2)
    assert half.dtype == torch.float32
    assert (half - vd.generate_views(model, picture(), seed=3, steps=2)).abs().mean() < 0.05


def test_text_encoder_names_of_both_transformers_generations(folder):
    encoder = seeded("text_encoder")
    state = encoder.state_dict()
    short = {n.removeprefix("text_model."): t for n, t in state.items()}
    long = {f"text_model.{n}": t for n, t in short.items()}
    for names in (short, long):
        assert weights.fit_names(names, encoder).keys() == state.keys()


def test_old_autoencoder_attention_names():
    vae = weights.autoencoder(TINY["configs"]["vae"])
    old = {}
    for name, tensor in vae.state_dict().items():
        for new, was in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{was}.")
        old[name] = tensor
    assert old.keys() != vae.state_dict().keys()
    assert weights.fit_names(old, vae).keys() == vae.state_dict().keys()


@pytest.mark.parametrize(("damage", "words"), [
    (lambda root: (root / "vae" / "config.json").unlink(), "config.json is missing"),
    (lambda root: (root / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "no weights"),
    (lambda root: (root / "unet" / "config.json").write_text(json.dumps(TINY["configs"]["unet"] | {"layers_per_block": 2})), "missing"),
    (lambda root: (root / "unet" / "config.json").write_text(json.dumps(TINY["configs"]["unet"] | {"in_channels": 8})), "another shape"),
    (lambda root: (root / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 ...."), "truncated"),
])  # fmt: skip
def test_a_folder_with_something_wrong_says_what(folder, tmp_path, damage, words):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(ValueError, match=words):
        weights.load_zero123plus(copy)
