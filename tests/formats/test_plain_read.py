"""PLY, STL and OFF meshes: every layout that scanners and modelling programs write, and broken ones."""

import io
import random
import re
import struct

import numpy as np
import pytest
from lathe.pipelines.formats.plain_read import read_plain
from PIL import Image

PLACES = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
FORMATS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d", "half": "e"}


def linear(value):
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def ply(form, elements, comments=()):
    """elements: (name, [(property, kind) or (property, length kind, kind)], rows); rows hold numbers and lists."""
    lines = ["ply", f"format {form} 1.0", *(f"comment {c}" for c in comments)]
    body = []
    for name, properties, rows in elements:
        lines.append(f"element {name} {len(rows)}")
        lines += [f"property list {p[1]} {p[2]} {p[0]}" if len(p) == 3 else f"property {p[1]} {p[0]}" for p in properties]
        for row in rows:
            for value, each in zip(row, properties, strict=True):
                values = list(value) if len(each) == 3 else [value]
                if form == "ascii":
                    body.append(" ".join(map(str, ([len(values)] if len(each) == 3 else []) + values)) + " ")
                    continue
                order = FORMATS[form]
                if len(each) == 3:
                    body.append(struct.pack(order + CODES[each[1]], len(values)))
                body.append(struct.pack(f"{order}{len(values)}{CODES[each[-1]]}", *values))
            if form == "ascii":
                body.append("\n")
    text = ("\n".join(lines) + "\nend_header\n").encode()
    return text + ("".join(body).encode() if form == "ascii" else b"".join(body))


def read(folder, data, name="m.ply"):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_plain(folder / name)


XYZ = [("x", "float"), ("y", "float"), ("z", "float")]
CORNERS = ("vertex_indices", "uchar", "int")


def mesh(form, extra=(), values=((),) * 4, faces=([0, 1, 2, 3],), kind=CORNERS, **more):
    rows = [(*place, *value) for place, value in zip(PLACES, values, strict=True)]
    return ply(form, [("vertex", [*XYZ, *extra], rows), ("face", [kind], [(face,) for face in faces])], **more)


def area(part):
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return (np.cross(b - a, c - a) / 2).sum(0).tolist()


@pytest.mark.parametrize("form", FORMATS)
def test_polygons_of_every_byte_order(tmp_path, form):
    for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 1, 2, 3]], [[0, 1, 2], [0, 1, 2, 3], [2, 3, 0]]):
        for kind in (CORNERS, ("vertex_index", "int", "uint"), ("vertex_indices", "ushort", "short")):
            contents = read(tmp_path, mesh(form, faces=faces, kind=kind))
            assert area(contents.parts[0]) == [0, 0, 1 if len(faces) < 3 else 2] and contents.notes == []


@pytest.mark.parametrize("form", FORMATS)
def test_double_precision_is_kept(tmp_path, form):
    places = [(500000.01, 4000000.02, 10), (500000.11, 4000000.02, 10), (500000.01, 4000000.12, 10)]
    data = ply(form, [("vertex", [(n, "double") for n in "xyz"], places), ("face", [CORNERS], [([0, 1, 2],)])])
    part = read(tmp_path, data).parts[0]
    assert part.vertices.dtype == np.float64 and part.vertices.tolist() == [list(map(float, place)) for place in places]


