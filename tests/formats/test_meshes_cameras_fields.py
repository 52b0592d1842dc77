"""Meshes, cameras and fields to disk and back, atomic writes, names that lead astray, broken files."""

import json
import os
import struct

import numpy as np
import pytest
import torch
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.disk import atomic
from lathe.pipelines.formats import fields, glb, meshes
from lathe.pipelines.formats.cameras import load_cameras, save_cameras
from lathe.pipelines.nets.mini_heads import PointHeads, PosedViews
from lathe.pipelines.nets.projected_field import ProjectedField
from lathe.pipelines.nets.triplane_field import Decoder, TriplaneField
from lathe.pipelines.ops.texture_sampling import sample_texture


def tetrahedron(**extra):
    vertices = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]), **extra)


def textured(size=16):
    picture = (torch.rand(size, size + 3, 3, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    return tetrahedron(uvs=torch.tensor([[0.125, 0.25], [0.9, 0.1], [0.3, 0.8], [0.5, 0.5]]), texture=picture)


def assert_same(mesh, other):
    torch.testing.assert_close(other.vertices, mesh.vertices, atol=1e-7, rtol=0)
    assert torch.equal(other.faces, mesh.faces)
    for name in ("uvs", "texture", "vertex_colors"):
        mine, theirs = getattr(mesh, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(theirs, mine, atol=2e-6, rtol=0, msg=name)


def glb_parts(path):
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    return json.loads(data[20 : 20 + size]), data[28 + size :]


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
@pytest.mark.parametrize("kind", ["textured", "colored", "bare", "uvs only"])
def test_a_mesh_comes_back_equal(tmp_path, suffix, kind):
    colors = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    mesh = {
        "textured": textured(),
        "colored": tetrahedron(vertex_colors=colors),
        "bare": tetrahedron(),
        "uvs only": tetrahedron(uvs=textured().uvs),
    }[kind]
    path = tmp_path / f"a thing{suffix}"
    written = meshes.save_mesh(mesh, path)
    assert written[-1] == path and sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in written)
    assert len(written) == (3 if kind == "textured" and suffix == ".obj" else 1)
    loaded = meshes.load_mesh(path)
    if suffix == ".obj" and kind == "colored":  # OBJ colours are read in 8 bits
        torch.testing.assert_close(loaded.vertex_colors, colors, atol=0.01, rtol=0)
        loaded = Mesh(loaded.vertices, loaded.faces, vertex_colors=colors)
    assert_same(mesh, loaded)


def test_texture_and_colors_multiply_in_glb(tmp_path):
    mesh = Mesh(*(getattr(textured(), n) for n in ("vertices", "faces", "uvs", "texture")), vertex_colors=torch.rand(4, 3))
    meshes.save_mesh(mesh, tmp_path / "both.glb")
    assert_same(mesh, meshes.load_mesh(tmp_path / "both.glb"))


def test_glb_says_what_viewers_need(tmp_path):
    meshes.save_mesh(textured(), tmp_path / "m.glb")
    tree, body = glb_parts(tmp_path / "m.glb")
    material = tree["materials"][0]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert material["doubleSided"] is False
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} == set(attributes)
    position = tree["accessors"][attributes["POSITION"]]
    assert position["min"] == [0, 0, 0] and position["max"] == [1, 1, 1]
    for view in tree["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(body)
    uv = tree["bufferViews"][tree["accessors"][attributes["TEXCOORD_0"]]["bufferView"]]
    first = np.frombuffer(body, "<f4", 2, uv["byteOffset"])
    assert first.tolist() == [0.125, 0.25], "glTF's origin is at the top left, as ours"
    normal = tree["bufferViews"][tree["accessors"][attributes["NORMAL"]]["bufferView"]]
    normals = np.frombuffer(body, "<f4", 12, normal["byteOffset"]).reshape(4, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_obj_counts_texture_rows_from_the_bottom(tmp_path):
    meshes.save_mesh(textured(), tmp_path / "my mesh.obj")
    text = (tmp_path / "my mesh.obj").read_text()
    assert "vt 0.125 0.75" in text and "mtllib my_mesh.mtl" in text
    assert "map_Kd my_mesh.png" in (tmp_path / "my_mesh.mtl").read_text()
    assert (tmp_path / "my_mesh.png").read_bytes() == glb.png_bytes(textured().texture)


def test_other_programs_files_are_read(tmp_path):
    import trimesh

    box = trimesh.creation.box(extents=(1, 2, 3))
    for suffix in (".stl", ".ply", ".off", ".obj", ".glb"):
        box.export(tmp_path / f"box{suffix}")
        mesh = meshes.load_mesh(tmp_path / f"box{suffix}")
        assert mesh.faces.shape == (12, 3) and mesh.vertices.abs().max(0).values.tolist() == [0.5, 1.0, 1.5]
    red = trimesh.creation.box()
    red.visual.vertex_colors = np.tile(np.uint8([255, 128, 0, 255]), (8, 1))
    red.export(tmp_path / "red.ply")
    colors = meshes.load_mesh(tmp_path / "red.ply").vertex_colors
    torch.testing.assert_close(colors[0], torch.tensor([1.0, 0.2159, 0.0]), atol=1e-3, rtol=0)


def test_a_scene_of_several_objects_becomes_one_mesh(tmp_path):
    import trimesh
    from PIL import Image

    def painted(color):
        box = trimesh.creation.box()
        picture = Image.new("RGB", (4, 4), color)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
        box.visual = trimesh.visual.TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
        return box

    scene = trimesh.Scene()
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 5
    scene.add_geometry(painted((255, 0, 0)))
    scene.add_geometry(painted((0, 0, 255)), transform=mirror)
    scene.export(tmp_path / "two.glb")
    mesh = meshes.load_mesh(tmp_path / "two.glb")
    assert mesh.faces.shape == (24, 3) and mesh.texture is not None
    assert mesh.vertices[:, 0].max() == 5.5
    near, far = mesh.vertices[:, 0] < 2, mesh.vertices[:, 0] > 2
    seen = sample_texture(mesh.texture, mesh.uvs)
    assert seen[near].unique(dim=0).tolist() == [[1, 0, 0]]
    assert seen[far].unique(dim=0).tolist() == [[0, 0, 1]]
    a, b, c = mesh.vertices[mesh.faces[12:]].unbind(1)
    centre = torch.tensor([5.0, 0, 0]) if far[mesh.faces[12, 0]] else torch.zeros(3)
    assert ((torch.linalg.cross(b - a, c - a) * (a - centre)).sum(1) > 0).all(), "a mirrored object keeps its outside outside"
    one = trimesh.Scene([painted((9, 99, 199))])
    one.add_geometry(painted((9, 99, 199)), transform=np.diag([2.0, 2, 2, 1]))
    one.export(tmp_path / "same.glb")
    shared = meshes.load_mesh(tmp_path / "same.glb")
    assert shared.texture is not None and (shared.texture[0, 0] * 255).round().tolist() == [9, 99, 199]


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_broken_files_are_refused_in_words(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00\x01nonsense" * 20)
    with pytest.raises(ValueError, match="broken"):
        meshes.load_mesh(path)


def test_files_that_are_not_there_or_hold_no_mesh(tmp_path):
    meshes.save_mesh(textured(), tmp_path / "m.glb")
    whole = (tmp_path / "m.glb").read_bytes()
    (tmp_path / "cut.glb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.glb cannot be read"):
        meshes.load_mesh(tmp_path / "cut.glb")
    with pytest.raises(ValueError, match="no file"):
        meshes.load_mesh(tmp_path / "gone.glb")
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(ValueError, match="no triangles"):
        meshes.load_mesh(tmp_path / "points.obj")
    with pytest.raises(ValueError, match="not a mesh file"):
        meshes.load_mesh(tmp_path / "thing.fbx")
    with pytest.raises(ValueError, match="saved as one of"):
        meshes.save_mesh(textured(), tmp_path / "m.stl")
    with pytest.raises(ValueError, match="no faces"):
        meshes.save_mesh(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)), tmp_path / "m.glb")


def test_a_failed_write_leaves_the_old_file_and_no_crumbs(tmp_path, monkeypatch):
    meshes.save_mesh(textured(), tmp_path / "m.obj")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.Path, "write_bytes", full)
    with pytest.raises(ValueError, match="cannot be written to: No space left"):
        meshes.save_mesh(tetrahedron(), tmp_path / "m.obj")
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_folders_that_cannot_be_written_say_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written to"):
        meshes.save_mesh(textured(), tmp_path / "file" / "m.glb")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="cannot be written to: Permission denied"):
            save_cameras(preset_cameras("zero123plus_v1.2"), tmp_path / "locked" / "t.json")


