"""Splats to files and back: every format within what it can hold, and bad files told apart in words."""

import gzip
import os
import struct
import time
from pathlib import Path

import numpy
import pytest
import torch
from data.tiny_geolrm import golden
from handed import letter, letter_splats
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.formats import splats as splat_files
from lathe.pipelines.formats.splats import load_splats, save_splats
from lathe.pipelines.ops.quaternions import rotation_matrices
from lathe.pipelines.reconstruction.geolrm.stages import to_splats
from plyfile import PlyData, PlyElement

DC = 0.28209479177387814


def some_splats(count: int = 200, degree: int = 0, seed: int = 0) -> Splats:
    draw = torch.Generator().manual_seed(seed)
    return Splats(
        positions=torch.rand(count, 3, generator=draw) * 2 - 1,
        scales=torch.exp(torch.rand(count, 3, generator=draw) * 4 - 6),
        rotations=torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=-1),
        opacities=torch.rand(count, generator=draw),
        sh=torch.rand(count, (degree + 1) ** 2, 3, generator=draw) * 1.8 - 0.9,
    )


def quaternion_error(a: Splats, b: Splats) -> float:
    """The largest angle between the rotations, in radians."""
    a_unit, b_unit = (torch.nn.functional.normalize(s.rotations.double(), dim=-1) for s in (a, b))
    return float(2 * torch.acos((a_unit * b_unit).sum(-1).abs().clamp(max=1)).max())


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_round_trip(tmp_path, degree):
    splats = some_splats(degree=degree)
    save_splats(splats, tmp_path / "a.ply")
    back = load_splats(tmp_path / "a.ply")
    for name in ("positions", "scales", "opacities", "sh"):
        assert (getattr(back, name) - getattr(splats, name)).abs().max() <= 1e-6, name
    aligned = back.rotations * (back.rotations * splats.rotations).sum(-1, keepdim=True).sign()
    assert (aligned - splats.rotations).abs().max() <= 1e-6


def test_ply_is_the_reference_layout(tmp_path):
    splats = some_splats(5, degree=1)
    save_splats(splats, tmp_path / "a.ply")
    ply = PlyData.read(str(tmp_path / "a.ply"))
    names = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 " + " ".join(f"f_rest_{i}" for i in range(9)) + " opacity scale_0 scale_1 scale_2"
    assert " ".join(ply["vertex"].data.dtype.names) == names + " rot_0 rot_1 rot_2 rot_3"
    assert ply.byte_order == "<" and not ply.text and {kind.str for kind, _ in ply["vertex"].data.dtype.fields.values()} == {"<f4"}
    rows = ply["vertex"].data
    numpy.testing.assert_allclose(rows["y"], -splats.positions[:, 1].numpy())  # y-down
    numpy.testing.assert_allclose(rows["f_rest_2"], splats.sh[:, 3, 0].numpy())  # red's third: x keeps its sign
    numpy.testing.assert_allclose(rows["f_rest_3"], -splats.sh[:, 1, 1].numpy())  # green's first: y changes its own
    numpy.testing.assert_allclose(rows["opacity"], torch.logit(splats.opacities).numpy(), rtol=1e-4)
    numpy.testing.assert_allclose(rows["scale_1"], splats.scales[:, 1].log().numpy(), rtol=1e-6)


def test_opacities_of_0_and_1_stay_finite(tmp_path):
    splats = some_splats(3)
    splats.opacities[:] = torch.tensor([0.0, 1.0, 0.5])
    save_splats(splats, tmp_path / "a.ply")
    logits = PlyData.read(str(tmp_path / "a.ply"))["vertex"].data["opacity"]
    assert abs(logits[0] + 13.8155) < 1e-3 and abs(logits[1] - 13.8155) < 1e-3
    assert (load_splats(tmp_path / "a.ply").opacities - splats.opacities).abs().max() <= 1.1e-6


@pytest.mark.parametrize("suffix", [".splat", ".spz"])
@pytest.mark.parametrize("degree", [0, 3])
def test_packed_round_trips_within_their_steps(tmp_path, suffix, degree):
    splats = some_splats(2000, degree=degree)
    save_splats(splats, tmp_path / f"a{suffix}")
    back = load_splats(tmp_path / f"a{suffix}")
    assert (back.opacities - splats.opacities).abs().max() <= 0.5 / 255 + 1e-6
    if suffix == ".splat":
        assert torch.equal(back.positions, splats.positions) and torch.equal(back.scales, splats.scales)
        assert (back.sh - splats.sh[:, :1]).abs().max() <= 0.5 / 255 / DC + 1e-5
        assert quaternion_error(back, splats) < 0.025
    else:
        assert (back.positions - splats.positions).abs().max() <= 2.0**-18
        assert (back.scales.log() - splats.scales.log()).abs().max() <= 1 / 32 + 1e-5
        assert (back.sh[:, 0] - splats.sh[:, 0]).abs().max() <= 0.5 / 255 / 0.15 + 1e-5
        assert back.degree == degree and (degree == 0 or (back.sh[:, 1:] - splats.sh[:, 1:]).abs().max() <= 0.5 / 128 + 1e-6)
        assert quaternion_error(back, splats) < 0.005


