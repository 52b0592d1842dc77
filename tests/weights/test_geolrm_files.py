"""GeoLRM's files into networks: the published names, sizes told from shapes, files that hold one network or none, damaged ones."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data.tiny_geolrm import PROPOSAL, RECONSTRUCTION, tiny_model, tiny_state
from lathe.pipelines.nets import geolrm as nets
from lathe.pipelines.nets.attention import Linear
from lathe.pipelines.reconstruction.geolrm.stages import NetworkForm
from lathe.pipelines.weights import geolrm as files
from safetensors.torch import load_file, save_file

MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "manifests"
TINY_SETTINGS = {
    "kind": "geolrm", "view_size": 112, "proposal": {"heads": 4, "grid": 16, "vit_heads": 2, "run_as": {"form": "heads"}},
    "reconstruction": {"heads": 4, "grid": 16, "vit_heads": 2, "run_as": {"form": "tokens", "scale": 1.0}},
}  # fmt: skip


@pytest.fixture()
def tiny_is_published(monkeypatch):
    """Lets the loader take the tiny networks for published ones: their heads and grid are the defaults."""
    monkeypatch.setattr(files, "PROPOSAL", PROPOSAL)
    monkeypatch.setattr(files, "RECONSTRUCTION", RECONSTRUCTION)
    monkeypatch.setattr(files, "VIT_HEAD", 16)


def flat(path, state, **extra):
    torch.save({**state, **extra}, path)
    return path


def same(model, other=None):
    other = other or tiny_model()
    for name in ("proposal", "reconstruction"):
        own, wanted = getattr(model, name), getattr(other, name)
        assert (own is None) == (wanted is None)
        if own is not None:
            assert own.config == wanted.config
            for key, value in wanted.state_dict().items():
                assert key.endswith("num_batches_tracked") or torch.equal(own.state_dict()[key], value), key
    return model


def test_the_published_manifest_gives_the_published_sizes():
    entries = json.loads((MANIFESTS / "geolrm.json").read_text())["entries"]
    state = {name: torch.empty(shape, device="meta") for name, shape, _ in entries}
    for prefix, config, kind in (
        ("serializer.", nets.PROPOSAL, nets.ProposalNetwork), ("lrm_generator.", nets.RECONSTRUCTION, nets.ReconstructionNetwork)
    ):  # fmt: skip
        own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        assert files.sizes(own, {}, config) == config
        with torch.device("meta"):
            net = kind(config)
        assert {key: value.shape for key, value in net.state_dict().items()} == {key: value.shape for key, value in own.items()}
    assert sum(v.numel() for k, v in state.items() if k.startswith("serializer.")) == 105_729_541


def test_a_flat_pickle_with_training_leftovers(tmp_path, tiny_is_published):
    path = flat(tmp_path / "geolrm.ckpt", tiny_state(), **{"lpips.net.slice1.0.weight": torch.ones(3)})
    model = same(files.load_geolrm(path))
    assert (model.name, model.view_size, model.background) == ("geolrm", 448, (1.0, 1.0, 1.0))
    assert model.propose_as == model.reconstruct_as == NetworkForm("tokens", 0.5)
    assert not files.says_its_forms(path)
    assert not model.proposal.training and not any(p.requires_grad for p in model.reconstruction.parameters())


def test_module_prefixes_and_a_lightning_container(tmp_path, tiny_is_published):
    state = {f"module.{key}": value for key, value in tiny_state().items()}
    same(files.load_geolrm(flat(tmp_path / "a.ckpt", state)))
    torch.save({"state_dict": tiny_state(), "epoch": 3}, tmp_path / "b.ckpt")
    same(files.load_geolrm(tmp_path / "b.ckpt"))


def test_newer_names_of_the_image_backbone(tmp_path, tiny_is_published):
    newer = {published: new for new, published in files.BACKBONE_NAMES.items()}
    state = {}
    for key, value in tiny_state().items():
        for published, new in newer.items():
            key = key.replace(f".{published}.", f".{new}.") if ".encoder.model." in key else key
        state[key] = value
    assert set(state) != set(tiny_state())
    same(files.load_geolrm(flat(tmp_path / "geolrm.ckpt", state)))


def test_a_half_precision_file_of_the_proposal_network_alone(tmp_path, tiny_is_published):
    state = {key: value.bfloat16() if value.is_floating_point() else value for key, value in tiny_state("proposal").items()}
    model = files.load_geolrm(flat(tmp_path / "srl-bf16.ckpt", state))
    assert model.reconstruction is None and model.proposal.config == PROPOSAL
    assert {p.dtype for p in model.proposal.parameters()} == {torch.float32}
    model = files.load_geolrm(flat(tmp_path / "lrm.ckpt", tiny_state("reconstruction")))
    assert model.proposal is None and model.reconstruction.config == RECONSTRUCTION


def test_safetensors_of_the_published_names(tmp_path, tiny_is_published):
    save_file({key: value.contiguous() for key, value in tiny_state().items()}, tmp_path / "geolrm.safetensors")
    same(files.load_geolrm(tmp_path / "geolrm.safetensors"))


def test_precision_of_the_trunks(tmp_path, tiny_is_published):
    path = flat(tmp_path / "geolrm.ckpt", tiny_state())
    model = files.load_geolrm(path, dtype=torch.bfloat16, reconstruction_dtype=torch.float32)
    trunk = [m for n, m in model.proposal.named_modules() if isinstance(m, Linear) and n.startswith(("transformer.", "encoder.model."))]
    assert {m.weight.dtype for m in trunk} == {torch.bfloat16}
    assert model.proposal.upsample.weight.dtype == model.proposal.encoder.deconv[0].weight.dtype == torch.float32
    assert {p.dtype for p in model.reconstruction.parameters()} == {torch.float32}


def test_settings_in_the_header_of_own_files(tmp_path):
    model = tiny_model("heads", name="own", background=(0.5, 0.5, 0.5))
    path = tmp_path / "own.safetensors"
    files.save_geolrm(model, path, dtype=torch.float32)
    assert files.says_its_forms(path)
    again = same(files.load_geolrm(path), model)
    assert (again.name, again.view_size, again.background) == ("own", 112, (0.5, 0.5, 0.5))
    assert again.propose_as == again.reconstruct_as == NetworkForm("heads", 0.5)
    files.save_geolrm(tiny_model(proposal=None), path)
    assert files.load_geolrm(path).proposal is None
    stored = load_file(path)
    assert stored["lrm_generator.transformer.norm.weight"].dtype == torch.float16
    assert stored["lrm_generator.encoder.deconv.1.running_var"].dtype == torch.float32
    assert [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]


def test_entries_that_are_not_used_are_told_of(tmp_path, tiny_is_published, caplog):
    with caplog.at_level(logging.WARNING):
        same(files.load_geolrm(flat(tmp_path / "geolrm.ckpt", tiny_state(), **{"serializer.extra.weight": torch.ones(1)})))
    assert "1 entries are not used: extra.weight" in caplog.text


def test_other_files_are_said_in_words(tmp_path, tiny_is_published):
    with pytest.raises(ValueError, match=r"unet\.bin holds no GeoLRM network: .* are expected, found down_blocks\.\*"):
        files.load_geolrm(flat(tmp_path / "unet.bin", {"down_blocks.0.weight": torch.ones(2)}))
    state = tiny_state("proposal")
    del state["serializer.transformer.norm.weight"]
    with pytest.raises(ValueError, match=r"lacks 1 entries \(transformer\.norm\.weight\)"):
        files.load_geolrm(flat(tmp_path / "a.ckpt", state))
    del state["serializer.transformer.query_token"]
    with pytest.raises(ValueError, match=r"a\.ckpt \(serializer\.\*\) is not whole: it lacks transformer\.query_token"):
        files.load_geolrm(flat(tmp_path / "a.ckpt", state))
    state = {**tiny_state("proposal"), "serializer.transformer.query_token": torch.ones(3)}
    with pytest.raises(ValueError, match=r"is damaged: transformer\.query_token has shape \(3,\)"):
        files.load_geolrm(flat(tmp_path / "b.ckpt", state))


def test_sizes_that_make_no_network_are_said_in_words(tmp_path):
    with pytest.raises(ValueError, match="no GeoLRM of a size that can be told: width 48 with 16 heads"):
        files.load_geolrm(flat(tmp_path / "tiny.ckpt", tiny_state("proposal")))


def test_a_reconstruction_network_may_have_any_grid(tmp_path):
    """Steps of the grid are the proposal network's alone."""
    model = tiny_model(proposal=None)
    model.reconstruction.config = replace(model.reconstruction.config, grid=21)
    files.save_geolrm(model, tmp_path / "own.safetensors")
    assert files.load_geolrm(tmp_path / "own.safetensors").reconstruction.config.grid == 21
    model.reconstruction.config = replace(model.reconstruction.config, grid=0)
    files.save_geolrm(model, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="a grid of 0"):
        files.load_geolrm(tmp_path / "own.safetensors")


