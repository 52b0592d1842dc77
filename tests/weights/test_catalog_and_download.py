"""The table of weights, and fetching an entry from a hub that lives in this file."""

import hashlib
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from lathe.pipelines.nets.triplane_lrm import PUBLISHED
from lathe.pipelines.weights.catalog import entries, entry, inside, locate
from lathe.pipelines.weights.download import STAGING, download

FILES = {
    "acme/one": {"weights.bin": b"w" * (3 << 20), "README.md": b"read me"},
    "acme/many": {"unet/config.json": b"{}", "unet/model.safetensors": b"u" * 5000, "vae/config.json": b"[]", "notes.txt": b"no"},
}


class Hub:
    """What `download` uses of huggingface_hub, serving FILES in pieces."""

    def __init__(self):
        self.fetched = []
        self.damage = False
        self.offline = False

    def module(self):
        hub = types.ModuleType("huggingface_hub")
        hub.HfApi = lambda: types.SimpleNamespace(model_info=self.model_info)
        hub.hf_hub_download = self.hf_hub_download
        return hub

    def model_info(self, repository, revision, files_metadata):
        if self.offline:
            raise ConnectionError("no route to host")
        siblings = []
        for name, content in FILES[repository].items():
            lfs = types.SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if not name.endswith("json") else None
            siblings.append(types.SimpleNamespace(rfilename=name, size=len(content), lfs=lfs))
        return types.SimpleNamespace(siblings=siblings)

    def hf_hub_download(self, repository, filename, *, revision, local_dir, tqdm_class=None):
        content = FILES[repository][filename]
        partial = Path(local_dir) / ".cache" / (filename.replace("/", "-") + ".incomplete")
        partial.parent.mkdir(parents=True, exist_ok=True)
        start = partial.stat().st_size if partial.exists() else 0
        self.fetched.append((filename, start))
        bar = tqdm_class(total=len(content), initial=start)
        with partial.open("ab") as file:
            for i in range(start, len(content), 1 << 20):
                piece = content[i : i + (1 << 20)]
                file.write(b"x" * len(piece) if self.damage else piece)
                file.flush()
                bar.update(len(piece))
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
        return str(target)


@pytest.fixture()
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub.module())
    return hub


ONE = replace(entry("instant_mesh_base"), name="one", path="one.bin", repository="acme/one", files=("weights.bin",), sha256=None)
MANY = replace(ONE, name="many", path="many", repository="acme/many", files=("*/config.json", "*/*.safetensors"))


def test_the_table_is_whole():
    names = [row.name for row in entries()]
    assert len(set(names)) == len(names)
    assert set(PUBLISHED) <= set(names)
    assert {"instant_mesh_white_unet", "zero123plus_v1.1", "zero123plus_v1.2"} <= set(names)
    for row in entries():
        assert row.folder == "lathe" and row.licence and row.revision and row.page.endswith(row.repository)
        assert row.sha256 is None or len(row.sha256) == 64
        inside(Path("/models"), row.path)
    assert entry("zero123plus_v1.2").is_folder and not entry("instant_mesh_base").is_folder
    with pytest.raises(ValueError, match="no 'instant_mesh_huge'; it has instant_mesh_base"):
        entry("instant_mesh_huge")


def test_weights_are_found_in_any_model_folder(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    assert locate(ONE, [first, second]) is None
    second.mkdir()
    (second / "one.bin").write_bytes(b"w")
    assert locate(ONE, [first, second]) == second / "one.bin"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:\\evil", "\\\\server\\evil", ""])
def test_names_that_lead_out_are_refused(tmp_path, hub, name):
    with pytest.raises(ValueError, match="would lead out"):
        inside(tmp_path, name)
    with pytest.raises(ValueError, match="would lead out"):
        download(replace(ONE, path=name), tmp_path / "models")
    assert hub.fetched == [] and not (tmp_path / "evil").exists()


def test_a_file_arrives_whole_and_is_not_fetched_twice(tmp_path, hub):
    seen = []
    folder = tmp_path / "models"
    path = download(ONE, folder, tick=lambda step, total, preview=None: seen.append((step, total)))
    assert path == folder / "one.bin" and path.read_bytes() == FILES["acme/one"]["weights.bin"]
    assert list(dict.fromkeys(seen)) == [(1, 3), (2, 3), (3, 3)] and seen.count((3, 3)) > 2, "the checksum is no long silence"
    assert download(ONE, folder) == path
    assert hub.fetched == [("weights.bin", 0)]
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["one.bin"]


def test_a_folder_arrives_with_what_the_patterns_name(tmp_path, hub):
    path = download(MANY, tmp_path)
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()) == [
        "unet/config.json",
        "unet/model.safetensors",
        "vae/config.json",
    ]


def test_cancel_leaves_no_file_and_the_next_try_goes_on(tmp_path, hub):
    class Cancelled(Exception):
        pass

    def cancel(step, total, preview=None):
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        download(ONE, tmp_path, tick=cancel)
    assert not (tmp_path / "one.bin").exists()
    path = download(ONE, tmp_path)
    assert path.read_bytes() == FILES["acme/one"]["weights.bin"]
    assert hub.fetched == [("weights.bin", 0), ("weights.bin", 2 << 20)]


def test_a_damaged_file_never_arrives(tmp_path, hub):
    hub.damage = True
    with pytest.raises(ValueError, match=r"weights\.bin arrived with checksum .* expected"):
        download(ONE, tmp_path)
    assert not (tmp_path / "one.bin").exists()
    hub.damage = False
    with pytest.raises(ValueError, match="expected 0000"):
        download(replace(ONE, sha256="0" * 64), tmp_path)
    assert download(ONE, tmp_path).exists()


def test_trouble_is_said_with_the_way_by_hand(tmp_path, hub, monkeypatch):
    hub.offline = True
    by_hand = r"fetched by hand from https://huggingface\.co/acme/one and put at .*one\.bin"
    with pytest.raises(ValueError, match=r"could not be downloaded \(no route to host\).*" + by_hand):
        download(ONE, tmp_path)
    hub.offline = False
    with pytest.raises(ValueError, match=r"has no gone\.bin any more"):
        download(replace(ONE, files=("gone.bin",)), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=1 << 20))
    with pytest.raises(ValueError, match="needs 3 MiB, but .* has 1 MiB free"):
        download(ONE, tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install huggingface_hub.*" + by_hand):
        download(ONE, tmp_path)


def test_the_staging_folder_is_no_model(tmp_path, hub):
    assert STAGING.startswith(".")
    (tmp_path / "blocked").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="could not be downloaded"):
        download(ONE, tmp_path / "blocked")
