"""Library objects: read from a zip without trusting it, coloured, cut and oriented as their files say."""

import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.ops.camera_math import project
from lathe.training import objects, render_dataset, render_demo
from PIL import Image

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
BOX_COLORS = {"+x": RED, "-x": GREEN, "+y": BLUE, "-y": YELLOW, "+z": (255, 0, 255), "-z": (0, 255, 255)}
BOX_SIDES = {"+x": (0, 1), "-x": (0, -1), "+y": (1, 1), "-y": (1, -1), "+z": (2, 1), "-z": (2, -1)}


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def quarters():
    """A 32 px texture: red and green above blue and a hole."""
    texture = np.zeros((32, 32, 4), np.uint8)
    for rows, columns, color in ((0, 0, RED), (0, 1, GREEN), (1, 0, BLUE)):
        texture[16 * rows : 16 * rows + 16, 16 * columns : 16 * columns + 16] = (*color, 255)
    return texture


PANEL_OBJ = """mtllib panel.mtl
v -1 -1 0.1
v 1 -1 0.1
v 1 1 0.1
v -1 1 0.1
v -1 -1 -0.1
v 1 -1 -0.1
v 1 1 -0.1
v -1 1 -0.1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl front
f 1/1 2/2 3/3
f 1/1 3/3 4/4
usemtl back
f 5 6 7
f 5 7 8
"""
PANEL_MTL = "newmtl front\nKd 0.1 0.1 0.1\nmap_Kd quarters.png\nnewmtl back\nKd 1 1 0\n"


def box_obj():
    """A box of half sizes 1, 0.5, 0.75 with a colour a side."""
    half, lines, faces, index = np.array([1, 0.5, 0.75]), ["mtllib box.mtl"], [], 1
    for side, (axis, sign) in BOX_SIDES.items():
        u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            lines.append("v " + " ".join(f"{c:.6f}" for c in (np.eye(3)[axis] * sign + a * u + b * v) * half))
        faces += [f"usemtl {side}", f"f {index} {index + 1} {index + 2}", f"f {index} {index + 2} {index + 3}"]
        index += 4
    materials = "".join(f"newmtl {side}\nKd {r / 255} {g / 255} {b / 255}\n" for side, (r, g, b) in BOX_COLORS.items())
    return "\n".join(lines + faces) + "\n", materials