def test_concave_polygons_and_ends_of_lines(tmp_path):
    rows = [(0, 0, 0), (4, 0, 0), (4, 4, 0), (2, 1, 0), (0, 4, 0)]
    for form in FORMATS:
        data = ply(form, [("vertex", XYZ, rows), ("face", [CORNERS], [([2, 3, 4, 0, 1],)])])
        assert area(read(tmp_path, data).parts[0]) == [0, 0, 10]
    text = ply("ascii", [("vertex", XYZ, rows), ("face", [CORNERS], [([2, 3, 4, 0, 1],)])])
    for end in (b"\r\n", b"\r"):
        assert area(read(tmp_path, text.replace(b"\n", end)).parts[0]) == [0, 0, 10]
    head, body = ply("binary_little_endian", [("vertex", XYZ, rows), ("face", [CORNERS], [([2, 3, 4, 0, 1],)])]).split(b"end_header\n")
    assert area(read(tmp_path, head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body).parts[0]) == [0, 0, 10]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("kind", "values", "wanted", "said"),
    [
        ("uchar", [(255, 0, 0), (0, 51, 0), (0, 0, 255), (0, 0, 0)], [[1, 0, 0], [0, linear(0.2), 0], [0, 0, 1], [0, 0, 0]], None),
        ("uchar", [(1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)], [[linear(1 / 255), 0, 0], [0] * 3, [0] * 3, [0] * 3], None),
        ("ushort", [(65535, 0, 0), (0, 13107, 0), (0, 0, 0), (0, 0, 0)], [[1, 0, 0], [0, linear(0.2), 0], [0] * 3, [0] * 3], None),
        ("float", [(1, 0, 0), (0, 0.5, 0), (0, 0, 0), (0, 0, 0)], [[1, 0, 0], [0, linear(0.5), 0], [0] * 3, [0] * 3], None),
        ("float", [(255, 0, 0), (0, 127.5, 0), (0, 0, 0), (0, 0, 0)], [[1, 0, 0], [0, linear(0.5), 0], [0] * 3, [0] * 3], "0 to 255"),
        ("uchar", [(255, 0, 0, 51)] * 4, [[1, 0, 0, 0.2]] * 4, None),
        ("uchar", [(255, 0, 0, 255)] * 4, [[1, 0, 0]] * 4, None),
        ("uchar", [(255, 0, 0, 0)] * 4, [[1, 0, 0]] * 4, "transparent"),
    ],
)
def test_colors_of_vertices(tmp_path, form, kind, values, wanted, said):
    for names in (("red", "green", "blue", "alpha"), ("diffuse_red", "diffuse_green", "diffuse_blue", "diffuse_alpha")):
        extra = [(name, kind) for name in names[: len(values[0])]]
        contents = read(tmp_path, mesh(form, extra, values))
        part = contents.parts[0]
        np.testing.assert_allclose(part.colors, wanted, atol=1e-6)
        assert part.look.material.alpha_mode == ("BLEND" if len(wanted[0]) == 4 else "OPAQUE")
        assert contents.notes == [] if said is None else said in contents.notes[0]


@pytest.mark.parametrize("form", FORMATS)
def test_colors_of_faces_go_to_vertices_of_their_own(tmp_path, form):
    properties = [CORNERS, ("red", "uchar"), ("green", "uchar"), ("blue", "uchar")]
    faces = [([0, 1, 2], 255, 0, 0), ([0, 2, 3], 0, 255, 0), ([0, 1, 2, 3], 0, 255, 0)]
    part = read(tmp_path, ply(form, [("vertex", XYZ, PLACES), ("face", properties, faces)])).parts[0]
    assert part.colors[part.faces[0]].tolist() == [[1, 0, 0]] * 3 and (part.colors[part.faces[1:]] == [0, 1, 0]).all()
    assert len(part.vertices) == 7  # 0 and 2 in both colours, 1 in both, 3 in one


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", [("s", "t"), ("u", "v"), ("texture_u", "texture_v")])
def test_texture_coordinates_and_normals_of_vertices(tmp_path, form, names):
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "my tex.png")
    extra = [*((name, "float") for name in names), ("nx", "float"), ("ny", "float"), ("nz", "float")]
    values = [(0, 0.25, 0, 0, 2), (1, 0, 0, 0, 2), (1, 1, 0, 0, 2), (0, 1, 0, 3, 4)]
    contents = read(tmp_path, mesh(form, extra, values, comments=["made by a test", "TextureFile my tex.png"]))
    part = contents.parts[0]
    assert part.uvs.tolist() == [[0, 0.75], [1, 1], [1, 0], [0, 0]] and part.look.texture[0, 0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(part.normals, [[0, 0, 1]] * 3 + [[0, 0.6, 0.8]], atol=1e-6)
    assert contents.notes == []


@pytest.mark.parametrize("form", FORMATS)
def test_texture_coordinates_of_faces_and_several_pictures(tmp_path, form):
    for name, color in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
        Image.new("RGB", (2, 2), color).save(tmp_path / name)
    properties = [CORNERS, ("texcoord", "uchar", "float"), ("texnumber", "int")]
    faces = [([0, 1, 2], [0, 0, 1, 0, 1, 1], 0), ([0, 2, 3], [0.5, 0, 1, 1, 0, 1], 1), ([0, 1, 2, 3], [0, 0, 1, 0, 1, 1, 0, 1], 0)]
    elements = [("vertex", XYZ, PLACES), ("face", properties, faces)]
    contents = read(tmp_path, ply(form, elements, ["TextureFile a.png", "TextureFile C:\\x\\b.png"]))
    first, second = contents.parts
    assert first.look.texture[0, 0].tolist() == [1, 0, 0] and second.look.texture[0, 0].tolist() == [0, 0, 1]
    assert len(first.faces) == 3 and len(first.vertices) == 4
    assert second.uvs[second.faces[0]].tolist() == [[0.5, 1], [1, 0], [0, 0]]
    # Without the number of the picture: the first, and that is said. Missing: said.
    elements[1] = ("face", properties[:2], [face[:2] for face in faces])
    contents = read(tmp_path, ply(form, elements, ["TextureFile a.png", "TextureFile gone.png"]))
    assert contents.parts[0].look.texture[0, 0].tolist() == [1, 0, 0]
    assert any("gone.png" in note for note in contents.notes) and any("2 pictures" in note for note in contents.notes)
    assert len(contents.parts[0].vertices) == 5, "vertex 0 stands twice, once for each texture coordinate"


def test_what_is_dropped_of_a_ply_is_said(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    uvs = [("s", "float"), ("t", "float")]
    assert "bad.png" in read(tmp_path, mesh("ascii", uvs, ((0, 0),) * 4, comments=["TextureFile bad.png"])).notes[0]
    assert "no texture coordinates" in read(tmp_path, mesh("ascii", comments=["TextureFile bad.png"])).notes[-1]
    assert "not finite" in read(tmp_path, mesh("ascii", uvs, (("nan", 0), (0, 0), (0, 0), (0, 0)))).notes[0]
    normals = [("nx", "float"), ("ny", "float"), ("nz", "float")]
    contents = read(tmp_path, mesh("ascii", normals, ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 1))))
    assert contents.parts[0].normals is None and "normals" in contents.notes[0]
    assert "left out" in read(tmp_path, mesh("ascii", faces=([0, 0, 1], [0, 1, 2]))).notes[0]


