"""Materials of OBJ files: what MTL says, pictures found wherever exporters left them, and what is said when they are not."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.data.material import Material
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.formats.beside import find_beside
from lathe.pipelines.formats.meshes import load_mesh, save_mesh
from lathe.pipelines.formats.mtl import read_mtl
from lathe.pipelines.formats.obj_read import read_obj
from lathe.pipelines.ops.color import srgb_to_linear
from PIL import Image

REPORTED = Path(__file__).parents[1] / "data" / "reported"
QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"
RED, GREEN = (255, 0, 0), (0, 255, 0)


def linear(value):
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def png(*rows):
    out = io.BytesIO()
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def flat(color):
    return png([color, color], [color, color])


def put(folder, mtl, files=(), obj="mtllib m.mtl\n" + QUAD + "usemtl a\n" + FACE, mtl_name="m.mtl"):
    for name, data in dict(files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if mtl is not None:
        (folder / mtl_name).write_bytes(mtl if isinstance(mtl, bytes) else mtl.encode())
    (folder / "m.obj").write_text(obj)
    return read_obj(folder / "m.obj")


def look_of(folder, statements, files=()):
    contents = put(folder, "newmtl a\n" + statements, files)
    return contents.parts[0].look, contents.notes


@pytest.mark.parametrize("case", ["o_abs", "o_bs", "o_opt"])
def test_reported_names_of_pictures(case):
    contents = read_obj(REPORTED / case / "m.obj")
    file = next((REPORTED / case).rglob("tex.png"))
    wanted = np.asarray(Image.open(file).convert("RGB")) / 255
    np.testing.assert_allclose(contents.parts[0].look.texture, wanted, atol=1e-6)
    assert contents.notes == [] and contents.parts[0].uvs.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]


def test_reported_missing_picture():
    contents = read_obj(REPORTED / "o_miss" / "m.obj")
    assert contents.parts[0].look.texture is None and contents.parts[0].look.factor.tolist() == [1, 1, 1, 1]
    (note,) = contents.notes
    assert "'gone.png'" in note and "'a'" in note


def test_reported_two_materials():
    a, b = read_obj(REPORTED / "o_two" / "m.obj").parts
    assert a.look.texture.shape == (64, 64, 3) and a.vertices[:, 0].max() == 1
    assert b.vertices[:, 0].min() == 1
    if b.look.texture is None:
        np.testing.assert_allclose(b.look.factor, [linear(0.2), linear(0.2), linear(0.9), 1], atol=1e-6)


def test_a_part_for_each_material_in_the_order_of_use(tmp_path):
    obj = "mtllib m.mtl\n" + QUAD + "f 1 2 3\nusemtl b\nf 1 2 3\nusemtl a\nf 2 3 4\nusemtl b\nf 3 4 1\n"
    contents = put(tmp_path, "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n", obj=obj)
    assert [(len(part.faces), part.look.factor.tolist()) for part in contents.parts] == [
        (1, [1, 1, 1, 1]),
        (2, [0, 0, 1, 1]),
        (1, [1, 0, 0, 1]),
    ]
    assert contents.notes == []


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("tex.png", "tex.png"),
        ("my tex.png", "my tex.png"),
        ('"my tex.png"', "my tex.png"),
        ("maps\\sub\\tex.png", "maps/sub/tex.png"),
        ("C:\\Users\\me\\tex.png", "tex.png"),
        ("C:/Users/me/my tex.png", "textures/my tex.png"),
        ("/home/me/tex.png", "Textures/tex.png"),
        ("\\\\server\\share\\tex.png", "tex.png"),
        ("file:///C:/a/tex.png", "tex.png"),
        ("./sub//tex.png", "sub/tex.png"),
        ("../textures/tex.png", "tex.png"),
        ("sub/tex.png", "tex.png"),
        ("TEX.PNG", "tex.png"),
        ("Maps/Tex.png", "maps/tex.PNG"),
        ("my%20tex.png", "my tex.png"),
        ("100%.png", "100%.png"),
        ("stra\u00dfe.png", "stra\u00dfe.png"),
        ("-s 1 1 1 -o 0 0 0 tex.png", "tex.png"),
        ("-s 1 -o 0 tex.png", "tex.png"),
        ("-blendu on -blendv off -boost 2 -texres 512 -bm 1 -imfchan l -cc off -type sphere -colorspace sRGB my tex.png", "my tex.png"),
        ("-mm 0 1 -clamp off tex.png", "tex.png"),
        ("tex.png -s 1 1 1 -blendu on", "tex.png"),
        ("-s 1 1 1 1.png", "1.png"),
        ("-tex.png", "-tex.png"),
    ],
)
def test_pictures_are_found_however_they_are_written(tmp_path, written, stored):
    look, notes = look_of(tmp_path, f"map_Kd {written}\n", {stored: flat(GREEN)})
    assert notes == [] and look.texture is not None and look.texture[0, 0].tolist() == [0, 1, 0]


def test_nothing_outside_the_folder_is_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(flat(RED))
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in (
        "../secret.png",
        "..\\secret.png",
        "sub/../../secret.png",
        "%2e%2e/secret.png",
        str(tmp_path / "secret.png"),
        "a\0b",
        "",
        "..",
    ):
        assert find_beside(inside, name) is None
    if hasattr(os, "symlink"):
        (inside / "linked.png").symlink_to(tmp_path / "secret.png")
        assert find_beside(inside, "C:/else/linked.png") == inside / "linked.png"
    assert find_beside(inside, "x" * 5000) is None and find_beside(inside / "gone", "a.png") is None


def test_damaged_pictures_are_named(tmp_path):
    look, notes = look_of(tmp_path, "Kd 0 0 0\nmap_Kd tex.png\n", {"tex.png": flat(RED)[:40]})
    assert look.texture is None and look.factor.tolist() == [1, 1, 1, 1]
    (note,) = notes
    assert "'tex.png'" in note and "'a'" in note


def test_scale_offset_and_clamp(tmp_path):
    contents = put(tmp_path, "newmtl a\nmap_Kd -s 2 0.5 1 -o 0.25 0.125 tex.png\n", {"tex.png": flat(RED)})
    assert contents.parts[0].uvs.tolist() == [[0.25, 0.875], [2.25, 0.875], [2.25, 0.375], [0.25, 0.375]]
    # Clamped: to the right of the picture its right column goes on.
    picture = png([RED, GREEN], [RED, GREEN])
    contents = put(tmp_path, "newmtl a\nmap_Kd -clamp on -s 2 1 1 tex.png\n", {"tex.png": picture})
    part = contents.parts[0]
    columns = part.look.texture[0, :, :3]
    for u, color in ((0.1, [1, 0, 0]), (0.4, [0, 1, 0]), (0.6, [0, 1, 0]), (0.9, [0, 1, 0])):
        at = part.uvs[0, 0] + u * (part.uvs[1, 0] - part.uvs[0, 0])
        assert columns[int(at % 1 * len(columns))].tolist() == color
    contents = put(tmp_path, "newmtl a\nmap_Kd -s x 2 tex.png\n", {"tex.png": flat(RED)})
    assert contents.notes  # the name is then "x 2 tex.png"


def test_kd_beside_a_picture_is_left_out_and_a_tint_is_said(tmp_path):
    files = {"tex.png": flat(GREEN)}
    for grey in ("0.8 0.8 0.8", "0 0 0", "1 1 1", "0.588"):
        look, notes = look_of(tmp_path, f"Kd {grey}\nmap_Kd tex.png\n", files)
        assert look.factor.tolist() == [1, 1, 1, 1] and notes == []
    look, notes = look_of(tmp_path, "Kd 1 0 0\nmap_Kd tex.png\n", files)
    assert look.factor.tolist() == [1, 1, 1, 1] and "tint" in notes[0]


@pytest.mark.parametrize(
    ("statements", "factor", "said"),
    [
        ("Kd 0.5 0.2 1\n", [linear(0.5), linear(0.2), 1, 1], None),
        ("KD 0.5\n", [linear(0.5)] * 3 + [1], None),
        ("Kd 0,5 0,2 1,0\n", [linear(0.5), linear(0.2), 1, 1], None),
        ("Kd 255 127.5 0\n", [1, linear(0.5), 0, 1], "0 to 255"),
        ("Kd spectral a.rfl 1\n", [1, 1, 1, 1], "kd"),
        ("Kd nan 0 0\n", [1, 1, 1, 1], "kd"),
        ("d 0.25\n", [1, 1, 1, 0.25], None),
        ("Tr 0.25\n", [1, 1, 1, 0.75], None),
        ("d 1\nTr 1\n", [1, 1, 1, 1], None),
        ("d -halo 0.5\n", [1, 1, 1, 0.5], None),
        ("d 0\n", [1, 1, 1, 1], "fully transparent"),
        ("Tr 1\n", [1, 1, 1, 1], "fully transparent"),
        ("d 7\n", [1, 1, 1, 1], "from 0 to 1"),
        ("Ka 1 1 1\nKs 0.5 0.5 0.5\nNs 250\nNi 1.45\nillum 2\nTf 1 1 1\n", [1, 1, 1, 1], None),
    ],
)
def test_colors_and_opacity(tmp_path, statements, factor, said):
    look, notes = look_of(tmp_path, statements)
    np.testing.assert_allclose(look.factor, factor, atol=1e-6)
    assert look.material.alpha_mode == ("BLEND" if factor[3] < 1 else "OPAQUE")
    assert notes == [] if said is None else said in notes[0]


def test_alpha_of_pictures(tmp_path):
    cut, soft = png([(255, 0, 0, 0), (255, 0, 0, 255)]), png([(255, 0, 0, 51), (255, 0, 0, 255)])
    look, _ = look_of(tmp_path, "map_Kd tex.png\n", {"tex.png": cut})
    assert look.texture[0, :, 3].tolist() == [0, 1] and look.material.alpha_mode == "MASK"
    look, _ = look_of(tmp_path, "map_Kd tex.png\n", {"tex.png": soft})
    assert look.texture[0, 0, 3] == pytest.approx(0.2) and look.material.alpha_mode == "BLEND"
    look, _ = look_of(tmp_path, "map_Kd tex.png\n", {"tex.png": png([(255, 0, 0, 255)])})
    assert look.texture.shape == (1, 1, 3) and look.material.alpha_mode == "OPAQUE"
    look, notes = look_of(tmp_path, "map_Kd tex.png\n", {"tex.png": png([(255, 0, 0, 0)])})
    assert look.texture.shape == (1, 1, 3) and "fully transparent" in notes[0]
    # map_d: grey of another size; its own alpha where it has one; without a colour picture
    look, _ = look_of(tmp_path, "map_Kd tex.png\nmap_d d.png\n", {"tex.png": flat(RED), "d.png": png([(0, 0, 0)])})
    assert look.texture.shape == (2, 2, 3), "all hidden is no mask"
    look, _ = look_of(tmp_path, "map_Kd tex.png\nmap_d d.png\n", {"tex.png": flat(RED), "d.png": png([(102, 102, 102)])})
    assert look.texture.shape == (2, 2, 4) and look.texture[..., 3] == pytest.approx(0.4) and look.material.alpha_mode == "BLEND"
    look, _ = look_of(tmp_path, "map_Kd tex.png\nmap_d tex.png\n", {"tex.png": cut})
    assert look.texture[0, :, 3].tolist() == [0, 1] and look.material.alpha_mode == "MASK"
    look, _ = look_of(tmp_path, "map_d -imfchan r tex.png\nKd 0 1 0\n", {"tex.png": png([(0, 255, 0), (255, 0, 0)])})
    np.testing.assert_allclose(look.texture[0], [[0, 1, 0, 0], [0, 1, 0, 1]], atol=1e-6)


def test_base_and_gain(tmp_path):
    look, _ = look_of(tmp_path, "map_Kd -mm 0.2 0.5 tex.png\n", {"tex.png": flat(RED)})
    np.testing.assert_allclose(look.texture[0, 0], [0.7, 0.2, 0.2], atol=1e-6)


def test_physically_based_statements(tmp_path):
    look, notes = look_of(tmp_path, "Pr 0.25\nPm 0.5\nKe 0.5 0 0\n")
    assert (look.material.roughness, look.material.metallic) == (0.25, 0.5) and notes == []
    np.testing.assert_allclose(look.material.emissive_factor, [linear(0.5), 0, 0], atol=1e-6)
    look, _ = look_of(tmp_path, "Ke 4 2 0\n")
    assert look.material.emissive_strength == 4
    np.testing.assert_allclose(look.material.emissive_factor, [1, linear(0.5), 0], atol=1e-6)

    files = {"r.png": flat((51, 51, 51)), "m.png": png([(102, 102, 102)]), "e.png": flat(RED), "n.png": flat((128, 128, 255))}
    text = "map_Kd e.png\nPr 0.9\nPm 0.9\nmap_Pr r.png\nmap_Pm m.png\nKe 0 0 0\nmap_Ke e.png\nnorm -bm 0.5 n.png\n"
    look, notes = look_of(tmp_path, text, files)
    material = look.material
    assert notes == [] and material.metallic_roughness.shape == (2, 2, 3)
    np.testing.assert_allclose(material.metallic_roughness[..., 1:], np.broadcast_to([0.2, 0.4], (2, 2, 2)), atol=1e-6)
    assert (material.roughness, material.metallic) == (1, 1)
    assert material.emissive_factor == (1, 1, 1) and material.emissive[0, 0].tolist() == [1, 0, 0]
    assert material.normal_scale == 0.5 and material.normal_map[0, 0, 2] == 1

    look, _ = look_of(tmp_path, "Pm 0.75\nmap_Pr r.png\n", files)
    assert (look.material.roughness, look.material.metallic) == (1, 0.75) and (look.material.metallic_roughness[..., 2] == 1).all()
    look, notes = look_of(tmp_path, "map_Pr o.png\nmap_Pm o.png\n", {"o.png": flat((255, 51, 102))})
    np.testing.assert_allclose(look.material.metallic_roughness[0, 0, 1:], [0.2, 0.4], atol=1e-6)
    assert "green roughness" in notes[0]


def test_heights_are_left_out_and_normal_maps_among_them_known(tmp_path):
    look, notes = look_of(tmp_path, "map_Bump -bm 0.3 b.png\n", {"b.png": flat((90, 90, 90))})
    assert look.material.normal_map is None and "heights" in notes[0]
    look, notes = look_of(tmp_path, "bump -bm 0.3 b.png\n", {"b.png": flat((128, 128, 255))})
    assert look.material.normal_map is not None and look.material.normal_scale == 0.3 and "read as one" in notes[0]


def test_pictures_without_a_place_are_said_once(tmp_path):
    text = "newmtl a\nmap_Kd t.png\nmap_Ka t.png\nmap_Ks s.png\nmap_Ns n.png\nnewmtl b\nmap_Ks s.png\nmap_Ns n.png\n"
    obj = "mtllib m.mtl\n" + QUAD + "usemtl a\n" + FACE + "usemtl b\n" + FACE
    assert put(tmp_path, text, {"t.png": flat(RED)}, obj).notes == [
        "pictures of its materials are left out, Lathe has no place for them: map_ks, map_ns"
    ]


def test_pictures_without_texture_coordinates(tmp_path):
    contents = put(tmp_path, "newmtl a\nKd 0 1 0\nmap_Kd t.png\n", {"t.png": flat(RED)}, "mtllib m.mtl\n" + QUAD + "usemtl a\nf 1 2 3\n")
    assert (
        contents.parts[0].uvs is None and contents.parts[0].look.texture is None and contents.parts[0].look.factor.tolist() == [0, 1, 0, 1]
    )
    assert any("no texture coordinates" in note for note in contents.notes)


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("mtllib one.mtl two.mtl", ["one.mtl", "two.mtl"]),
        ("mtllib one.mtl\nmtllib two.mtl", ["one.mtl", "two.mtl"]),
        ("mtllib my one.mtl my two.mtl", ["my one.mtl", "my two.mtl"]),
        ("mtllib my one.mtl\nmtllib C:\\x\\two.mtl", ["my one.mtl", "TWO.mtl"]),
        ("mtllib ./one.mtl \\\n two.mtl", ["one.mtl", "two.mtl"]),
    ],
)
def test_several_material_files_and_blanks_in_names(tmp_path, statement, files):
    for name, material in zip(files, ("newmtl a\nKd 1 0 0\n", b"\xef\xbb\xbfnewmtl b c\r\nKd 0 0 1\r\n"), strict=True):
        (tmp_path / name).write_bytes(material if isinstance(material, bytes) else material.encode())
    contents = put(tmp_path, None, obj=statement + "\n" + QUAD + "usemtl a\n" + FACE + "usemtl  b c \n" + FACE)
    assert [part.look.factor.tolist() for part in contents.parts] == [[1, 0, 0, 1], [0, 0, 1, 1]] and contents.notes == []


def test_missing_material_files_and_unknown_materials_are_said(tmp_path):
    contents = put(tmp_path, None, obj="mtllib gone.mtl\n" + QUAD + "usemtl a\n" + FACE)
    assert len(contents.parts) == 1 and len(contents.notes) == 1 and "gone.mtl is missing" in contents.notes[0]
    contents = put(tmp_path, None, obj=QUAD + "usemtl a\n" + FACE)
    assert len(contents.notes) == 1 and "m.mtl is missing" in contents.notes[0]
    contents = put(tmp_path, "newmtl b\nKd 1 0 0\n")
    assert len(contents.notes) == 1 and "'a'" in contents.notes[0] and contents.parts[0].look.factor.tolist() == [1, 1, 1, 1]
    contents = put(tmp_path, "newmtl a\nKd 1 0 0\n", obj="mtllib renamed.mtl\n" + QUAD + "usemtl a\n" + FACE)
    assert "taken from m.mtl" in contents.notes[0] and contents.parts[0].look.factor.tolist() == [1, 0, 0, 1]
    contents = put(tmp_path, b"newmtl a\nKd 1 0 0\0\n")
    assert "cannot be read" in contents.notes[0]


def test_latin_1_names_of_materials(tmp_path):
    (tmp_path / "m.mtl").write_bytes("newmtl Stra\xdfe\nKd 1 0 0\n".encode("latin-1"))
    (tmp_path / "m.obj").write_bytes(("mtllib m.mtl\n" + QUAD + "usemtl Stra\xdfe\n" + FACE).encode("latin-1"))
    contents = read_obj(tmp_path / "m.obj")
    assert contents.parts[0].look.factor.tolist() == [1, 0, 0, 1] and contents.notes == []


def test_parsing_takes_any_words():
    found = read_mtl(b"Kd 1 0 0\nnewmtl a b\nmap_Kd\nmap_Kd -s\nmap_Kd -mm 1\nd\nKd\nnewmtl a b\nKd 0 0 1\n")
    assert list(found) == ["a b"] and found["a b"].pictures["map_kd"].file == "" and found["a b"].words["kd"] == ""


@pytest.mark.parametrize("factor, strength", [((0.5, 0.5, 0.5), 1.0), ((0.5, 0.1, 0.0), 1.0), ((0.5, 1.0, 0.25), 4.0)])
@pytest.mark.parametrize("pictured", [False, True])
def test_what_glows_comes_back_from_lathes_own_files(tmp_path, factor, strength, pictured):
    light = torch.tensor(factor) * strength
    emissive = torch.full((4, 4, 3), 0.8) if pictured else None
    material = Material(emissive=emissive, emissive_factor=factor, emissive_strength=strength)
    triangle = torch.eye(3)
    save_mesh(Mesh(triangle, torch.tensor([[0, 1, 2]]), uvs=triangle[:, :2], material=material), tmp_path / "a.obj")
    read = load_mesh(tmp_path / "a.obj").material
    found = torch.tensor(read.emissive_factor) * read.emissive_strength
    if read.emissive is not None:
        found = found * srgb_to_linear(read.emissive[0, 0])
        light = light * srgb_to_linear(torch.tensor(0.8))
    torch.testing.assert_close(found, light, atol=0.01, rtol=0.02)