def test_cameras_come_back_equal(tmp_path):
    for cameras in (preset_cameras("zero123plus_v1.2"), posed_cameras([0.0, 30.0], [5.0, -20.0], 2.5, 40.0)):
        save_cameras(cameras, tmp_path / "t.json")
        again = load_cameras(tmp_path / "t.json")
        assert torch.equal(again.c2w, cameras.c2w) and again.names == cameras.names
        torch.testing.assert_close(again.K, cameras.K, atol=1e-7, rtol=0)
    lenses = torch.tensor([[1.0, 1.5, 0.4, 0.6], [2.0, 1.2, 0.5, 0.5]])
    uneven = Cameras(cameras.c2w, lenses, ("a", "b"))
    save_cameras(uneven, tmp_path / "t.json", width=640, height=480)
    tree = json.loads((tmp_path / "t.json").read_text())
    assert tree["w"] == 640 and "fl_x" not in tree and tree["frames"][0]["fl_x"] == pytest.approx(640)
    assert "+Y up" in tree["lathe"]["world"]
    torch.testing.assert_close(load_cameras(tmp_path / "t.json").K, lenses, atol=1e-6, rtol=0)


def test_cameras_of_other_programs_are_read(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = [0, 0, 3]
    frame = {"file_path": "./train/r_0", "transform_matrix": pose.tolist()}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_angle_x": 0.6911112070083618, "frames": [frame]}))
    nerf = load_cameras(path)
    assert nerf.K[0].tolist() == pytest.approx([1111.111 / 800, 1111.111 / 800, 0.5, 0.5], abs=1e-4)
    assert nerf.names == ("./train/r_0",) and nerf.c2w[0, 2, 3] == 3
    ngp = {"fl_x": 500, "fl_y": 510, "cx": 320, "cy": 250, "w": 640, "h": 480, "k1": 0, "frames": [frame, frame]}
    path.write_text(json.dumps(ngp))
    assert load_cameras(path).K[1].tolist() == pytest.approx([500 / 640, 510 / 480, 0.5, 250 / 480])


def test_broken_camera_files_are_refused_in_words(tmp_path):
    frame = {"file_path": "a", "transform_matrix": np.eye(4).tolist()}
    cases = {
        "not a transforms.json": ["{", "[]", "{}", '{"frames": 3}', json.dumps({"frames": [frame]})],
        "no frames": ['{"frames": [], "camera_angle_x": 1}'],
        "distortion": [json.dumps({"fl_x": 1, "w": 1, "h": 1, "k1": 0.2, "frames": [frame]})],
        "w and h": [json.dumps({"fl_x": 500, "frames": [frame]})],
        "left-handed": [json.dumps({"camera_angle_x": 1, "frames": [{"transform_matrix": np.diag([-1.0, 1, 1, 1]).tolist()}]})],
        "shape": [json.dumps({"camera_angle_x": 1, "frames": [{"transform_matrix": [[1, 0], [0, 1]]}]})],
    }
    for message, texts in cases.items():
        for text in texts:
            (tmp_path / "t.json").write_text(text)
            with pytest.raises(ValueError, match=message):
                load_cameras(tmp_path / "t.json")
    with pytest.raises(ValueError, match="cannot be read"):
        load_cameras(tmp_path / "gone.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a transforms.json"):
        load_cameras(tmp_path / "b.json")
    shared = preset_cameras("zero123plus_v1.2")
    with pytest.raises(ValueError, match="of_asset"):
        save_cameras(Cameras(shared.c2w[None], shared.K[None], shared.names), tmp_path / "t.json")


@pytest.mark.parametrize("kind", ["mesh", "nerf"])
def test_fields_come_back_equal(tmp_path, kind):
    torch.manual_seed(0)
    field = TriplaneField(torch.randn(3, 8, 16, 16), Decoder(kind, 8, 32).requires_grad_(False), grid_res=16)
    fields.save_field(field, tmp_path / "f.safetensors")
    again = fields.load_field(tmp_path / "f.safetensors")
    points = torch.rand(100, 3) * 2 - 1
    assert torch.equal(again.geometry(points), field.geometry(points)) and torch.equal(again.color(points), field.color(points))
    assert again.kind == field.kind and again.level == field.level and again.bound == field.bound


def test_fields_of_the_mini_model_come_back_equal(tmp_path):
    torch.manual_seed(0)
    cameras = preset_cameras("zero123plus_v1.2")
    views = PosedViews(torch.rand(6, 4, 16, 16), cameras.c2w, cameras.K)
    field = ProjectedField(torch.randn(3, 8, 16, 16), PointHeads(8, 16, True).requires_grad_(False), views, grid_res=8, grid_scale=2.1)
    fields.save_field(field, tmp_path / "f.safetensors")
    again = fields.load_field(tmp_path / "f.safetensors")
    points = torch.rand(100, 3) * 2 - 1
    assert torch.equal(again.geometry(points), field.geometry(points)) and torch.equal(again.color(points), field.color(points))
    assert again.kind == field.kind and again.level == field.level and again.bound == field.bound


def test_broken_field_files_are_refused_in_words(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "f.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ValueError, match="damaged"):
        fields.load_field(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no field"):
        fields.load_field(path)
    field = TriplaneField(torch.randn(3, 8, 16, 16), Decoder("mesh", 8, 32).requires_grad_(False), grid_res=16)
    tensors, settings = field.state()
    del tensors["planes"]
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"lathe": json.dumps(settings)})
    with pytest.raises(ValueError, match="incomplete"):
        fields.load_field(path)
    tensors = {**tensors, "planes": field.planes.to(torch.int32)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"lathe": json.dumps(settings)})
    with pytest.raises(ValueError, match="planes must be floating-point"):
        fields.load_field(path)
    bad = TriplaneField(field.planes * float("nan"), Decoder("mesh", 8, 32).requires_grad_(False), grid_res=16)
    with pytest.raises(ValueError, match="NaN or infinite .planes. and is not saved"):
        fields.save_field(bad, path)
    with pytest.raises(ValueError, match="no file"):
        fields.load_field(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="saved as .safetensors"):
        fields.save_field(field, tmp_path / "f.bin")
    with pytest.raises(ValueError, match="cannot be saved"):
        fields.save_field(object(), path)
