"""The nodes of distillation as ComfyUI runs them: under inference mode, with tensors from sockets."""

import gc
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lathe.nodes import distil, distil_files
from lathe.nodes.core import files, folders, progress
from lathe.nodes.core.mesh import from_core_mesh, to_core_mesh
from lathe.nodes.core.splat import from_core_splat, to_core_splat
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.distillation import settings
from lathe.pipelines.distillation.settings import DistilPreset, LossWeights, March
from lathe.pipelines.fitting.failed_steps import FitBroken
from lathe.pipelines.meshes.extract import marching_cubes
from lathe.pipelines.nets.distil_net import FieldShape
from lathe.pipelines.splats.start import start_at_centre

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ball_prior import BallPrior, ball_views  # noqa: E402

PLACE = {"reference_weight": 1.0, "elevation": 0.0, "radius": 1.8, "fov": 40.0}
LOOP = {"preset": "mini", "seed": 0, "steps": 3, "size": 16, **PLACE}
MESH = {**LOOP, "surface": "dmtet", "grid": 0, "faces": 200, "texture_size": "512"}
SHAPE = FieldShape(levels=3, log2_size=10, base=4, finest=16, hidden=8, layers=1, bias="cone", bias_strength=3.0, bias_radius=0.5)


@pytest.fixture(autouse=True)
def small_preset(monkeypatch, tmp_path):
    folders.register_model_folder()
    weights = LossWeights(rgb=100, mask=30)
    mini = settings.load_distil_preset("mini")
    small = DistilPreset(
        mini.title, mini.source,
        replace(mini.coarse, field=SHAPE, weights=weights, march=March(0.08, 12, 8, 0.8, 1.0)),
        replace(mini.fine, grid=10, band=0.0, weights=weights, color=SHAPE, color_start=5),
        replace(mini.splat, points=60, weights=weights),
    )  # fmt: skip
    monkeypatch.setattr(settings, "load_distil_preset", lambda name: small)
    for node in [*distil.NODES, *distil_files.NODES]:
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)
    monkeypatch.setattr(files.folder_paths, "get_output_directory", lambda: str(tmp_path))


def picture() -> dict:
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 32)
    return {"image": image.movedim(1, -1), "mask": mask[:, 0]}


def run(node, **given):
    with torch.inference_mode():
        given = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in given.items()}
        before = {key: value.clone() for key, value in given.items() if isinstance(value, torch.Tensor)}
        out = node.execute(**given)
        assert all(torch.equal(value, given[key]) for key, value in before.items())
    return out.args


def ball_mesh() -> Mesh:
    axis = torch.linspace(-1, 1, 13)
    vertices, faces = marching_cubes(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).norm(dim=-1) - 0.4, 1.0)
    return Mesh(vertices, faces)


def test_a_field_a_turntable_a_curve_and_a_run_come_out():
    (field,), turntable, curve, kept = run(distil.LatheDistilField, prior=BallPrior(), **LOOP, **picture())
    assert turntable.shape == (12, 64, 64, 3) and curve.shape[0] == 1 and kept.steps == 3
    density = field.geometry(torch.rand(10, 3))
    assert bool(torch.isfinite(density).all()) and not density.requires_grad
    with_alpha = torch.cat([picture()["image"], picture()["mask"][..., None]], -1)
    again = run(distil.LatheDistilField, prior=BallPrior(), **LOOP, image=with_alpha)[3]
    assert all(torch.equal(kept.tensors[name], again.tensors[name]) for name in kept.tensors)
    depth = torch.rand(1, 20, 20, 3)  # another size than the picture's is brought to it
    assert "depth" not in kept.about["losses"][0]
    assert run(distil.LatheDistilField, prior=BallPrior(), depth=depth, **LOOP, **picture())[3].steps == 3
    assert run(distil.LatheDistilField, prior=BallPrior(), **LOOP)[3].steps == 3  # text to 3D: no picture


def test_a_run_that_was_saved_goes_on(monkeypatch):
    whole = run(distil.LatheDistilField, prior=BallPrior(), **{**LOOP, "steps": 5}, **picture())[3]
    half = run(distil.LatheDistilField, prior=BallPrior(), **LOOP, **picture())[3]
    name = run(distil_files.LatheSaveDistillation, run=half, filename_prefix="lathe/run")[0]
    assert name == "lathe/run_00001_.safetensors"
    (kept,) = run(distil_files.LatheLoadDistillation, file=f"{Path(name).as_posix()} [output]")
    ended = run(distil.LatheDistilField, prior=BallPrior(), run=kept, **{**LOOP, "steps": 5}, **picture())[3]
    assert ended.steps == 5 and kept.steps == 3
    # Rates fall over the planned steps, so a longer plan moves more; the random numbers are those of the unbroken run.
    assert torch.equal(ended.tensors["generator"], whole.tensors["generator"])
    done = run(distil.LatheDistilField, prior=BallPrior(), run=ended, **LOOP, **picture())[3]
    assert done.steps == 5
    with pytest.raises(ValueError, match="leads out of the output folder"):
        run(distil_files.LatheSaveDistillation, run=half, filename_prefix="../run")
    with pytest.raises(ValueError, match="run state is of 'Distil Field'"):
        run(distil.LatheDistilSplat, prior=BallPrior(), run=half, points=0, **LOOP, **picture())


