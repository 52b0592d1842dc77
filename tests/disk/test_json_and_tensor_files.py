"""Files that anybody may have written are refused in words that name them."""

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from lathe.pipelines.disk.json_files import parse_json, read_json
from lathe.pipelines.disk.presets import read_preset
from lathe.pipelines.disk.state_dicts import read_state_dict
from lathe.pipelines.disk.tensor_files import read_tensors
from safetensors.torch import save_file

DEEP = "[" * 200_000
BAD_JSON = {
    "nested": DEEP.encode(), "empty": b"", "spaces": b" \n", "no text": b"\xff\xfe\x00", "no JSON": b"{'a': 1}",
    "digits": b'{"a": ' + b"9" * 9000 + b"}", "cut": b'{"a": [1, 2',
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "some.json"
    path.write_bytes(BAD_JSON[kind])
    with pytest.raises(ValueError, match=r"some\.json .*Mend it\.$"):
        read_json(path, "Mend it.")


def test_a_folder_no_file_and_a_byte_order_mark(tmp_path):
    for path in (tmp_path, tmp_path / "gone.json"):
        with pytest.raises(ValueError, match="cannot be read: .*Mend it"):
            read_json(path, "Mend it.")
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "bom.json", "") == {"a": 1} == parse_json('{"a": 1}', "", "")


def test_a_file_without_permission(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", denied)  # whoever runs the tests as root may read everything
    with pytest.raises(ValueError, match="Permission denied"):
        read_json(tmp_path / "mine.json", "")


@pytest.mark.parametrize(
    "content", ['{"title": "a"}', "[]", "7", "null", '{"numbers": 7}', '{"numbers": ["a"]}', '{"numbers": [1e999]}', DEEP]
)
def test_presets_of_ones_own(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"mine\.json .*presets beside it"):
        read_preset(path, lambda data: [int(number) for number in data["numbers"]])


@pytest.mark.parametrize("text", [DEEP, "", "[1]", '{"a"', "9" * 9000, "null"])
def test_what_tensors_say_of_themselves(tmp_path, text):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"lathe": text})
    with pytest.raises(ValueError, match=r"some\.safetensors .*Save it again"):
        read_tensors(path, "a field")


def test_tensors_and_their_ticks(tmp_path):
    path, seen = tmp_path / "some.safetensors", []
    save_file({"a": torch.ones(2), "b": torch.zeros(1)}, path, metadata={"lathe": json.dumps({"x": 1})})
    tensors, settings = read_tensors(path, "a field", tick=lambda *step: seen.append(step))
    assert settings == {"x": 1} and set(tensors) == {"a", "b"} and seen == [(0, 2), (1, 2)]
    with pytest.raises(ValueError, match="is a folder, not a field"):
        read_tensors(tmp_path, "a field")
    with pytest.raises(ValueError, match="There is no file"):
        read_tensors(tmp_path / "gone.safetensors", "a field")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="cut short or damaged.*Save it again"):
        read_tensors(path, "a field")


def test_weights_that_unpack_to_far_more_than_their_file(tmp_path):
    torch.save({"a": torch.zeros(3_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.pt was not loaded: its entries are compressed"):
        read_state_dict(tmp_path / "bomb.pt")
    assert read_state_dict(tmp_path / "plain.pt")["a"].shape == (3_000_000,)
