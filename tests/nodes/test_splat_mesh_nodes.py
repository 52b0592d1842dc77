"""Splat To Field and Fit Mesh as ComfyUI runs them: under inference mode, with tensors from sockets, and cancelled."""

import types

import comfy.model_management as mm
import pytest
import torch
from lathe.nodes.core import folders, memory, progress
from lathe.nodes.core.mesh import from_core_mesh
from lathe.nodes.core.splat import to_core_splat
from lathe.nodes.fields import LatheFieldToMesh
from lathe.nodes.splat_mesh import LatheFitMesh, LatheSplatToField
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.splats import Splats

CAMERAS = orbit_cameras(4, elevation=20)
WIDGETS = {
    "preset": "fast", "seed": 0, "steps": 2, "resolution": 16, "faces": 400, "texture_size": "512", "image_size": 32,
    "background": "#ffffff", "smooth": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def running_node(monkeypatch):
    folders.register_model_folder()
    for node in (LatheFitMesh, LatheSplatToField, LatheFieldToMesh):
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)
    yield
    mm.interrupt_current_processing(False)


def ball(height=0.0, count=1500) -> Splats:
    """A shell around (0, height, 0)."""
    places = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.5
    rotations = torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)
    scales, opacities = torch.full((count, 3), 0.04), torch.full((count,), 0.9)
    return Splats(places + torch.tensor([0.0, height, 0.0]), scales, rotations, opacities, torch.zeros(count, 1, 3))


def meshes(*splats, resolution=32):
    with torch.inference_mode():
        (fields,) = LatheSplatToField.execute(to_core_splat(list(splats)), resolution, 40.0, True).args
        (mesh,) = LatheFieldToMesh.execute(fields, "marching cubes", resolution, 0.0).args
    return mesh


def disc(count=4, size=40):
    """IMAGE and MASK of a red disc on white."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    mask = (axis[:, None] ** 2 + axis**2 < 0.3).float().expand(count, -1, -1).clone()
    return torch.where(mask[..., None] > 0, torch.tensor([1.0, 0, 0]), torch.ones(3)), mask


def test_a_batch_of_splats_becomes_meshes_the_right_way_up():
    low, high = from_core_mesh(meshes(ball(-0.3), ball(0.3)))
    assert abs(float(low.vertices[:, 1].mean()) + 0.3) < 0.05 and abs(float(high.vertices[:, 1].mean()) - 0.3) < 0.05


def test_fit_mesh_gives_textured_meshes_previews_and_curves():
    images, masks = (torch.cat([part, part]) for part in disc())
    with torch.inference_mode():
        mesh, images, masks = meshes(ball(), ball(0.1)), images.clone(), masks.clone()
        before = mesh.vertices.clone(), images.clone()
        out, preview, curve = LatheFitMesh.execute(mesh, images, CAMERAS, masks=masks, **WIDGETS).args
        assert torch.equal(mesh.vertices, before[0]) and torch.equal(images, before[1])
    made = from_core_mesh(out)
    assert len(made) == 2 and all(one.texture is not None and one.texture.shape == (512, 512, 3) for one in made)
    assert preview.shape == (2, 64, 128, 3) and curve.shape[0] == 2
    assert float(made[0].texture[..., 0].mean()) > float(made[0].texture[..., 1].mean()) + 0.2


def test_cancel_gives_the_mesh_as_it_stands_and_ends_the_prompt(monkeypatch):
    images, masks = disc()
    mesh, calls = meshes(ball()), []

    def tick_for(node):
        def tick(step, total, preview=None):
            calls.append(step)
            if len(calls) == 3:
                mm.interrupt_current_processing(True)
            progress.check_cancelled()

        return tick

    monkeypatch.setattr(progress, "tick_for", tick_for)
    with torch.inference_mode():
        out, preview, _ = LatheFitMesh.execute(mesh, images, CAMERAS, masks=masks, **{**WIDGETS, "steps": 50}).args
    (made,) = from_core_mesh(out)
    assert len(calls) == 3 and len(made.faces) > 50 and made.vertex_colors is not None and preview.shape[0] == 1
    with pytest.raises(mm.InterruptProcessingException):
        progress.check_cancelled()


def test_what_does_not_belong_together_is_refused():
    images, masks = disc()
    with pytest.raises(ValueError, match="1 assets, but there are 2 meshes"):
        LatheFitMesh.execute(meshes(ball(), ball()), images, CAMERAS, masks=masks, **WIDGETS)
    with pytest.raises(ValueError, match="all masks are empty"):
        LatheFitMesh.execute(meshes(ball()), images, CAMERAS, masks=masks * 0, **WIDGETS)
    with pytest.raises(ValueError, match="masks are 20 x 40 pixels, the views 40 x 40"):
        LatheFitMesh.execute(meshes(ball()), images, CAMERAS, masks=masks[..., :20], **WIDGETS)


def test_4k_frames_are_refused_before_they_are_fitted_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(memory, "memory_left", lambda *where: 2**30)
    frames = torch.zeros(1).expand(4, 4096, 4096, 3)
    says = r"mesh to 4 views of 4096 x 4096 pixels takes about \d+\.\d GiB; 1\.0 GiB are free. Set `image_size` to 2048"
    with pytest.raises(ValueError, match=says):
        LatheFitMesh.execute(meshes(ball()), frames, CAMERAS, **{**WIDGETS, "image_size": 0})


def test_main_memory_for_a_fine_field_is_asked_for_before_it_is_made(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "memory_left", lambda where=None: asked.append(where) or 2**30)
    splat = to_core_splat([ball()])
    says = r"field of 512 cells along the edge takes about \d\.\d GiB; 1\.0 GiB are free. Set `resolution` to 256 or less, or turn `fill_"
    with pytest.raises(ValueError, match=says):
        LatheSplatToField.execute(splat, 512, 40.0, True)
    LatheSplatToField.execute(splat, 512, 40.0, False)
    LatheSplatToField.execute(splat, 32, 40.0, True)
    assert asked == [torch.device("cpu")] * 3


def test_cancel_ends_the_filling_of_a_field(monkeypatch):
    ticks = []

    def tick(step, total, preview=None):
        ticks.append(step / total)
        if step / total > 0.6:  # the second half is the filling
            raise mm.InterruptProcessingException

    monkeypatch.setattr(progress, "tick_for", lambda node: tick)
    with pytest.raises(mm.InterruptProcessingException):
        LatheSplatToField.execute(to_core_splat([ball()]), 32, 40.0, True)
    assert 0.5 < ticks[-2] < 0.6
