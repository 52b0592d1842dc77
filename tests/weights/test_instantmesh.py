"""Checkpoints into networks: the published container, the four variants told apart, and the project's own files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data.tiny_lrm import TINY, golden, golden_images, tiny_net, worst
from lathe.pipelines.nets import triplane_lrm
from lathe.pipelines.nets.mini_lrm import MiniLRM
from lathe.pipelines.nets.triplane_lrm import PUBLISHED, TriplaneLRM
from lathe.pipelines.weights.instantmesh import identify_lrm, load_lrm, load_strictly, published_state
from safetensors.torch import save_file

MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "manifests"


@pytest.fixture()
def tiny_is_published(monkeypatch):
    """Lets the loader know the tiny networks as if they had been released."""
    monkeypatch.setitem(PUBLISHED, "tiny_mesh", TINY)
    monkeypatch.setitem(PUBLISHED, "tiny_nerf", replace(TINY, kind="nerf"))


def lightning(kind, path, without=(), **extra):
    state = {f"lrm_generator.{k}": v for k, v in tiny_net(kind).state_dict().items() if k not in without}
    torch.save({"state_dict": {**state, "lpips.net.slice1.0.weight": torch.ones(2), **extra}, "global_step": 7}, path)
    return path


def manifest_on_meta(variant):
    content = json.loads((MANIFESTS / f"{variant}.json").read_text())
    return {name: torch.empty(shape, device="meta") for name, shape, _ in content["entries"]}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_each_published_manifest_loads_strictly_into_its_network(variant):
    state, name = published_state(manifest_on_meta(variant), "file")
    assert name == variant
    with torch.device("meta"):
        net = TriplaneLRM(PUBLISHED[name])
    load_strictly(net, state, "file")
    for other in set(PUBLISHED) - {variant}:
        with torch.device("meta"):
            net = TriplaneLRM(PUBLISHED[other])
        with pytest.raises(ValueError, match="does not fit its network"):
            load_strictly(net, state, "file")


@pytest.mark.parametrize("kind", ["mesh", "nerf"])
def test_a_released_checkpoint_gives_the_published_planes(tmp_path, tiny_is_published, kind):
    path = lightning(kind, tmp_path / "instant.ckpt")
    lrm = load_lrm(path)
    assert (lrm.name, lrm.view_size, lrm.background) == (f"tiny_{kind}", 320, (1.0, 1.0, 1.0))
    assert not lrm.net.training and not any(p.requires_grad for p in lrm.net.parameters())
    expected = golden(kind)
    planes = lrm.net.planes(golden_images(), expected["input_cameras"])
    assert worst(planes, expected["planes"]) < 2e-5


def test_a_converted_safetensors_file_without_prefix_loads_too(tmp_path, tiny_is_published):
    save_file(tiny_net("mesh").state_dict(), tmp_path / "converted.safetensors")
    assert load_lrm(tmp_path / "converted.safetensors").name == "tiny_mesh"


def test_transformers_are_stored_in_the_precision_asked_for(tmp_path, tiny_is_published):
    net = load_lrm(lightning("mesh", tmp_path / "i.ckpt"), dtype=torch.float16).net
    assert net.transformer.pos_embed.dtype == torch.float16
    assert {p.dtype for p in net.decoder.parameters()} == {torch.float32}


def test_another_variant_is_said_in_words(tmp_path, tiny_is_published):
    path = lightning("nerf", tmp_path / "i.ckpt")
    with pytest.raises(ValueError, match=r"i\.ckpt holds tiny_nerf, but instant_mesh_large was asked for"):
        load_lrm(path, variant="instant_mesh_large")
    assert load_lrm(path, variant="tiny_nerf").name == "tiny_nerf"


def test_other_networks_are_said_in_words(tmp_path):
    torch.save({"down_blocks.0.weight": torch.ones(2), "up_blocks.0.weight": torch.ones(2)}, tmp_path / "unet.bin")
    with pytest.raises(ValueError, match=r"unet\.bin holds no InstantMesh reconstruction network: its entries are down_blocks\.\*"):
        load_lrm(tmp_path / "unet.bin")
    with pytest.raises(ValueError, match="mesh network with 2 layers of width 64 and 8 triplane channels"):
        identify_lrm(tiny_net("mesh").state_dict())


def test_missing_left_over_and_misshapen_entries_are_named(tmp_path, tiny_is_published):
    path = lightning("mesh", tmp_path / "i.ckpt", without=("transformer.norm.bias",))
    with pytest.raises(ValueError, match=r"i\.ckpt does not fit its network: it lacks 1 entries \(transformer\.norm\.bias\)"):
        load_lrm(path)
    path = lightning("mesh", tmp_path / "j.ckpt", **{"lrm_generator.extra.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"has unknown 1 entries \(extra\.weight\)"):
        load_lrm(path)
    path = lightning("mesh", tmp_path / "k.ckpt", **{"lrm_generator.transformer.norm.bias": torch.ones(3)})
    with pytest.raises(ValueError, match=r"other shapes for 1 entries \(transformer\.norm\.bias\)"):
        load_lrm(path)


def test_a_truncated_checkpoint_is_named(tmp_path):
    whole = lightning("mesh", tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.ckpt is truncated or damaged"):
        load_lrm(tmp_path / "cut.ckpt")


def test_a_mini_model_comes_through_the_same_door(tmp_path):
    net = MiniLRM()
    tensors = {f"net.{name}": value.half() for name, value in net.state_dict().items()}
    config = {"kind": "lrm", "settings": net.settings()}
    save_file(tensors, tmp_path / "own.safetensors", metadata={"lathe_config": json.dumps(config)})
    lrm = load_lrm(tmp_path / "own.safetensors", dtype=torch.bfloat16)
    assert isinstance(lrm.net, MiniLRM) and lrm.config == net.config
    assert lrm.net.transformer.pos_embed.dtype == torch.bfloat16
    assert {p.dtype for p in lrm.net.decoder.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="is a mini model, but the published instant_mesh_base"):
        load_lrm(tmp_path / "own.safetensors", variant="instant_mesh_base")


def test_presets_are_what_the_paper_says():
    assert {name: config.kind for name, config in triplane_lrm.PUBLISHED.items() if name.startswith("instant_")} == {
        "instant_mesh_base": "mesh",
        "instant_mesh_large": "mesh",
        "instant_nerf_base": "nerf",
        "instant_nerf_large": "nerf",
    }
    assert PUBLISHED["instant_mesh_large"].triplane_res == 64
