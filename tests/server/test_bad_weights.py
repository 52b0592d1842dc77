"""Weights that are missing, cut short, of another network or hostile: the loader says so, and nothing in a file is run."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from comfy_server import Run, Server
from shared_server import Graph


@pytest.fixture
def models(comfy: Server) -> Path:
    folder = comfy.base / "models" / "lathe"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(comfy: Server, model: str, **options) -> Run:
    graph = Graph()
    lrm = graph.add("LatheLoadLRM", **{"model": model, "precision": "fp32", "download": False, **options})
    graph.add("LatheTestFingerprint", value=lrm[0], salt="")
    return comfy.run(graph.prompt)


def says(run: Run, *words: str) -> None:
    assert run.status == "error" and run.error["exception_type"] == "ValueError", run.error
    for word in words:
        assert word in run.error["exception_message"], run.error["exception_message"]


def test_missing_weights_name_the_remedy(comfy: Server, models: Path):
    says(load(comfy, "instant_mesh_base"), "not on this machine", "download", str(models / "instant_mesh_base.ckpt"), "Licence")


def test_a_truncated_file(comfy: Server, models: Path):
    torch.save({"state_dict": {"w": torch.ones(1000)}}, models / "cut.ckpt")
    whole = (models / "cut.ckpt").read_bytes()
    (models / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    says(load(comfy, "cut.ckpt"), "cut.ckpt")


def test_a_network_of_another_kind(comfy: Server, models: Path):
    torch.save({"state_dict": {"unet.conv_in.weight": torch.ones(4, 4)}}, models / "other.ckpt")
    says(load(comfy, "other.ckpt"), "other.ckpt")


def test_code_in_a_pickle_is_not_run(comfy: Server, models: Path, tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    (models / "code.ckpt").write_bytes(pickle.dumps({"state_dict": Hostile()}))
    says(load(comfy, "code.ckpt"), "code.ckpt")
    assert not (tmp_path / "owned").exists()


def test_a_zero123plus_folder_that_is_not_there(comfy: Server):
    graph = Graph()
    settings = {"model": "zero123plus_v1.2", "unet": "instant_mesh_white_unet", "precision": "fp32", "download": False}
    model = graph.add("LatheLoadViewModel", **settings)
    graph.add("LatheTestFingerprint", value=model[0], salt="")
    says(comfy.run(graph.prompt), "not on this machine", "download")