def test_a_mesh_starts_from_a_mesh_or_a_field_and_has_a_texture():
    mesh, turntable, _, kept = run(distil.LatheDistilMesh, start=to_core_mesh([ball_mesh()]), prior=BallPrior(), **MESH, **picture())
    (made,) = from_core_mesh(mesh)
    assert made.uvs is not None and made.texture.shape[0] == 512 and len(turntable) == 12 and kept.stage == "Distil Mesh"
    (field,), *_ = run(distil.LatheDistilField, prior=BallPrior(), **{**LOOP, "steps": 40}, **picture())
    mesh = run(distil.LatheDistilMesh, start=[field], prior=BallPrior(), **{**MESH, "surface": "flexicubes", "grid": 16}, **picture())[0]
    assert len(from_core_mesh(mesh)[0].faces) > 20
    with pytest.raises(ValueError, match="one asset at a time, but 2 arrived at start"):
        run(distil.LatheDistilMesh, start=to_core_mesh([ball_mesh()] * 2), prior=BallPrior(), **MESH, **picture())


def test_a_surface_that_vanishes_leaves_the_last_good_mesh(monkeypatch, caplog):
    from lathe.pipelines.distillation.surface import TetGrid

    def vanish(self):
        nonlocal calls
        calls += 1
        if calls == 3:
            with torch.no_grad():
                self.sdf.fill_(-1.0)
        return surface(self)

    calls, surface = 0, TetGrid.surface
    monkeypatch.setattr(TetGrid, "surface", vanish)
    mesh, _, _, kept = run(distil.LatheDistilMesh, start=to_core_mesh([ball_mesh()]), prior=BallPrior(), **MESH, **picture())
    assert kept.steps < 3 and "the last good mesh is kept" in caplog.text
    assert from_core_mesh(mesh)[0].texture is not None


def test_splats_come_out_from_nothing_from_splats_and_from_a_mesh():
    splat, turntable, _, kept = run(distil.LatheDistilSplat, prior=BallPrior(), points=0, **LOOP, **picture())
    assert 0 < len(from_core_splat(splat)[0]) <= 60 and len(turntable) == 12 and kept.stage == "Distil Splat"
    given = to_core_splat([start_at_centre(20, 0)])
    assert len(from_core_splat(run(distil.LatheDistilSplat, prior=BallPrior(), start=given, points=0, **LOOP)[0])[0]) == 20
    core = to_core_mesh([ball_mesh()])
    assert len(from_core_splat(run(distil.LatheDistilSplat, prior=BallPrior(), start=core, points=40, **LOOP)[0])[0]) == 40


def test_a_prior_that_fails_for_good_costs_nothing_that_was_reached(caplog):
    loop = {**LOOP, "steps": 60}
    kept = run(distil.LatheDistilField, prior=BallPrior(spoil=range(3, 100)), **loop)[3]
    assert 20 <= kept.steps < 60 and "What was reached before is kept" in caplog.text
    with pytest.raises(FitBroken, match="20 steps in a row"):
        run(distil.LatheDistilField, prior=BallPrior(spoil=range(100)), **loop)


@pytest.mark.parametrize("node", [distil.LatheDistilField, distil.LatheDistilMesh, distil.LatheDistilSplat])
def test_cancel_gives_the_last_good_state(monkeypatch, node):
    def tick(step, total, preview=None):
        if (step, total) == (2, LOOP["steps"]):  # of the loop, not of what prepares its start
            raise progress.mm.InterruptProcessingException

    monkeypatch.setattr(progress, "tick_for", lambda node: tick)
    extra = {"LatheDistilMesh": {**MESH, "start": to_core_mesh([ball_mesh()])}, "LatheDistilSplat": {**LOOP, "points": 0}}
    try:
        out = run(node, prior=BallPrior(), **extra.get(node.__name__, LOOP), **picture())
        assert progress.mm.interrupt_processing and out[3].steps == 2
    finally:
        progress.mm.interrupt_current_processing(False)


@pytest.mark.parametrize("node", distil.NODES)
def test_two_runs_in_a_row_free_their_memory(node):
    extra = {"LatheDistilMesh": {**MESH, "start": to_core_mesh([ball_mesh()])}, "LatheDistilSplat": {**LOOP, "points": 0}}

    def held_after_a_run(keep: list) -> int:
        keep.append(run(node, prior=BallPrior(), **extra.get(node.__name__, LOOP), **picture()))
        keep.clear()
        return held_bytes()

    first = held_after_a_run([])  # what is cached for good is cached now
    out = run(node, prior=BallPrior(), **extra.get(node.__name__, LOOP), **picture())
    assert held_bytes() > first, "a result that is kept is seen"
    del out
    assert held_after_a_run([]) == held_after_a_run([]) == first


def held_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = [item.untyped_storage() for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


BAD = [
    ({"image": torch.rand(2, 32, 32, 3), "mask": None}, "one asset at a time, but 2 pictures"),
    ({"image": torch.rand(1, 32, 48, 3), "mask": None}, "must be square"),
    ({"mask": torch.zeros(1, 32, 32)}, "mask is empty"),
    ({"mask": torch.ones(1, 16, 16)}, "picture's size 32 x 32"),
    ({"depth": torch.rand(3, 32, 32, 3)}, "but 3 depths arrived"),
    ({"image": None}, "needs the reference picture"),
    ({"image": torch.full((1, 32, 32, 3), float("nan"))}, "NaN or infinite"),
    ({"size": 8}, "too small"),
]


@pytest.mark.parametrize("change, words", BAD)
def test_bad_input_is_said_in_words(change, words):
    with pytest.raises(ValueError, match=words):
        run(distil.LatheDistilField, prior=BallPrior(), **{**LOOP, **picture(), **change})
