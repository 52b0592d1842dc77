"""Mesh files from public bug reports (tests/data/reported): the right value of each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.formats.meshes import load_mesh, save_mesh
from lathe.pipelines.rendering.mesh import render_mesh

CASES = Path(__file__).parents[1] / "data" / "reported"


def box(mesh):
    return mesh.vertices.amin(0).tolist(), mesh.vertices.amax(0).tolist()


def seen(mesh):
    """A picture from the front, (3, H, W), and its mask."""
    views = render_mesh(mesh, orbit_cameras(1, radius=4, fov=40), 64, 64)
    return views.images[0], views.masks[0, 0] > 0.5


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("g02_quantized_positions.glb", [0, 0, 0], [2, 2, 0]),
        ("g06_sparse.glb", [0, 0, 0], [1, 1, 3]),
        ("g07_gpu_instancing.glb", [0, 0, 0], [11, 1, 0]),
        ("g13_skinned.glb", [0, 7, 0], [1, 8, 0]),
    ],
)
def test_places(name, low, high):
    assert box(load_mesh(CASES / name)) == (low, high)


def test_instances_have_vertices_of_their_own():
    assert len(load_mesh(CASES / "g07_gpu_instancing.glb").vertices) == 12


@pytest.mark.parametrize(("name", "said"), [("g01_draco.glb", "Draco.*save it uncompressed"), ("g09_ktx2_required.glb", "KTX2.*PNG")])
def test_refused_by_name(name, said):
    with pytest.raises(ValueError, match=said):
        load_mesh(CASES / name)


def test_texture_transform():
    uvs = load_mesh(CASES / "g04_texture_transform.glb").uvs
    assert uvs.amin(0).tolist() == [0.25, 0.5] and uvs.amax(0).tolist() == [0.75, 1.0]


def test_sixteen_bits_of_grey():
    assert float(load_mesh(CASES / "g10_texture_grey16.glb").texture.mean()) == pytest.approx(0.458, abs=1e-3)


@pytest.mark.parametrize("name", ["g11_texture_truncated.glb", "g12_external/missing.glb", "o_miss/m.obj"])
def test_a_lost_texture_is_said_once(name, caplog):
    mesh = load_mesh(CASES / name)
    assert mesh.texture is None and len(mesh.faces) == 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert Path(name).name in caplog.text


@pytest.mark.parametrize("name", ["g12_external/a.glb", "o_abs/m.obj", "o_bs/m.obj", "o_opt/m.obj"])
def test_textures_that_stand_beside_are_found(name, caplog):
    assert load_mesh(CASES / name).texture is not None
    assert not caplog.records


def test_emissive_only(caplog):
    mesh = load_mesh(CASES / "g15_emissive_only.glb")
    image, mask = seen(mesh)
    assert float(image[:, mask].max()) > 0.5 and "only glows" in caplog.text


def test_alpha_mask_is_see_through_in_renders_and_files(tmp_path):
    mesh = load_mesh(CASES / "g16_alpha_mask.glb", fit=True)
    _, mask = seen(mesh)
    columns = np.flatnonzero(mask.any(0).numpy())
    assert columns.min() >= 31  # the right half alone
    save_mesh(mesh, tmp_path / "a.glb")
    again = load_mesh(tmp_path / "a.glb")
    assert again.material.alpha_mode == "MASK" and torch.equal(again.texture, mesh.texture)


def test_double_sides_and_shine_are_kept(tmp_path):
    mesh = load_mesh(CASES / "g17_double_sided.glb")
    save_mesh(mesh, tmp_path / "a.glb")
    again = load_mesh(tmp_path / "a.glb").material
    assert again.double_sided and again.metallic == 1 and again.roughness == pytest.approx(0.1)


def test_texture_times_color(tmp_path):
    from lathe.pipelines.meshes.bake_texture import bake_from_views

    red = torch.tensor([1.0, 0, 0])
    mesh = load_mesh(CASES / "m_texture_times_color.glb", fit=True)
    image, mask = seen(mesh)
    inner = mask & (image[0] > 0.9)
    torch.testing.assert_close(image[:, inner].mean(1), red, atol=0.05, rtol=0)
    save_mesh(mesh, tmp_path / "a.obj")
    torch.testing.assert_close(load_mesh(tmp_path / "a.obj").texture.mean((0, 1)), red, atol=1e-3, rtol=0)
    # Bake Views keeps what the mesh had where no view sees it: behind, for a view that sees a part only.
    cameras = orbit_cameras(1, radius=4, fov=40)
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., :32] = 1
    baked, coverage = bake_from_views(mesh, torch.zeros(1, 3, 64, 64), masks, cameras, size=64)
    torch.testing.assert_close(baked.texture[:, 60].mean(0), red, atol=1e-3, rtol=0)
    assert 0 < float(coverage.mean()) < 1


def test_relative_indices():
    mesh = load_mesh(CASES / "o_neg.obj")
    assert len(mesh.vertices) == 6 and sorted({float(z) for z in mesh.vertices[mesh.faces][..., 2].mean(1)}) == [0, 5]


def test_a_concave_polygon():
    a, b, c = (mesh := load_mesh(CASES / "o_ngon.obj")).vertices[mesh.faces].unbind(1)
    areas = torch.linalg.cross(b - a, c - a)[:, 2] / 2
    assert float(areas.sum()) == pytest.approx(10) and bool((areas > 0).all())


def test_two_textures_become_one_atlas():
    from lathe.pipelines.ops.texture_sampling import sample_texture

    mesh = load_mesh(CASES / "o_two" / "m.obj")
    assert mesh.texture is not None and min(mesh.texture.shape[:2]) >= 64
    plain = sample_texture(mesh.texture, mesh.uvs[mesh.faces[2:]].mean(1))
    torch.testing.assert_close(plain, torch.tensor([0.2, 0.2, 0.9]).expand(2, 3), atol=0.01, rtol=0)


@pytest.mark.parametrize("fit", [True, False])
def test_coordinates_far_from_the_origin(fit, caplog):
    mesh = load_mesh(CASES / "o_utm.obj", fit=fit)
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    torch.testing.assert_close(extent / extent.max(), torch.ones(3), atol=0.02, rtol=0)
    assert bool(caplog.records) is not fit  # where it is not fitted it is moved, and that is said
