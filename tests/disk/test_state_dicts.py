"""Weight files of every kind, whole, cut short and hostile."""

import os
import pickle

import pytest
import torch
from lathe.pipelines.disk.state_dicts import read_metadata, read_state_dict
from safetensors.torch import save_file

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write(kind, path):
    if kind == "safetensors":
        save_file(STATE, path, metadata={"made_by": "a test"})
    elif kind == "lightning":
        torch.save({"state_dict": STATE, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt", "w.bin"])
@pytest.mark.parametrize("kind", ["safetensors", "lightning", "zip", "old"])
def test_the_content_tells_the_kind_not_the_name(tmp_path, kind, name):
    read = read_state_dict(write(kind, tmp_path / name))
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in STATE.items())
    assert read_metadata(tmp_path / name) == ({"made_by": "a test"} if kind == "safetensors" else {})


def test_large_files_are_mapped_and_not_read(tmp_path):
    torch.save({"big": torch.zeros(64 << 20, dtype=torch.uint8)}, tmp_path / "big.ckpt")
    before = int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc/self/statm") else None
    big = read_state_dict(tmp_path / "big.ckpt")["big"]
    if before is not None:
        grown = (int(open("/proc/self/statm").read().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE")
        assert grown < 16 << 20
    assert big.numel() == 64 << 20


@pytest.mark.parametrize("kind", ["safetensors", "lightning", "zip", "old"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.95])
def test_truncated_files_are_named(tmp_path, kind, share):
    content = write(kind, tmp_path / "whole").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"^cut\.ckpt .*(did not finish|truncated)"):
        read_state_dict(tmp_path / "cut.ckpt")


@pytest.mark.parametrize("how", ["zip", "old", "bare", "hidden"])
def test_code_in_a_pickle_never_runs(tmp_path, how):
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    hostile = Hostile(f"touch {proof}")
    if how == "bare":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    elif how == "hidden":
        torch.save({"state_dict": {**STATE, "callbacks": hostile}}, path)
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ValueError, match=r"evil\.ckpt was not loaded.*could run code") as caught:
        read_state_dict(path)
    assert "weights_only" not in str(caught.value)  # the library's own advice is to read it unsafely
    assert not proof.exists()


def test_what_is_no_weights_at_all(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        read_state_dict(tmp_path / "gone.ckpt")
    with pytest.raises(ValueError, match="is a folder"):
        read_state_dict(tmp_path)
    (tmp_path / "page.ckpt").write_text("<!doctype html><title>404</title>")
    with pytest.raises(ValueError, match="another kind of file"):
        read_state_dict(tmp_path / "page.ckpt")
    torch.save({"epoch": 3}, tmp_path / "none.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name in ("none.ckpt", "list.ckpt"):
        with pytest.raises(ValueError, match="holds no tensors"):
            read_state_dict(tmp_path / name)
