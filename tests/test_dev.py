"""How dev.py comes by a ComfyUI: from its repository, else from the package index; nothing is left half made."""

import importlib.util
import subprocess

import pytest
from lathe_root import ROOT


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """dev.py as a module, with a folder of its own to work in."""
    spec = importlib.util.spec_from_file_location("lathe_dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    return module


@pytest.fixture
def repository(tmp_path):
    """A repository with one tagged version."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "main.py").write_text("print()\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "one"], ["tag", "v0.3.75"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_comfyui_comes_from_its_repository(dev, repository, monkeypatch):
    monkeypatch.setattr(dev, "REPOSITORY", repository.as_uri())
    monkeypatch.setattr(dev, "unpack_comfyui", lambda target: pytest.fail("asked the package index"))
    (dev.WORK / "ComfyUI").mkdir(parents=True)
    (dev.WORK / "ComfyUI" / "old.py").write_text("")
    (dev.WORK / "ComfyUI.new").mkdir()
    dev.get_comfyui()
    assert sorted(path.name for path in (dev.WORK / "ComfyUI").iterdir()) == ["main.py"]
    assert not (dev.WORK / "ComfyUI.new").exists()


@pytest.mark.parametrize("fault", ["no repository", "no tag", "no git", "too slow"])
def test_where_the_repository_does_not_answer_the_package_index_does(dev, repository, monkeypatch, capsys, fault):
    monkeypatch.setattr(dev, "REPOSITORY", repository.as_uri() + ("/gone" if fault == "no repository" else ""))
    monkeypatch.setattr(dev, "TAG", "v9" if fault == "no tag" else dev.TAG)
    if fault == "no git":
        monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    if fault == "too slow":
        monkeypatch.setattr(dev, "REPOSITORY_SECONDS", 1e-6)
    dev.WORK.mkdir()

    def unpack(target):
        assert not target.exists()
        target.mkdir()
        (target / "main.py").write_text("")

    monkeypatch.setattr(dev, "unpack_comfyui", unpack)
    dev.get_comfyui()
    assert (dev.WORK / "ComfyUI" / "main.py").exists()
    said = {"no git": "There is no git", "too slow": "longer than", "no tag": "v9", "no repository": "gone"}[fault]
    assert said in capsys.readouterr().out
