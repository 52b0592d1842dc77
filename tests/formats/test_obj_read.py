"""OBJ geometry as exporters write it; the right values are written out. Materials: test_obj_materials."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from lathe.pipelines.formats.meshes import load_mesh
from lathe.pipelines.formats.obj_read import read_obj

REPORTED = Path(__file__).parents[1] / "data" / "reported"
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


def read(folder, text, name="m.obj"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_obj(path)


def one(folder, text):
    (part,) = read(folder, text).parts
    return part


def points(part):
    """(F, 3, 3) corners of the triangles, in the order of the file."""
    return part.vertices[part.faces]


def areas(part):
    """Area vectors (F, 3)."""
    a, b, c = points(part).transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2


def srgb(value):
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def test_reported_relative_indices():
    (part,) = read_obj(REPORTED / "o_neg.obj").parts
    assert len(part.vertices) == 6 and points(part)[0, :, 2].tolist() == [0, 0, 0] and points(part)[1, :, 2].tolist() == [5, 5, 5]


def test_reported_concave_polygon():
    (part,) = read_obj(REPORTED / "o_ngon.obj").parts
    assert areas(part).sum(0).tolist() == [0, 0, 10] and (areas(part)[:, 2] > 0).all()


def test_reported_far_coordinates_stay_double():
    (part,) = read_obj(REPORTED / "o_utm.obj").parts
    assert part.vertices.dtype == np.float64
    np.testing.assert_array_equal(part.vertices[1], [500000.11, 4000000.02, 10])
    assert len(np.unique(part.vertices, axis=0)) == 4


def test_relative_indices_count_each_kind_by_itself(tmp_path):
    text = "v 9 9 9\nvt 0 0\nvn 0 0 1\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0.25\nvt 1 0\nvt 0 1\n"
    text += "f -3/-3/-1 -2/-2/-1 -1/-1/-1\nvn 1 0 0\nvt .5 .5\n"
    part = one(tmp_path, text)
    assert points(part).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    assert part.uvs[part.faces[0]].tolist() == [[0, 0.75], [1, 1], [0, 0]] and part.normals.tolist() == [[0, 0, 1]] * 3


def test_absolute_indices_may_name_what_comes_later(tmp_path):
    assert points(one(tmp_path, "f 1 2 3\n" + TRIANGLE)).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize(
    "forms", [("1", "2", "3"), ("1/1", "2/2", "3/1"), ("1//1", "2//1", "3//1"), ("1/1/1", "2//1", "3"), ("1/", "2//", "3")]
)
def test_corners_in_every_form(tmp_path, forms):
    part = one(tmp_path, TRIANGLE + "vt 0 0\nvt 1 1\nvn 0 0 2\nf " + " ".join(forms) + "\n")
    assert points(part).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_ends_of_lines(tmp_path, end, encoding):
    text = "# Zürich\no  Fläche\n" + TRIANGLE + "s off\ng a b\nf 1 2 3"
    assert areas(one(tmp_path, text.replace("\n", end).encode(encoding))).tolist() == [[0, 0, 0.5]]


def test_latin_1_names_tabs_and_blanks(tmp_path):
    text = "o Fl\xe4che\n\t v\t0  0 0 \n  v 1 0 0\t\nv 0 1 0\n  f  1\t2 3  \n"
    assert areas(one(tmp_path, text.encode("latin-1"))).tolist() == [[0, 0, 0.5]]


def test_lines_go_on_after_a_backslash_but_not_comments(tmp_path):
    part = one(tmp_path, "# a path C:\\\nv 0 0 \\\n0\nv 1 0 0\nv 0 1 0\nf 1 \\\n2 \\\n3\n")
    assert points(part).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    with pytest.raises(ValueError, match="line 5 "):
        read(tmp_path, "v 0 \\\n0 \\\n0\nv 1 0 0\nv x 1 0\nf 1 2 3\n")


def test_comments_behind_statements(tmp_path):
    assert areas(one(tmp_path, "v 0 0 0 # first, of 3\nv 1 0 0#\nv 0 1 0\nf 1 2 3 # 4 5\n")).tolist() == [[0, 0, 0.5]]


def test_keywords_in_capitals(tmp_path):
    text = "V 0 0 0\nV 1 0 0 \nv 0 1 0\nVT 0 0\nVn 0 0 1\nvN 0 0 1\nUSEMTL Paint\nF 1/1/1 2/1/1 3/1/2\nFO 1 2 3\nUseMtl b\nL 1 2\nf 1 2 3\n"
    contents = read(tmp_path, text)
    assert [len(part.faces) for part in contents.parts] == [2, 1]
    assert points(contents.parts[0]).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 2
    assert any("lines (l)" in note for note in contents.notes)
    assert any("m.mtl is missing" in note for note in contents.notes)


@pytest.mark.parametrize("faces", ["f 1 2 3\n", "f 1 2 3 4\n", "f 1 2 3 4 5\n"])
@pytest.mark.filterwarnings("error")
def test_coordinates_beyond_all_objects_are_refused_without_noise(tmp_path, faces):
    (tmp_path / "m.obj").write_text("v 1e308 0 0\nv -1e308 1e308 0\nv 0 0 1e308\nv 0 1 0\nv 0 0 -1e308\n" + faces)
    with pytest.raises(ValueError, match=r"1e\+308 from the origin, beyond 1e\+12"):
        load_mesh(tmp_path / "m.obj")


def test_decimal_commas_are_read_and_said(tmp_path):
    contents = read(tmp_path, "v 0 0 0\nv 1,5 0 0\nv 0 2,0 0\nf 1 2 3\n")
    assert areas(contents.parts[0]).tolist() == [[0, 0, 1.5]] and any("decimal commas" in note for note in contents.notes)
    with pytest.raises(ValueError, match="line 2 .*commas.* line 3 .*points"):
        read(tmp_path, "v 0 0 0\nv 1,5 0 0\nv 0 2.0 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match=r"line 1 \(v 0.0.0\)"):
        read(tmp_path, "v 0,0,0\nv 1,0,0\nv 0,1,0\nf 1 2 3\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "line 1: .*not finite"),
        ("v 0 0 0\nv 1 inf 0\nv 0 1 0\nf 1 2 3\n", "line 2: .*not finite"),
        ("v 0 0 0\nv 1 1e999 0\nv 0 1 0\nf 1 2 3\n", "line 2: .*not finite"),
        ("v 1e 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"line 1 \(v 1e 0 0\)"),
        ("v 0 0 0\nv 1 0 abc\nv 0 1 0\nf 1 2 3\n", "line 2 .*abc"),
        ("v 0 0 0\nv 1_0 0 0\nv 0 1 0\nf 1 2 3\n", "line 2 "),
        ("v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "line 2: .* 2 numbers"),
        ("v\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "line 1: .* 0 numbers"),
        ("\nv", "line 2: .* 0 numbers"),
        ("vt\n" + TRIANGLE + "f 1 2 3", "line 1: .*no number"),
        (TRIANGLE + "vn 1\nf 1 2 3", "line 4: .* 1 numbers"),
        (TRIANGLE + "f 1 2 4\n", "line 4: .* 3 of them"),
        (TRIANGLE + "\n\nf 1 2 1000000000\n", "line 6: "),
        (TRIANGLE + "f 1 2 99999999999999999999999\n", "line 4: "),
        (TRIANGLE + "f 1 2 -99999999999999999999999\n", "line 4: "),
        (TRIANGLE + "f -1 -2 -4\n", "line 4: "),
        (TRIANGLE + "f 0 1 2\n", "line 4: "),
        (TRIANGLE + "vt 0 0\nf 1/1 2/2 3/1\n", "line 5: .*a vt"),
        (TRIANGLE + "vn 0 0 1\nf 1//1 2//-2 3//1\n", "line 5: .*a vn"),
        (TRIANGLE + "f 1 2 3.0\n", r"line 4 \(f 1 2 3.0\)"),
        (TRIANGLE + "f 1 2 3/1/1/1\n", "line 4 "),
        (TRIANGLE + "f 1 /2 3-1\n", "line 4 "),
        (TRIANGLE + "f a b c\n", "line 4 "),
        (TRIANGLE + "f " + "x" * 1_000_000 + "\n", "line 4 .*x\\.\\.\\."),
        (TRIANGLE.encode() + b"f 1 2 3\0\n", "zero bytes"),
        (TRIANGLE.encode("utf-16") + b"x", "UTF-16"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        read(tmp_path, text)
    assert len(str(raised.value)) < 300


def test_what_has_no_polygons_has_no_parts(tmp_path):
    contents = read(tmp_path, TRIANGLE + "l 1 2 3\np 1\n")
    assert contents.parts == [] and contents.notes == ["its lines (l) and points (p) are left out"]
    assert read(tmp_path, "").parts == [] and read(tmp_path, "\n\n# nothing").parts == []
    assert any("free-form" in note for note in read(tmp_path, TRIANGLE + "surf 0 1 0 1 1 2 3\nf 1 2 3\n").notes)


def test_degenerate_polygons_are_left_out_and_said(tmp_path):
    contents = read(tmp_path, TRIANGLE + "v 2 0 0\nf\nf 1 1 2\nf 1 2\nf 1\nf 1 2 4 2\nf 1 2 2 3 3\n")
    assert areas(contents.parts[0]).tolist() == [[0, 0, 0.5]]
    assert contents.notes == ["5 polygon(s) with fewer than three different corners or without area are left out"]


def test_vertices_stand_once_for_each_uv_and_normal(tmp_path):
    quads = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 0 0\nv 2 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvn 0 0 1\nvn 0 1 1\n"
    shared = one(tmp_path, quads + "f 1 2 3 4\nf 2 5 6 3\n")
    assert len(shared.vertices) == 6 and shared.uvs is None and shared.normals is None
    seam = one(tmp_path, quads + "f 1/1 2/2 3/3 4/4\nf 2/1 5/2 6/3 3/4\n")
    assert len(seam.vertices) == 8 and (seam.uvs[seam.faces[2:]] == seam.uvs[seam.faces[:2]]).all()
    edge = one(tmp_path, quads + "f 1//1 2//1 3//1 4//1\nf 2//2 5//2 6//2 3//2\n")
    assert len(edge.vertices) == 8
    np.testing.assert_allclose(edge.normals[edge.faces[2]], [[0, 0.5**0.5, 0.5**0.5]] * 3, rtol=1e-6)


def test_normals_that_lack_are_computed_anew_and_said(tmp_path):
    for normals in ("vn 0 0 1\nf 1//1 2//1 3\n", "vn 0 0 0\nf 1//1 2//1 3//1\n", "vn nan 0 1\nf 1//1 2//1 3//1\n"):
        contents = read(tmp_path, TRIANGLE + normals)
        assert contents.parts[0].normals is None and any("normals" in note for note in contents.notes)


def test_texture_coordinates_of_one_to_three_numbers(tmp_path):
    part = one(tmp_path, TRIANGLE + "vt 0.25\nvt 0.5 0.25\nvt 1 1 7\nf 1/1 2/2 3/3\n")
    assert part.uvs.tolist() == [[0.25, 1], [0.5, 0.75], [1, 0]]


def test_faces_without_texture_coordinates_are_said(tmp_path):
    contents = read(tmp_path, TRIANGLE + "v 1 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\nf 2 4 3\n")
    assert contents.parts[0].uvs is not None and any("no texture coordinates" in note for note in contents.notes)
    contents = read(tmp_path, TRIANGLE + "vt nan 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    assert contents.parts[0].uvs[0].tolist() == [0, 1] and any("line 4" in note for note in contents.notes)


@pytest.mark.parametrize(
    ("rows", "colors", "said"),
    [
        (["1 0 0", "0 0.5 0", "0 0 1"], [[1, 0, 0], [0, srgb(0.5), 0], [0, 0, 1]], None),
        (["255 0 0", "0 127.5 0", "0 0 1"], [[1, 0, 0], [0, srgb(0.5), 0], [0, 0, srgb(1 / 255)]], "0 to 255"),
        (["65535 0 0", "0 0 0", "0 0 32767.5"], [[1, 0, 0], [0, 0, 0], [0, 0, srgb(0.5)]], "0 to 65535"),
        (["1 0 0 0.5", "0 1 0 1", "0 0 1 0"], [[1, 0, 0, 0.5], [0, 1, 0, 1], [0, 0, 1, 0]], "alpha"),
        (["255 0 0 127.5", "0 255 0 255", "0 0 255 0"], [[1, 0, 0, 0.5], [0, 1, 0, 1], [0, 0, 1, 0]], "0 to 255"),
        (["1 0 0 0", "1 0 0.5 0", "1 0 0 1"], [[0, 0, 0], [0, srgb(0.5), 0], [0, 0, 1]], "weight r g b"),
        (["-1 0 0", "0 1 0", "0 0 1"], [[0, 0, 0], [0, 1, 0], [0, 0, 1]], "clipped"),
        (["nan 0 0", "0 1 0", "0 0 1"], [[1, 1, 1], [0, 1, 0], [0, 0, 1]], "not finite"),
        (["0 0 0", "", "0 0 1"], [[0, 0, 0], [1, 1, 1], [0, 0, 1]], "white"),
        (["1", "1", "1"], None, None),
        (["1", "0.5", "1"], None, "fourth number"),
        (["0 0", "0 0", "0 0"], None, "first three"),
    ],
)
def test_colors_and_weights_behind_positions(tmp_path, rows, colors, said):
    places = ["0 0 0", "1 0 0", "0 1 0"]
    contents = read(tmp_path, "".join(f"v {p} {c}\n" for p, c in zip(places, rows, strict=True)) + "f 1 2 3\n")
    part = contents.parts[0]
    assert points(part).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    if colors is None:
        assert part.colors is None
    else:
        np.testing.assert_allclose(part.colors, colors, atol=1e-6)
        assert part.look.material.alpha_mode == ("BLEND" if part.colors.shape[1] == 4 else "OPAQUE")
    assert contents.notes == [] if said is None else any(said in note for note in contents.notes)


def test_polypaint(tmp_path):
    text = TRIANGLE + "#MRGB ffff0000ff00ff00\n#MRGB ff0000ff\nf 1 2 3\n"
    assert one(tmp_path, text).colors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    contents = read(tmp_path, text.replace("ff0000ff\n", "ff00\n"))
    assert contents.parts[0].colors is None and any("#MRGB" in note for note in contents.notes)


def test_statements_across_many_chunks(tmp_path, monkeypatch):
    """Relative indices, materials and the numbers of lines go on from one piece of the file to the next."""
    monkeypatch.setattr("lathe.pipelines.formats.obj_statements._CHUNK", 64)
    blocks = [f"v 0 0 {k}\nv 1 0 {k}\nv 0 1 {k}\n" + (f"usemtl m{k // 10}\n" if k % 10 == 0 else "") + "f -3 -2 -1\n" for k in range(30)]
    contents = read(tmp_path, "".join(blocks))
    assert [points(part)[:, :, 2].tolist() for part in contents.parts] == [[[k] * 3 for k in range(a, a + 10)] for a in (0, 10, 20)]
    with pytest.raises(ValueError, match="line 124 "):
        read(tmp_path, "".join(blocks) + "f 1 2 x\n")


def test_cancel_is_asked_for_while_reading(tmp_path, monkeypatch):
    class Cancelled(BaseException):
        pass

    def tick(step, total, preview=None):
        if step > 0:
            raise Cancelled

    monkeypatch.setattr("lathe.pipelines.formats.obj_statements._CHUNK", 64)
    (tmp_path / "m.obj").write_text(TRIANGLE * 10 + "f 1 2 3\n")
    with pytest.raises(Cancelled):
        read_obj(tmp_path / "m.obj", tick)


SEEDS = [
    "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv .2 .2 1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvn 0 0 1\nusemtl a\n"
    "f 1/1/1 2/2/1 3/3/1 4/4/1\nusemtl b\nf -1//-1 -2//1 -3//1 1//1 2//1\n",
    "v 0 0 0 1 0 0\nv 4 0 0 0 1 0\nv 4 4 0 0 0 1\nv 2 1 0 1 1 1\nv 0 4 0 0 0 0\nf 3 4 5 1 2\nl 1 2\nf 1 2 3\n",
]
SPICE = [
    b"-1",
    b"9" * 12,
    b"-" + b"9" * 30,
    b"1e400",
    b"nan",
    b"/",
    b"//",
    b"f ",
    b"\nf 1 2 3 4 5 1 2 3\n",
    b"\\\n",
    b"\0",
    b"\xff",
    b"\t",
    b",",
    b"#",
]


@pytest.mark.parametrize("seed", range(200))
def test_mutations_are_read_or_refused(tmp_path, seed):
    """Bytes changed, words put in, cut short, lines shuffled: finite parts or a ValueError, never anything else."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(SEEDS).encode())
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind == 1:
            data = data[: max(1, place)]
        elif kind == 2:
            data[place:place] = rng.choice(SPICE)
        else:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
    try:
        contents = read(tmp_path, bytes(data))
    except ValueError as error:
        assert not re.search(r"numpy|broadcast|axis|dtype|array", str(error))
        return
    for part in contents.parts:
        assert np.isfinite(part.vertices).all() and part.faces.min() >= 0 and part.faces.max() < len(part.vertices)
        for extra in (part.uvs, part.colors, part.normals):
            assert extra is None or (np.isfinite(extra).all() and len(extra) == len(part.vertices))
