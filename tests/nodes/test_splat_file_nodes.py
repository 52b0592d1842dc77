"""Load, Save and Preview Splat from socket to file and back."""

import folder_paths
import pytest
import torch
from handed import letter_splats
from lathe.nodes import splat_files
from lathe.nodes.core import files, progress
from lathe.nodes.core.splat import from_core_splat, to_core_splat
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.formats.splats import load_splats
from PIL import Image


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(progress, "tick_for", lambda node: lambda *_: None)
    return tmp_path


def some(count: int) -> Splats:
    return letter_splats().select(torch.arange(count))


def save(splats: list[Splats], prefix: str = "lathe/splat", format: str = "ply"):
    return splat_files.LatheSaveSplat.execute(to_core_splat(splats), prefix, format)


def load(name: str, fit: bool = False) -> Splats:
    (core,) = splat_files.LatheLoadSplat.execute(name, fit).args
    return from_core_splat(core)[0]


@pytest.mark.parametrize("format", ["ply", "splat", "spz"])
def test_a_batch_is_saved_file_by_file_and_loaded(folders, format):
    made = save([some(40), some(25)], format=format)
    names = made.args[0]
    assert names == [f"lathe/splat_00001_.{format}", f"lathe/splat_00002_.{format}"]
    assert made.ui["3d"][1] == {"filename": f"splat_00002_.{format}", "subfolder": "lathe", "type": "output"}
    assert f"{names[1]} [output]" in files.asset_files(".ply", ".splat", ".spz")
    back = [load(f"{name} [output]") for name in names]
    assert [len(one) for one in back] == [40, 25]
    torch.testing.assert_close(back[1].positions, some(25).positions, atol=1e-5, rtol=0)


def test_fit_brings_splats_into_the_cube(folders):
    far = some(500)
    save([Splats(far.positions * 30 + 7, far.scales * 30, far.rotations, far.opacities, far.sh)])
    assert float(load("lathe/splat_00001_.ply [output]").positions.max()) > 7
    assert float(load("lathe/splat_00001_.ply [output]", fit=True).positions.abs().max()) < 1.05


def test_names_that_lead_out_are_refused(folders):
    for name in ("../secret.ply", "../../a.ply [output]"):
        with pytest.raises(ValueError, match="leads out"):
            splat_files.LatheLoadSplat.execute(name, False)
    with pytest.raises(ValueError, match="leads out of the output folder"):
        save([some(3)], prefix="../a")


def test_nothing_left_to_save_or_show_is_said(folders):
    empty = to_core_splat([some(3), some(0)])
    for run in (lambda: splat_files.LatheSaveSplat.execute(empty, "a", "ply"), lambda: splat_files.LathePreviewSplat.execute(empty)):
        with pytest.raises(ValueError, match="no Gaussians to show or to save"):
            run()
    assert not list((folders / "output").rglob("*.*"))


def test_a_preview_is_splats_for_the_viewer_and_a_picture(folders):
    made = splat_files.LathePreviewSplat.execute(to_core_splat([letter_splats(), some(100)]))
    assert made.args[0].shape == (2, 512, 512, 3)
    shown, posters = made.ui["lathe_splats"], made.ui["lathe_posters"]
    assert [entry["count"] for entry in shown] == [len(letter_splats()), 100]
    assert {entry["type"] for entry in shown + posters} == {"temp"}
    assert len(load_splats(folders / "temp" / shown[0]["filename"])) == len(letter_splats())
    assert Image.open(folders / "temp" / posters[0]["filename"]).size == (512, 512)
    red = (made.args[0][0, ..., 0] > 0.7) & (made.args[0][0, ..., 1] < 0.4)
    assert float(red.nonzero()[:, 1].float().mean()) > 300, "the red left side is on the right"


def test_loading_again_only_when_the_file_changed(folders):
    save([some(3)])
    name = "lathe/splat_00001_.ply [output]"
    before = splat_files.LatheLoadSplat.fingerprint_inputs(name, False)
    assert splat_files.LatheLoadSplat.fingerprint_inputs(name, False) == before
    (folders / "output" / "lathe" / "splat_00001_.ply").write_bytes(b"x")
    assert splat_files.LatheLoadSplat.fingerprint_inputs(name, False) != before