@pytest.mark.parametrize("form", FORMATS)
def test_triangle_strips_and_further_elements(tmp_path, form):
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 0)]
    strips = [([0, 1, 2, 3, 4, -1, 0, 1, 2],), ([2, 3, 4],)]
    camera = ("camera", [("a", "float"), ("list", "uchar", "float")], [(1, [1, 2]), (2, [])])
    tables = [camera, ("vertex", XYZ, places), ("tristrips", [("vertex_indices", "int", "int")], strips), ("edge", [("q", "int")], [(7,)])]
    part = read(tmp_path, ply(form, tables)).parts[0]
    assert len(part.faces) == 5 and area(part) == [0, 0, 2.5]


def splats(names=("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0")):
    return ply("binary_little_endian", [("vertex", [*XYZ, *((n, "float") for n in names)], [(0,) * (3 + len(names))])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (splats(), "Gaussian splats.*Load Splat"),
        (
            ply("ascii", [("chunk", [("min_x", "float")], [(0,)]), ("vertex", [("packed_position", "uint")], [(0,)])]),
            "Gaussian splats.*Load Splat",
        ),
        (ply("ascii", [("vertex", XYZ, PLACES)]), "point cloud"),
        (ply("ascii", [("vertex", XYZ, PLACES), ("face", [CORNERS], [])]), "point cloud"),
        (ply("ascii", [("vertex", XYZ[:2], [(0, 0)]), ("face", [CORNERS], [([0, 0, 0],)])]), "x, y and z"),
        (ply("ascii", [("vertex", XYZ, PLACES), ("face", [("a", "int")], [(0,)])]), "vertex_indices"),
        (mesh("ascii", faces=([0, 1, 4],)), "face 0 names a vertex 4 "),
        (mesh("binary_little_endian", faces=([0, 1, 2], [0, -1, 2])), "face 1 names a vertex -1 "),
        (mesh("ascii", faces=([0, 1, 1.5],)), "face 0 names a vertex 1.5 "),
        (mesh("ascii").replace(b"1 1 0", b"1 nan 0"), "vertex 2 is not finite"),
        (mesh("ascii").replace(b"1 1 0", b"1 1,5 0"), "'1,5', which is no number"),
        (mesh("binary_big_endian")[:-3], "cut short"),
        (mesh("ascii")[:-6], "cut short"),
        (mesh("binary_little_endian").replace(b"element vertex 4", b"element vertex 4000000000"), "cut short"),
        (mesh("ascii").replace(b"element face 1", b"element face 999999999999"), "cut short"),
        (mesh("ascii").replace(b"4 0 1 2 3", b"-4 0 1 2 3"), "list of length -4"),
        (mesh("ascii").replace(b"4 0 1 2 3", b"nan 0 1 2 3"), "list of length nan"),
        (mesh("ascii").replace(b"property float x", b"property string x"), "property string x"),
        (mesh("ascii").replace(b"list uchar int", b"list float int"), "whole number"),
        (mesh("ascii").replace(b"format ascii", b"format utf8"), "format is 'utf8'"),
        (mesh("ascii").replace(b"end_header", b"end"), "header has no end"),
        (mesh("ascii").replace(b"element vertex 4", b"element vertex -4"), "element vertex -4"),
        (b"", "does not begin"),
        (b"solid a", "does not begin"),
    ],
)
def test_plys_that_are_no_meshes_or_broken(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data)


