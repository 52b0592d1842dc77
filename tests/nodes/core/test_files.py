"""What loaders offer and what a name in their lists leads to."""

import folder_paths
import pytest
from lathe.nodes.core import files
from lathe.nodes.core.folders import MINI, register_model_folder, weight_choices, weights_path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output"):
        (tmp_path / name / "lathe").mkdir(parents=True)
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    (tmp_path / "input" / "a.glb").write_bytes(b"a")
    (tmp_path / "input" / "lathe" / "b.OBJ").write_bytes(b"b")
    (tmp_path / "output" / "lathe" / "c.glb").write_bytes(b"c")
    (tmp_path / "output" / "not_ours.glb").write_bytes(b"d")
    (tmp_path / "secret.glb").write_bytes(b"e")
    return tmp_path


def test_loaders_offer_inputs_our_outputs_and_the_examples(folders):
    offered = files.asset_files(".glb", ".obj")
    assert [name for name in offered if "[example]" not in name] == ["a.glb", "lathe/b.OBJ", "lathe/c.glb [output]"]
    assert "lathe_demo_mesh.glb [example]" in offered


def test_names_lead_to_their_files_and_nowhere_else(folders):
    assert files.asset_path("a.glb").read_bytes() == b"a"
    assert files.asset_path("a.glb [input]").read_bytes() == b"a"
    assert files.asset_path("lathe/c.glb [output]").read_bytes() == b"c"
    assert files.asset_path("lathe_demo_mesh.glb [example]").is_file()
    for bad in ("../secret.glb", "../../secret.glb [output]", "/etc/hostname", "../__init__.py [example]"):
        with pytest.raises(ValueError, match="leads out"):
            files.asset_path(bad)
    with pytest.raises(ValueError, match="no file 'z.glb'"):
        files.asset_path("z.glb")


def test_a_changed_file_changes_its_stamp(folders):
    before = files.file_stamp("a.glb")
    assert files.file_stamp("a.glb") == before
    (folders / "input" / "a.glb").write_bytes(b"longer")
    assert files.file_stamp("a.glb") != before


def test_weights_that_are_not_there_are_named_with_their_place_and_licence(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    register_model_folder()
    assert weight_choices("lrm", ".ckpt")[0] == MINI
    assert "instant_mesh_base" in weight_choices("lrm", ".ckpt")
    with pytest.raises(ValueError, match="Turn on `download`.*instant_mesh_base.ckpt.*Apache-2.0"):
        weights_path("lrm", "instant_mesh_base", False, lambda *_: None)
    with pytest.raises(ValueError, match="leads out of the model folder"):
        weights_path("lrm", "../secret.ckpt", False, lambda *_: None)
    with pytest.raises(ValueError, match="There is no 'mine.ckpt'"):
        weights_path("lrm", "mine.ckpt", False, lambda *_: None)
