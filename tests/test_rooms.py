"""The rooms of the pack and who imports whom: no circles, few rooms, a drawing that is true, a contract that breaks."""

import os
import re
import shutil
import subprocess
import sys

import rooms
from lathe_root import ROOT


def test_rooms_are_few_and_import_each_other_in_no_circle():
    house = rooms.measure()
    assert not house.circles and not house.module_circles and not house.up
    assert 15 < len(house.rooms) <= 30 and len(house.loose) <= 2


def test_the_drawing_shows_the_rooms_as_they_are():
    assert rooms.draw(rooms.measure()) == rooms.PICTURE.read_text(encoding="utf-8"), "python dev.py rooms --draw makes it anew"


def test_every_room_says_what_it_is():
    assert not [room for room in rooms.measure().rooms if len(rooms.about(room)) < 15]


def test_the_paths_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [path for path in re.findall(r"`((?:pipelines|nodes|bench|tests|docs|support|example_workflows)/[\w./]*)`", text)]
    assert len(named) > 20 and not [path for path in named if not (ROOT / path).exists()]


def test_the_contract_breaks_where_an_import_runs_up(tmp_path):
    """A copy of the pack, as it is, keeps it; with one import from data to nets it does not."""
    copy = tmp_path / "lathe"
    for folder in ("pipelines", "nodes", "bench", "training"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz"))
    shutil.copy(ROOT / "__init__.py", copy)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]

    def check() -> subprocess.CompletedProcess:
        arguments = [*command, "--config", str(ROOT / "pyproject.toml")]
        return subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})

    kept = check()
    assert kept.returncode == 0, kept.stdout + kept.stderr
    with (copy / "pipelines" / "data" / "mesh.py").open("a", encoding="utf-8") as module:
        module.write("\n\nfrom ..nets import dino  # noqa\n")
    broken = check()
    assert broken.returncode == 1 and "lathe.pipelines.data is not allowed to import lathe.pipelines.nets" in broken.stdout, broken.stdout