STL = "solid a vertex cube\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1e0 0\nendloop\nendfacet\nendsolid a\n"


def binary_stl(facets=2, head=b"solid by a program", attributes=0):
    one = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, attributes)
    return head.ljust(80, b"\0") + struct.pack("<I", facets) + one * facets


@pytest.mark.parametrize(
    ("data", "triangles", "said"),
    [
        (STL, 1, None),
        (STL.replace("\n", "\r\n"), 1, None),
        (STL.upper(), 1, None),
        (STL + STL, 2, None),
        (STL.replace("solid a vertex cube", "solid"), 1, None),
        (binary_stl(), 2, None),
        (binary_stl(head=b"\xff\xfe"), 2, None),
        (binary_stl() + b"trailing", 2, "8 bytes"),
        (binary_stl(attributes=0x8FFF), 2, "colours"),
        (binary_stl(head=b"COLOR=\xff\0\0\xff", attributes=0x7FFF), 2, "colours"),
    ],
)
def test_stl(tmp_path, data, triangles, said):
    contents = read(tmp_path, data, "m.stl")
    assert sum(len(part.faces) for part in contents.parts) == triangles
    assert all(area(part) == [0, 0, len(part.faces) / 2] for part in contents.parts)
    assert contents.notes == [] if said is None else said in contents.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (binary_stl()[:-1], "cut short"),
        (binary_stl()[:84] + b"\0" * 10, "cut short"),
        (binary_stl()[:50], "cut short"),
        (binary_stl().replace(struct.pack("<f", 1), struct.pack("<f", np.inf)), "facet 1 .*not finite"),
        (STL + STL.replace("1 0 0", "1 nan 0"), "facet 2 .*not finite"),
        (STL.replace("1 0 0", "1 0,5 0"), "'1 0,5 0', not three numbers"),
        (STL.replace("vertex 1 0 0\n", ""), "facet 1 has no three corners"),
        (STL + STL.replace("vertex 1 0 0\n", "vertex 1 0 0\n" * 2), "facet 2 has no three corners"),
        (STL[:60], "facet 1 has no three corners"),
        ("no solid at all", "no STL"),
        ("", "no STL"),
    ],
)
def test_broken_stl(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data, "m.stl")


def test_a_text_stl_without_its_end_is_said(tmp_path):
    assert "may be cut short" in read(tmp_path, STL.replace("endsolid a", ""), "m.stl").notes[0]
    assert read(tmp_path, "solid a\nendsolid a\n", "m.stl").parts == []


OFF = "OFF\n5 2 0\n0 0 0\n4 0 0\n4 4 0\n2 1 0\n0 4 0\n5 2 3 4 0 1\n3 0 1 2\n"