@pytest.fixture
def library(tmp_path):
    """A folder with one small library: a panel, a box, and the same box described as lying on its back."""
    obj, mtl = box_obj()
    catalogue = (
        "name#1=Panel\nmodel#1=/made/panel/panel.obj\ncreator#1=Ann\\u00e9\n"
        "name#2=Box\nmodel#2=/made/box/box.obj\n"
        "name#3=Box on its back\nmodel#3=/made/lying/box.obj\nmodelRotation#3=1 0 0 0 0 1 0 -1 0\n"
    )
    members = {
        "PluginFurnitureCatalog.properties": catalogue,
        "made/panel/panel.obj": PANEL_OBJ,
        "made/panel/panel.mtl": PANEL_MTL,
        "made/panel/quarters.png": png(quarters()),
        "made/tiled/panel.obj": PANEL_OBJ.replace("vt 1", "vt 3").replace("vt 0 1", "vt 0 -1.5").replace("vt 3 1", "vt 3 -1.5"),
        "made/tiled/panel.mtl": PANEL_MTL,
        "made/tiled/quarters.png": png(np.where(quarters()[..., 3:] > 0, quarters(), 255).astype(np.uint8)),
        "made/box/box.obj": obj,
        "made/box/box.mtl": mtl,
        "made/lying/box.obj": obj,
        "made/lying/box.mtl": mtl,
    }
    folder = tmp_path / "library"
    folder.mkdir()
    with zipfile.ZipFile(folder / "made.sh3f", "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return folder


def front_view(obj, size=64, **options):
    return render_dataset.render_object(obj, render_dataset.orbit_cameras(np.zeros(1), np.zeros(1)), size, **options)


def test_size_and_place_are_normalised(library):
    obj = objects.load_object(library, "made/box")
    assert obj.faces.shape == (12, 3)
    np.testing.assert_allclose(obj.vertices.min(0), -obj.vertices.max(0), atol=1e-6)
    assert np.linalg.norm(obj.vertices, axis=1).max() == pytest.approx(0.95, abs=1e-5)
    np.testing.assert_allclose(np.ptp(obj.vertices, axis=0) / np.ptp(obj.vertices[:, 0]), [1, 0.5, 0.75], atol=1e-5)


def test_texture_is_upright_and_a_hole_shows_what_lies_behind(library):
    view = front_view(objects.load_object(library, "made/panel"), shaded=False)
    assert view.rgba[0, 20, 20].tolist() == [*RED, 255]
    assert view.rgba[0, 20, 44].tolist() == [*GREEN, 255]
    assert view.rgba[0, 44, 20].tolist() == [*BLUE, 255]
    assert view.rgba[0, 44, 44].tolist() == [*YELLOW, 255]
    assert view.depth[0, 44, 44] > view.depth[0, 44, 20] + 0.1
    assert view.rgba[0, 2, 2].tolist() == [0, 0, 0, 0] and view.depth[0, 2, 2] == 0


@pytest.mark.parametrize("aa", [1, 2])
def test_pictures_agree_with_the_cameras(library, aa):
    """The centre of each side of the box, projected, is where its colour and its depth are, in all 44 views."""
    obj, cameras, size = objects.load_object(library, "made/box"), render_dataset.dataset_cameras("made/box"), 96
    views = render_dataset.render_object(obj, cameras, size, aa=aa, shaded=False)
    seen = 0
    for side, (axis, sign) in BOX_SIDES.items():
        centre = torch.zeros(1, 3)
        centre[0, axis] = sign * float(obj.vertices[:, axis].max())
        pixels, depth = project(centre, cameras.c2w, cameras.K)
        normal = torch.eye(3)[axis] * sign
        for view in range(cameras.n_views):
            to_camera = torch.nn.functional.normalize(cameras.c2w[view, :3, 3] - centre[0], dim=0)
            if to_camera @ normal < 0.2:
                continue
            column, row = (pixels[view, 0] * size).long().tolist()
            assert views.rgba[view, row, column].tolist() == [*BOX_COLORS[side], 255], (side, cameras.names[view])
            assert views.depth[view, row, column] == pytest.approx(float(depth[view, 0]), abs=0.05)
            expected = cameras.c2w[view, :3, :3].T @ normal
            np.testing.assert_allclose(views.normal[view, row, column], expected, atol=0.01)
            seen += 1
    assert seen > 80


def test_right_side_is_seen_from_azimuth_90(library):
    ring = render_dataset.dataset_cameras("made/box").select([0, 3, 6, 9])
    views = render_dataset.render_object(objects.load_object(library, "made/box"), ring, 64, shaded=False)
    assert [view[36, 32, :3].tolist() for view in views.rgba] == [list(BOX_COLORS[side]) for side in ("+z", "+x", "-z", "-x")]


def test_points_lie_on_the_surface(library):
    obj = objects.load_object(library, "made/box")
    views = render_dataset.render_object(obj, render_dataset.dataset_cameras("made/box"), 64)
    inside = np.abs(views.points) / obj.vertices.max(0)
    assert np.abs(inside.max(1) - 1).max() < 1e-3
    assert views.view_starts[-1] == len(views.points) == len(views.point_colors)


def test_catalogue_rotation_is_applied(library):
    standing, lying = (objects.load_object(library, f"made/{name}") for name in ("box", "lying"))
    turned = np.stack([standing.vertices[:, 0], standing.vertices[:, 2], -standing.vertices[:, 1]], axis=1)
    np.testing.assert_allclose(lying.vertices, turned, atol=1e-6)


def test_light_darkens_but_keeps_the_hue(library):
    obj = objects.load_object(library, "made/box")
    lit, flat = front_view(obj), front_view(obj, shaded=False)
    ratio = lit.rgba[0, 32, 32, [0, 2]] / flat.rgba[0, 32, 32, [0, 2]].astype(float)
    assert ratio[0] == pytest.approx(ratio[1]) and 0.5 < ratio[0] < 1
    assert np.array_equal(lit.rgba[..., 3], flat.rgba[..., 3])


def test_edges_are_antialiased_with_straight_alpha(library):
    view = front_view(objects.load_object(library, "made/box"), size=65, shaded=False).rgba[0]
    edge = view[(view[..., 3] > 0) & (view[..., 3] < 255)]
    assert set(edge[:, 3].tolist()) <= {64, 128, 191}
    assert (edge[:, :3] == BOX_COLORS["+z"]).all()


@pytest.mark.parametrize("key", ["made/tiled", "made/box", "blendswap-cc-0/chicken"])
def test_mesh_with_one_atlas_looks_the_same(library, key):
    obj = objects.load_object(library if key.startswith("made") else None, key)
    mesh = obj.to_mesh()
    texture = np.pad((mesh.texture.numpy() * 255).round().astype(np.uint8), ((0, 0), (0, 0), (0, 1)), constant_values=255)
    again = objects.RenderObject(
        key, mesh.vertices.numpy(), mesh.faces.numpy().astype(np.int32), obj.normals[obj.faces].reshape(-1, 3), mesh.uvs.numpy(),
        np.zeros(len(mesh.faces), np.int32), np.zeros((1, 3), np.uint8), (texture,),
    )  # fmt: skip
    cameras = render_dataset.orbit_cameras(np.array([10.0, 130.0, 250.0]), np.full(3, 20.0))
    one, other = (render_dataset.render_object(o, cameras, 96, shaded=False) for o in (obj, again))
    assert np.array_equal(one.rgba[..., 3], other.rgba[..., 3])
    whole = one.rgba[..., 3] == 255
    error = (one.rgba[whole][:, :3].astype(float) - other.rgba[whole][:, :3]) ** 2
    assert 10 * np.log10(255**2 / max(error.mean(), 1e-9)) > 35


def test_hostile_member_names_are_left_alone(library, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(quarters()))
    with zipfile.ZipFile(library / "evil.sh3f", "w") as zipped:
        zipped.writestr("bad/panel/panel.obj", PANEL_OBJ)
        zipped.writestr("bad/panel/panel.mtl", PANEL_MTL.replace("quarters.png", "../../secret.png"))
        for name in ("bad/panel/../../../escaped.png", "/bad/panel/absolute.png", "bad/panel/..\\back.png"):
            zipped.writestr(name, png(quarters()))
    before = sorted(tmp_path.rglob("*"))
    obj = objects.load_object(library, "bad/panel")
    assert all(texture is None for texture in obj.textures)
    assert sorted(tmp_path.rglob("*")) == before
    with zipfile.ZipFile(library / "evil.sh3f") as zipped:
        assert sorted(objects._read_members(zipped, "bad/panel")) == ["panel.mtl", "panel.obj"]


def test_what_unpacks_to_too_much_is_refused(library, monkeypatch):
    monkeypatch.setattr(objects, "MAX_OBJECT_BYTES", 100)
    with pytest.raises(ValueError, match="unpacks to"):
        objects.load_object(library, "made/panel")


def test_objects_that_cannot_be_read_say_why(library, tmp_path):
    with pytest.raises(ValueError, match="No object 'made/nothing'.*sweethome3d-furniture"):
        objects.load_object(library, "made/nothing")
    with pytest.raises(ValueError, match="holds no .sh3f file"):
        objects.load_object(tmp_path, "made/box")
    with zipfile.ZipFile(library / "empty.sh3f", "w") as zipped:
        zipped.writestr("none/at-all/empty.obj", "# nothing\n")
        zipped.writestr("none/point/point.obj", "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    objects._catalogue.cache_clear()
    for key in ("none/at-all", "none/point"):
        with pytest.raises(ValueError, match=key):
            objects.load_object(library, key)


def test_splits_do_not_overlap():
    train, test, bench = (objects.split(name) for name in ("train", "test", "bench"))
    assert (len(train), len(test), len(bench)) == (712, 108, 8)
    assert not set(train) & set(test) and set(bench) <= set(test)
    assert not [key for key in train if zlib.crc32(key.encode()) % 10 == 0]
    with pytest.raises(ValueError, match="no split 'validation'"):
        objects.split("validation")


def test_bench_objects_come_with_the_project_and_their_makers():
    table = objects.attributions(None)
    assert sorted(a.key for a in table) == sorted(objects.split("bench"))
    assert all(a.creator != "unknown" and a.licence.startswith("CC") for a in table)
    for key in objects.split("bench"):
        assert len(objects.load_object(None, key).faces) > 1000


def test_catalogue_escapes_are_read(library):
    assert objects.attributions(library, ["made/panel"])[0].creator == "Ann\u00e9"


def test_data_set_is_packed_and_goes_on_where_it_stopped(library, tmp_path, monkeypatch):
    out, keys = tmp_path / "out", ["made/panel", "made/box"]
    render_dataset.render_split(library, keys[:1], out, processes=1)
    first = (out / "shards" / "made__panel.npz").stat().st_mtime_ns
    render_dataset.render_split(library, keys, out, processes=1)
    assert (out / "shards" / "made__panel.npz").stat().st_mtime_ns == first
    arrays = {name: np.load(out / f"{name}.npy", mmap_mode="r") for name in render_dataset.ARRAYS}
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes["rgba"] == (2, 44, 64, 64, 4) and shapes["depth"] == (2, 44, 64, 64) and shapes["normal"] == (2, 44, 64, 64, 3)
    assert shapes["points"] == shapes["point_colors"] == (2, 16384, 3) and shapes["c2w"] == (2, 44, 4, 4)
    again = render_dataset.dataset_arrays(str(library), "made/box")
    assert all(np.array_equal(arrays[name][1], again[name]) for name in arrays)
    assert not list(out.glob("**/*.tmp"))


def test_demo_is_never_made_of_a_training_object(tmp_path):
    with pytest.raises(ValueError, match="not an object of the test split"):
        render_demo.render_demo(None, objects.split("train")[0], 0.0, tmp_path)
    render_demo.render_demo(None, "scopia/vase3", 0.0, tmp_path)
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.png")}
    views = {f"view_{i}.png": (320, 320) for i in range(1, 7)}
    assert sizes == {"picture.png": (512, 512), **views, "turntable.png": (1024, 1024)}  # sixteen frames of 256 on a sheet


def test_the_command_renders_with_two_processes(tmp_path):
    script = Path(render_dataset.__file__)
    command = [sys.executable, str(script), "--split", "bench", "--limit", "2", "--processes", "2", "--out", str(tmp_path)]
    environment = {**os.environ, "LATHE_OBJECTS": str(objects.BUNDLED)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "keys.json").read_text())["keys"] == objects.split("bench")[:2]
    assert (tmp_path / "attributions.csv").read_text(encoding="utf-8").splitlines()[1] == "blendswap-cc-0/chicken,Chicken,CDmir230,CC0-1.0"