def test_a_truncated_file_and_one_that_would_run_code(tmp_path, tiny_is_published):
    whole = flat(tmp_path / "whole.ckpt", tiny_state()).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.ckpt is truncated or damaged"):
        files.load_geolrm(tmp_path / "cut.ckpt")

    class Runs:
        def __reduce__(self):
            return eval, ("open('ran', 'w')",)

    torch.save({**tiny_state("proposal"), "serializer.evil": Runs()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt was not loaded: it asks Python for"):
        files.load_geolrm(tmp_path / "evil.ckpt")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "lrm"}, "holds a lrm model"),
        ({"view_size": 100}, "settings in its header cannot be read"),
        ({"proposal": {"heads": 0}}, "0 heads"),
        ({"proposal": {"heads": "many"}}, "no number"),
        ({"proposal": 3}, "no JSON object"),
        ({"proposal": {**TINY_SETTINGS["proposal"], "run_as": {"form": "other"}}}, "forms"),
        ({"background": [1, 1]}, "background"),
    ],
)
def test_damaged_headers_are_said_in_words(tmp_path, changes, says):
    state = {key: value.contiguous() for key, value in tiny_state().items()}
    save_file(state, tmp_path / "own.safetensors", metadata={"lathe_config": json.dumps({**TINY_SETTINGS, **changes})})
    with pytest.raises(ValueError, match=says):
        files.load_geolrm(tmp_path / "own.safetensors")


def test_forms_of_the_header(tmp_path):
    state = {key: value.contiguous() for key, value in tiny_state().items()}
    save_file(state, tmp_path / "own.safetensors", metadata={"lathe_config": json.dumps(TINY_SETTINGS)})
    model = same(files.load_geolrm(tmp_path / "own.safetensors"))
    assert (model.propose_as, model.reconstruct_as) == (NetworkForm("heads", 0.5), NetworkForm("tokens", 1.0))