def test_spz_far_out_keeps_its_range(tmp_path):
    splats = some_splats(50)
    far = Splats(splats.positions * 5000, splats.scales, splats.rotations, splats.opacities, splats.sh)
    save_splats(far, tmp_path / "a.spz")
    assert (load_splats(tmp_path / "a.spz").positions - far.positions).abs().max() < 1e-3


def test_spz_of_version_2_written_by_hand(tmp_path):
    """One Gaussian at (-1, 2, 0.5) of the file's space, half a turn about z, red."""
    place = b"".join((round(v * 4096) & 0xFFFFFF).to_bytes(3, "little") for v in (-1.0, 2.0, 0.5))
    body = place + bytes([128]) + bytes([255, 0, 0]) + bytes([160, 160, 176]) + bytes([128, 128, 255])
    (tmp_path / "a.spz").write_bytes(gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 2, 1, 0, 12, 0, 0) + body))
    splats = load_splats(tmp_path / "a.spz")
    assert splats.positions.tolist() == [[-1.0, -2.0, -0.5]]
    torch.testing.assert_close(splats.scales, torch.tensor([[1.0, 1.0, 2.718282]]))
    turned = torch.tensor([0.0, 0.0, 1.0, 0.0])  # half a turn about z, then about x: about y
    assert float((splats.rotations[0] * turned).sum().abs()) > 0.9999
    color = 0.5 + DC * splats.sh[0, 0]
    assert color[0] > 1.4 and color[1] < -0.4 and abs(float(splats.opacities) - 128 / 255) < 1e-6


def edited(splats: Splats, path, change=None, text=False, extra_elements=(), names=None, **columns) -> None:
    """Saves, then writes again what `change` made of the rows, with these columns instead or besides."""
    save_splats(splats, path)
    rows = PlyData.read(str(path))["vertex"].data.copy()
    names = names or [*rows.dtype.names, *(c for c in columns if c not in rows.dtype.names)]
    new = numpy.zeros(len(rows), [(n, columns[n].dtype if n in columns else "f4") for n in names])
    for name in names:
        new[name] = columns.get(name, rows[name] if name in rows.dtype.names else 0)
    if change:
        change(new)
    PlyData([*extra_elements, PlyElement.describe(new, "vertex")], text=text).write(str(path))


def test_properties_in_another_order_with_extras_and_doubles(tmp_path):
    splats = some_splats(30, degree=2)
    save_splats(splats, tmp_path / "plain.ply")
    names = sorted(PlyData.read(str(tmp_path / "plain.ply"))["vertex"].data.dtype.names, reverse=True)
    camera = PlyElement.describe(numpy.zeros(3, [("fov", "f4")]), "camera")
    red = numpy.full(30, 7, "u1")
    edited(splats, tmp_path / "a.ply", names=["red", *names], red=red, x=splats.positions[:, 0].double().numpy(), extra_elements=[camera])
    back, plain = load_splats(tmp_path / "a.ply"), load_splats(tmp_path / "plain.ply")
    assert all(torch.equal(a, b) for a, b in zip(vars(back).values(), vars(plain).values(), strict=True))


def test_ascii(tmp_path):
    splats = some_splats(20, degree=1)
    edited(splats, tmp_path / "a.ply", text=True)
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat ascii")
    torch.testing.assert_close(load_splats(tmp_path / "a.ply").sh, splats.sh)