@pytest.mark.parametrize(
    ("data", "colors", "said"),
    [
        (OFF, None, None),
        (OFF.replace("\n", "\r\n"), None, None),
        (OFF.replace("OFF\n5", "# made by\nOFF # a mesh\n\n# counts\n5").replace("4 4 0", "4 4 0 # third"), None, None),
        (OFF.replace("OFF\n", ""), None, None),
        (OFF.replace("OFF\n", "OFF "), None, None),
        (OFF.replace(" 0\n4", " 0 9\n4").replace("0 0 9", "0 0").replace("off", ""), None, None),
        ("C" + OFF.replace("0\n4 0 0\n", "0 255 0 0 255\n4 0 0 0 51 0 255\n").replace("4 4 0", "4 4 0 0 0 0 255")
         .replace("2 1 0", "2 1 0 0 0 0 255").replace("0 4 0\n", "0 4 0 0 0 0 255\n"), [[1, 0, 0], [0, linear(0.2), 0]], "0 to 255"),
        (OFF.replace("0 1\n3", "0 1 255 0 0\n3").replace("0 1 2\n", "0 1 2 0 0 255\n"), "faces", "0 to 255"),
        (OFF.replace("0 1\n3", "0 1 1.0 0 0\n3").replace("0 1 2\n", "0 1 2 0 0 1.0\n"), "faces", None),
        (OFF.replace("0 1 2\n", "0 1 2 7\n"), None, "colours of its faces"),
    ],
)  # fmt: skip
def test_off(tmp_path, data, colors, said):
    contents = read(tmp_path, data, "m.off")
    (part,) = contents.parts
    assert area(part) == [0, 0, 18]
    if colors == "faces":
        assert (part.colors[part.faces[:3]] == [1, 0, 0]).all() and (part.colors[part.faces[3]] == [0, 0, 1]).all()
    elif colors is None:
        assert part.colors is None
    else:
        np.testing.assert_allclose(part.colors[:2], colors, atol=1e-6)
    assert contents.notes == [] if said is None else said in contents.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (OFF.replace("OFF", "OFF BINARY"), "binary OFF"),
        (OFF.replace("OFF", "4OFF"), "dimensions"),
        (OFF.replace("OFF", "nOFF"), "dimensions"),
        (OFF.replace("5 2 0", "5 3 0"), "cut short"),
        (OFF.replace("5 2 0", "999999999999 2 0"), "cut short"),
        (OFF.replace("5 2 0", "-5 2 0"), "how many"),
        (OFF.replace("3 0 1 2", "3 0 1 5"), "face 1 names"),
        (OFF.replace("3 0 1 2", "4 0 1 2"), "face 1 has fewer"),
        (OFF.replace("3 0 1 2", "-3 0 1 2"), "face 1 has fewer"),
        (OFF.replace("4 4 0", "4 nan 0"), "vertex 2 is not finite"),
        (OFF.replace("4 4 0", "4 x 0"), "'4 x 0' is no row of numbers"),
        (OFF.replace("4 4 0", "4 4"), "vertex 2 has 2 numbers"),
        ("", "how many"),
    ],
)
def test_broken_off(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data, "m.off")


@pytest.mark.parametrize("seed", range(120))
def test_mutations_are_read_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    colored = [("red", "uchar"), ("green", "uchar"), ("blue", "uchar")]
    seeds = [(mesh(form, colored, ((1, 2, 3),) * 4, ([0, 1, 2], [0, 1, 2, 3])), "m.ply") for form in FORMATS]
    seeds += [(STL.encode(), "m.stl"), (binary_stl(), "m.stl"), (OFF.encode(), "m.off")]
    data, name = rng.choice(seeds)
    data = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        place, kind = rng.randrange(len(data) + 1), rng.randrange(3)
        if kind == 0 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind == 1:
            data = data[: max(1, place)]
        else:
            data[place:place] = rng.choice([b"9", b"-", b"1e400 ", b"nan ", b"\0", b"\n", b" ", b"\xff\xff\xff\xff"])
    try:
        contents = read(tmp_path, bytes(data), name)
    except ValueError as error:
        assert not re.search(r"numpy|broadcast|dtype|reshape", str(error))
        return
    for part in contents.parts:
        assert np.isfinite(part.vertices).all()
        assert not len(part.faces) or (part.faces.min() >= 0 and part.faces.max() < len(part.vertices))
        assert part.colors is None or np.isfinite(part.colors).all()


def test_cancel_is_asked_for(tmp_path):
    calls = []
    (tmp_path / "m.ply").write_bytes(mesh("ascii", faces=([0, 1, 2], [0, 1, 2, 3])))
    read_plain(tmp_path / "m.ply", lambda step, total, preview=None: calls.append(step))
    assert calls


def test_transparent_pictures_of_a_ply(tmp_path):
    out = io.BytesIO()
    Image.new("RGBA", (1, 2), (255, 0, 0, 51)).save(out, "PNG")
    (tmp_path / "t.png").write_bytes(out.getvalue())
    part = read(tmp_path, mesh("ascii", [("s", "float"), ("t", "float")], ((0, 0),) * 4, comments=["TextureFile t.png"])).parts[0]
    assert part.look.texture[0, 0, 3] == pytest.approx(0.2) and part.look.material.alpha_mode == "BLEND"


def test_faces_may_stand_before_vertices(tmp_path):
    head = "ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int vertex_indices\nelement vertex 3\n"
    rows = "property float x\nproperty float y\nproperty float z\nend_header\n3 0 1 2\n0 0 0\n1 0 0\n0 1 0\n"
    (tmp_path / "a.ply").write_text(head + rows)
    found = read_plain(tmp_path / "a.ply").parts[0]
    np.testing.assert_array_equal(found.vertices[found.faces[0]], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
