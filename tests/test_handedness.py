"""A lettered block with a red left side goes through every route of meshes and is read back: never mirrored."""

import math

import pytest
import torch
from handed import HALF, LetterField, letter, read_front, signed_volume
from lathe.pipelines.cameras import presets
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.formats import meshes
from lathe.pipelines.meshes import bake_texture, clean, extract, simplify, unwrap
from lathe.pipelines.ops import camera_math
from lathe.pipelines.rendering.field import render_field
from lathe.pipelines.rendering.mesh import render_mesh

SIZE, FOV = 128, 30.0
FRONT = Cameras(
    torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 4.0], [0, 0, 0, 1.0]]]),
    torch.tensor([[0.5 / math.tan(math.radians(FOV / 2))] * 2 + [0.5, 0.5]]),
    ("front",),
)


def assert_reads_right(image):
    """`image` (3, H, W) shows the block from the front: F the right way round, red on the right, and upright."""
    offset = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    reach = (4 - float(HALF[2])) * 2 * math.tan(math.radians(FOV / 2))
    y, x = torch.meshgrid(-offset * reach, offset * reach, indexing="ij")
    right, mirrored = read_front(image, x, y)
    assert right > 0.85 and mirrored < 0.6, (right, mirrored)
    red = (image[0] > 0.7) & (image[1] < 0.4) & (image[2] < 0.4)
    assert red.sum() > 20 and float(x[red].mean()) > 0.4


def assert_mesh_reads_right(mesh):
    assert signed_volume(mesh.vertices, mesh.faces) > 0
    assert_reads_right(render_mesh(mesh, FRONT, SIZE, SIZE).images[0])


def ring():
    azimuths, elevations = [0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 0.0], [15.0] * 6 + [85.0]
    return Cameras(camera_math.orbit(torch.tensor(azimuths), torch.tensor(elevations), 4.0), camera_math.intrinsics(FOV, 7), ("",) * 7)


@pytest.fixture(scope="module")
def bare():
    mesh = simplify.simplify(clean.clean(extract.field_to_mesh(LetterField(), "marching_cubes", 48)), 1500)
    mesh = unwrap.unwrap(mesh, texture_size=512)
    return Mesh(mesh.vertices, mesh.faces, mesh.uvs)


@pytest.fixture(scope="module")
def lettered(bare):
    return bake_texture.bake_from_field(bare, LetterField(), 512)


def test_field_render():
    assert_reads_right(render_field(LetterField(), FRONT, SIZE, SIZE).images[0])


@pytest.mark.parametrize("method", ["flexicubes", "marching_cubes"])
def test_meshes_with_vertex_colors(method):
    assert_mesh_reads_right(extract.field_to_mesh(LetterField(), method, 72))


def test_bake_from_field(lettered):
    assert_mesh_reads_right(lettered)


def test_bake_from_views(bare, lettered):
    cameras = ring()
    views = render_mesh(lettered, cameras, 256, 256)
    baked, coverage = bake_texture.bake_from_views(bare, views.images, views.masks, cameras, size=512)
    assert float(coverage.mean()) > 0.3
    assert_mesh_reads_right(baked)


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_files(lettered, tmp_path, suffix):
    path = tmp_path / f"block{suffix}"
    meshes.save_mesh(lettered, path)
    assert_mesh_reads_right(meshes.load_mesh(path))


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_another_reader_finds_the_letter_where_it_is(lettered, tmp_path, suffix):
    import trimesh

    path = tmp_path / f"block{suffix}"
    meshes.save_mesh(lettered, path)
    loaded = trimesh.load_mesh(path, process=False)
    points, faces = trimesh.sample.sample_surface(loaded, 4000, seed=0)[:2]
    corners = trimesh.triangles.points_to_barycentric(loaded.triangles[faces], points)
    uv = (loaded.visual.uv[loaded.faces[faces]] * corners[..., None]).sum(1)
    dark = loaded.visual.material.to_color(uv)[:, :3].mean(1) < 100
    x, y, z = torch.from_numpy(points).float().unbind(1)
    front = (z > 0.29) & (x.abs() < 0.45)
    agrees = torch.from_numpy(dark)[front] == letter(x[front], y[front])
    mirrored = torch.from_numpy(dark)[front] == letter(-x[front], y[front])
    assert float(agrees.float().mean()) > 0.93 > 0.85 > float(mirrored.float().mean())


@pytest.mark.parametrize("name", presets.preset_names())
def test_every_camera_preset(lettered, name):
    every = presets.preset_cameras(name)
    to_front = every.c2w[:, 2, 3] / every.c2w[:, :3, 3].norm(dim=1)
    cameras = every.select(sorted({int(to_front.argmax()), *range(0, every.n_views, max(1, every.n_views // 5))}))
    views = render_mesh(lettered, cameras, SIZE, SIZE)
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, SIZE, SIZE)
    left_side, _ = camera_math.project(torch.tensor([[0.6, 0.0, 0.0]]), cameras.c2w, cameras.K)
    read = 0
    for image, origin, direction, pose, side in zip(views.images, origins, directions, cameras.c2w, left_side, strict=True):
        red = (image[0] > 0.7) & (image[1] < 0.4) & (image[2] < 0.4)
        off_centre = float(side[0, 0]) - 0.5
        if abs(off_centre) > 0.1:
            seen = (float(red.nonzero()[:, 1].float().mean()) + 0.5) / SIZE - 0.5
            assert seen * off_centre > 0 and abs(seen) > 0.08, (name, seen, off_centre)
        if float(pose[2, 3]) > 0.7 * float(pose[:3, 3].norm()):
            at = origin + direction * ((HALF[2] - origin[..., 2]) / direction[..., 2])[..., None]
            right, mirrored = read_front(image, at[..., 0], at[..., 1])
            assert right > 0.8 and mirrored < 0.6, (name, right, mirrored)
            read += 1
    assert read > 0