def activated_ply(path, gaussians) -> None:
    """What GeoLRM's writer makes of (N, 14) Gaussians: position, opacity, deviations, quaternion, RGB, each as it is."""
    names = "x y z opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3 f_dc_0 f_dc_1 f_dc_2".split()
    order = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
    rows = numpy.zeros(len(gaussians), [(name, "<f4") for name in order])
    for column, name in enumerate(names):
        rows[name] = gaussians[:, column]
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def test_geolrms_activated_ply_is_converted(tmp_path):
    """Numbers as they are, z up and the cube [-0.5, 0.5]^3: like the networks' own output, twice as large."""
    gaussians = golden()["fp32_selected_gaussians"][0]
    activated_ply(tmp_path / "a.ply", gaussians)
    splats, expected = load_splats(tmp_path / "a.ply"), to_splats(gaussians, 2.0)
    assert len(splats) == len(gaussians) and quaternion_error(splats, expected) < 1e-3
    for name in ("positions", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(splats, name), getattr(expected, name), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(splats.positions, 2 * gaussians[:, [1, 2, 0]])
    save_splats(splats, tmp_path / "b.ply")
    again = load_splats(tmp_path / "b.ply")
    assert PlyData.read(str(tmp_path / "b.ply"))["vertex"].data["scale_0"].max() < -3, "saved with logarithms, as viewers expect"
    torch.testing.assert_close(again.positions, splats.positions)
    assert quaternion_error(again, splats) < 1e-3


@pytest.mark.skipif("LATHE_REFERENCE" not in os.environ, reason="the published file: set LATHE_REFERENCE to the references' folder")
def test_the_ply_that_geolrm_wrote():
    goldens = Path(os.environ["LATHE_REFERENCE"]) / "goldens"
    splats = load_splats(goldens / "geolrm_tiny_fp32.ply")
    with numpy.load(goldens / "geolrm_tiny.npz") as file:
        expected = to_splats(torch.from_numpy(file["fp32_selected_gaussians"][0]), 2.0)
    assert quaternion_error(splats, expected) < 1e-3
    for name in ("positions", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(splats, name), getattr(expected, name), atol=1e-6, rtol=1e-6)


def test_gaussians_with_broken_numbers_are_left_out(tmp_path, caplog):
    def spoil(rows):
        rows["x"][1], rows["opacity"][2], rows["scale_0"][3] = numpy.nan, numpy.nan, numpy.inf
        for name in ("rot_0", "rot_1", "rot_2", "rot_3"):
            rows[name][4] = 0

    splats = some_splats(10)
    edited(splats, tmp_path / "a.ply", change=spoil)
    back = load_splats(tmp_path / "a.ply")
    torch.testing.assert_close(back.positions, splats.positions[[0, 5, 6, 7, 8, 9]])
    assert "4 of the 10 Gaussians of a.ply are left out" in caplog.text

    edited(splats, tmp_path / "b.ply", change=lambda rows: rows.__setitem__("z", numpy.nan))
    with pytest.raises(ValueError, match="10 Gaussians, but all have NaN"):
        load_splats(tmp_path / "b.ply")


HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
NAMES = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()


def header(count: int, names=NAMES, kind="float") -> bytes:
    return HEADER.format(count=count, properties="".join(f"property {kind} {name}\n" for name in names)).encode()


BAD_FILES = {
    "huge.ply": (header(50_000_000), "50,000,000 Gaussians; Lathe reads at most 10,000,000"),
    "empty.ply": (header(0), "holds no Gaussians"),
    "truncated.ply": (header(100) + b"\0" * 500, "cut short or damaged"),
    "half_a_header.ply": (header(100)[:60], "header is cut short"),
    "points.ply": (header(1, ["x", "y", "z", "red"]), "mesh or a point cloud.*no f_dc_0, f_dc_1, f_dc_2, opacity, scale_0"),
    "lists.ply": (header(1, kind="list uchar float"), r"have lists \(x, y"),
    "degree.ply": (header(1, [*NAMES, *(f"f_rest_{i}" for i in range(10))]), "10 properties f_rest_"),
    "hole.ply": (header(1, [*NAMES, *(f"f_rest_{i + 1}" for i in range(9))]), "9 properties f_rest_"),
    "compressed.ply": (header(1, ["packed_position"]), "compressed PLY"),
    "no_vertices.ply": (b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "without vertices"),
    "picture.ply": (b"\x89PNG" + b"\0" * 99, "no PLY file"),
    "words.ply": (header(1).replace(b"binary_little_endian", b"ascii") + b"a b c\n", "cut short or damaged"),
    "format.ply": (header(1).replace(b"binary_little_endian", b"martian"), "cannot be read as a PLY"),
    "nothing.ply": (b"", "no PLY file"),
    "nothing.splat": (b"", "holds no Gaussians"),
    "truncated.splat": (b"\0" * 70, "no multiple of 32"),
    "zeros.splat": (b"\0" * 64, "2 Gaussians, but all"),
    "nothing.spz": (b"", "no .spz file|cut short"),
    "picture.spz": (b"\x89PNG" + b"\0" * 99, "no .spz file"),
    "gzip.spz": (gzip.compress(b"something else altogether"), "but something else"),
    "version.spz": (gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 1, 1, 0, 12, 0, 0)), "version 1 with degree 0"),
    "new.spz": (struct.pack("<II", 0x5053474E, 4) + b"\0" * 40, "version 4 or above"),
    "huge.spz": (gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 50_000_000, 0, 12, 0, 0)), "50,000,000 Gaussians"),
    "short.spz": (gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 10, 0, 12, 0, 0) + b"\0" * 95), "is cut short"),
    "cut.spz": (gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 10, 0, 12, 0, 0) + bytes(200))[:-12], "cut short"),
    "scene.ksplat": (b"", "no splat file that Lathe reads"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_told_in_words_and_at_once(tmp_path, name):
    data, words = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=words):
        load_splats(tmp_path / name)
    assert time.perf_counter() - start < 1


