"""The elevation head's recipe on two real objects: orbits, features, a step, a run, an export that loads."""

import json
import sys

import numpy as np
import pytest
import torch
from lathe.pipelines.weights.mini_models import load_elevation, load_lrm
from lathe.training import export_mini, objects, render_orbits, train_elevation
from lathe.training.objects import load_object, objects_folder

KEYS = ["scopia/vase3", "blendswap-cc-0/chicken"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("views")
    common = ["render_orbits", "--processes", "1", "--objects", str(objects_folder(None))]
    with pytest.MonkeyPatch.context() as patch:
        for split, words in (("train", ["--stretched"]), ("test", [])):
            (out / split).mkdir()
            (out / split / "keys.json").write_text(json.dumps({"keys": KEYS}))
            patch.setattr(sys, "argv", [*common, "--data", str(out / split), *words])
            render_orbits.main()
    return out


def test_orbits_show_their_objects_at_elevations_of_all_parts(data):
    for split, orbits in (("train", 16), ("test", 8)):
        elevations, rgba = (np.load(data / split / name) for name in render_orbits.ARRAYS)
        assert elevations.shape == (2, orbits) and rgba.shape == (2, orbits, 4, 64, 64, 4)
        assert ((elevations[:, :8] + 15) // 10 == np.arange(8)).all()
        assert (rgba[..., 3] > 127).any((-1, -2)).all()
    assert not list(data.rglob("*.partial"))
    assert (np.load(data / "train" / "orbit_rgba.npy")[:, :8] == np.load(data / "test" / "orbit_rgba.npy")).all()


def test_stretching_keeps_the_size_and_turns_the_normals():
    obj = load_object(objects_folder(None), KEYS[0])
    longer = render_orbits.stretched(obj, np.array([1.0, 1.5, 1.0]))
    assert np.linalg.norm(longer.vertices, axis=1).max() == pytest.approx(objects.MAX_RADIUS, abs=1e-5)
    before, after = (np.ptp(o.vertices, axis=0) for o in (obj, longer))
    assert (after / before)[1] / (after / before)[0] == pytest.approx(1.5, rel=1e-3)
    lengths = np.linalg.norm(longer.normals, axis=1)
    assert np.allclose(lengths[np.linalg.norm(obj.normals, axis=1) > 0.5], 1, atol=1e-4)


def test_a_run_writes_its_curve_and_its_export_loads(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_elevation, "HELD_OUT", 2)
    monkeypatch.setattr(sys, "argv", ["train", "--data", str(data), "--run", str(tmp_path), "--minutes", "0.03"])
    train_elevation.main()
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert {"held_out_mean", "held_out_median", "held_out_rms", "test_mean"} <= set(lines[-1])
    out = tmp_path / "elevation.safetensors"
    monkeypatch.setattr(sys, "argv", ["export", "elevation", "--run", str(tmp_path), "--out", str(out)])
    export_mini.main()
    net = load_elevation(out)
    assert net.deviation == pytest.approx(lines[-1]["held_out_rms"], abs=0.06)
    lrm = load_lrm()
    lessons = train_elevation.read_lessons(data / "test", lrm.net.encoder, lrm.view_size, mirror=False)
    assert lessons.scores(net.head, "test")["test_mean"] == pytest.approx(lines[-1]["test_mean"], abs=0.3)


def test_missing_orbits_are_named(tmp_path):
    lrm = load_lrm()
    with pytest.raises(SystemExit, match="render_orbits"):
        train_elevation.read_lessons(tmp_path, lrm.net.encoder, lrm.view_size, mirror=False)


def test_the_objective_teaches_the_head(data):
    lrm = load_lrm()
    lessons = train_elevation.read_lessons(data / "train", lrm.net.encoder, lrm.view_size, mirror=True)
    assert lessons.features.shape == (2, 16, 2, 65 * 96)
    torch.manual_seed(0)
    head, objective = train_elevation.untrained_head(lessons), train_elevation.Objective(lessons)
    optimizer, generator = torch.optim.Adam(head.parameters(), 1e-3), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(25):
        loss, _ = objective(head, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_untrained_head_answers_the_mean(data):
    lrm = load_lrm()
    lessons = train_elevation.read_lessons(data / "test", lrm.net.encoder, lrm.view_size, mirror=False)
    head = train_elevation.untrained_head(lessons).eval()
    answers = head(lessons.features.flatten(0, 2).float())
    torch.testing.assert_close(answers, lessons.elevations.mean().expand_as(answers))