def test_a_huge_splat_file_is_not_read(tmp_path):
    with open(tmp_path / "a.splat", "wb") as file:
        file.truncate(32 * 50_000_000)  # a hole: no bytes on the disk
    with pytest.raises(ValueError, match="50,000,000 Gaussians"):
        load_splats(tmp_path / "a.splat")


def test_no_such_file_and_no_such_kind(tmp_path):
    for suffix in splat_files.SUFFIXES:
        with pytest.raises(ValueError, match="cannot be read: No such file"):
            load_splats(tmp_path / f"missing{suffix}")
    with pytest.raises(ValueError, match="not as 'a.obj'"):
        save_splats(some_splats(1), tmp_path / "a.obj")
    with pytest.raises(ValueError, match="no Gaussians"):
        save_splats(some_splats(0), tmp_path / "a.ply")


@pytest.mark.parametrize("suffix", splat_files.SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix, monkeypatch):
    save_splats(some_splats(3), tmp_path / f"a{suffix}")
    before = (tmp_path / f"a{suffix}").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ValueError, match="No space left"):
        save_splats(some_splats(9), tmp_path / f"a{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"] and (tmp_path / f"a{suffix}").read_bytes() == before


def test_saving_changes_nothing_it_was_given(tmp_path):
    splats = some_splats(20, degree=1)
    copies = {name: value.clone() for name, value in vars(splats).items()}
    for suffix in splat_files.SUFFIXES:
        save_splats(splats, tmp_path / f"a{suffix}")
    assert all(torch.equal(copies[name], value) for name, value in vars(splats).items())


def assert_reads_right(back: Splats) -> None:
    """The lettered block's splats: red on its own left, the F in front the right way round and upright."""
    color = 0.5 + DC * back.sh[:, 0]
    red = (color[:, 0] > 0.8) & (color[:, 1] < 0.2)
    assert int(red.sum()) == 300 and float(back.positions[red, 0].min()) > 0.55, "the object's own left is +x"
    front = back.positions[:, 2] > 0.29
    x, y = back.positions[front, 0], back.positions[front, 1]
    dark = color[front].mean(1) < 0.3
    agrees = [float((dark == letter(a, b)).float().mean()) for a, b in ((x, y), (-x, y), (x, -y))]
    assert agrees[0] > 0.98 and max(agrees[1:]) < 0.9, agrees


@pytest.mark.parametrize("suffix", splat_files.SUFFIXES)
def test_the_lettered_block_is_not_mirrored(tmp_path, suffix):
    save_splats(letter_splats(), tmp_path / f"block{suffix}")
    assert_reads_right(load_splats(tmp_path / f"block{suffix}"))


def test_the_lettered_block_in_geolrms_frame_is_not_mirrored(tmp_path):
    """z up, front along +x, half as large; each Gaussian long along the block's height."""
    block = letter_splats()
    place, color = block.positions[:, [2, 0, 1]] / 2, 0.5 + DC * block.sh[:, 0]
    long_in_z = torch.tensor([0.007, 0.007, 0.014]).expand(len(block), 3)
    activated_ply(tmp_path / "a.ply", torch.cat([place, block.opacities[:, None], long_in_z, block.rotations, color.clamp(0, 1)], dim=1))
    back = load_splats(tmp_path / "a.ply")
    assert_reads_right(back)
    axes = rotation_matrices(back.rotations) * back.scales[:, None]
    torch.testing.assert_close((axes @ axes.mT)[0], torch.diag(torch.tensor([0.014, 0.028, 0.014]) ** 2), atol=1e-7, rtol=0)
