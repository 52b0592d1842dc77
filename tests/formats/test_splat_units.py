"""PLY files of Gaussians that do not hold what the layout says: flat ones, linear numbers, absurd rows."""

import warnings
from pathlib import Path

import numpy
import pytest
import torch
from lathe.pipelines.data.splats import THICKNESS, Splats, with_thickness
from lathe.pipelines.formats.splats import load_splats, save_splats
from lathe_root import ROOT
from plyfile import PlyData, PlyElement

REPORTED = Path(ROOT) / "tests" / "data" / "reported"
SCALES = ("scale_0", "scale_1", "scale_2")
ROTATIONS = ("rot_0", "rot_1", "rot_2", "rot_3")


def table(path):
    return PlyData.read(str(path))["vertex"].data


def columns(path, names=SCALES):
    return torch.stack([torch.from_numpy(table(path)[name].astype("float32")) for name in names], dim=1)


def write(path, data, drop=(), kind="f4"):
    """Writes a dict of columns as a PLY."""
    data = {name: numpy.asarray(values) for name, values in data.items() if name not in drop}
    rows = numpy.zeros(len(data["x"]), [(name, kind) for name in data])
    for name, values in data.items():
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def gaussians(count=500, degree=0, seed=0, size=0.02, reach=2.0):
    """Columns of an ordinary file: logarithms, logits, harmonics."""
    draw = numpy.random.default_rng(seed)
    data = {name: draw.normal(0, reach / 2, count) for name in ("x", "y", "z")}
    data |= {f"f_dc_{i}": draw.normal(0, 1, count) for i in range(3)}
    data |= {f"f_rest_{i}": draw.normal(0, 0.1, count) for i in range(3 * ((degree + 1) ** 2 - 1))}
    data |= {"opacity": draw.normal(1, 3, count)}
    data |= {name: numpy.log(size) + draw.normal(0, 0.7, count) for name in SCALES}
    data |= {name: draw.normal(0, 1, count) for name in ROTATIONS}
    return data


def activated(data):
    return data | {name: numpy.exp(data[name]) for name in SCALES} | {"opacity": 1 / (1 + numpy.exp(-data["opacity"]))}


def same(splats, others, atol=1e-5):
    for name in ("positions", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(splats, name), getattr(others, name), atol=atol, rtol=1e-5)


def test_the_reported_2dgs_file(caplog):
    splats = load_splats(REPORTED / "s_2dgs.ply")
    assert len(splats) == 20
    torch.testing.assert_close(splats.scales[:, :2], columns(REPORTED / "s_2dgs.ply", SCALES[:2]).exp())
    torch.testing.assert_close(splats.scales[:, 2], THICKNESS * splats.scales[:, :2].amax(1))
    (record,) = caplog.records
    assert "20 of the 20 Gaussians of s_2dgs.ply are flat" in record.getMessage()


def test_the_reported_flat_file(caplog):
    splats = load_splats(REPORTED / "s_flat.ply")
    assert len(splats) == 20 and bool((splats.scales[:, 2] > 0).all())
    torch.testing.assert_close(splats.scales[:, :2], columns(REPORTED / "s_flat.ply")[:, :2].exp())
    assert bool((splats.scales[:, 2] < 1e-3 * splats.scales[:, :2].amin(1)).all()) and "are flat" in caplog.text
    same(splats, load_splats(REPORTED / "s_2dgs.ply"))


def test_the_reported_activated_file(caplog):
    splats = load_splats(REPORTED / "s_act.ply")
    torch.testing.assert_close(splats.scales, columns(REPORTED / "s_act.ply"))
    torch.testing.assert_close(splats.opacities, columns(REPORTED / "s_act.ply", ["opacity"])[:, 0])
    (record,) = caplog.records
    assert "s_act.ply" in record.getMessage() and "look linear" in record.getMessage()


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("count", [3, 20, 2000])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_linear_files_are_read_as_those_with_logarithms(tmp_path, caplog, degree, count, kind):
    data = gaussians(count, degree)
    write(tmp_path / "a.ply", data, kind=kind)
    ordinary = load_splats(tmp_path / "a.ply")
    assert not caplog.records, "an ordinary file is no matter"
    write(tmp_path / "b.ply", activated(data), kind=kind)
    same(load_splats(tmp_path / "b.ply"), ordinary)
    assert caplog.text.count("look linear") == 1 and len(caplog.records) == 1


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_surfels_of_any_degree(tmp_path, caplog, degree, linear):
    data = gaussians(degree=degree)
    write(tmp_path / "full.ply", data)
    expected = load_splats(tmp_path / "full.ply")
    write(tmp_path / "flat.ply", activated(data) if linear else data, drop=["scale_2"])
    splats = load_splats(tmp_path / "flat.ply")
    torch.testing.assert_close(splats.scales[:, :2], expected.scales[:, :2])
    torch.testing.assert_close(splats.sh, expected.sh)
    assert splats.degree == degree and ("look linear" in caplog.text) == linear and caplog.text.count("are flat") == 1


@pytest.mark.parametrize("axis", SCALES)
@pytest.mark.parametrize("flat", [-numpy.inf, -1e30, -300.0, "zero"])
def test_an_axis_without_size_gets_the_least_one(tmp_path, caplog, axis, flat):
    data = gaussians(200)
    data = activated(data) if flat == "zero" else data
    data[axis] = numpy.where(numpy.arange(200) % 4 == 0, 0.0 if flat == "zero" else flat, data[axis])
    write(tmp_path / "a.ply", data)
    splats = load_splats(tmp_path / "a.ply")
    assert len(splats) == 200 and "50 of the 200 Gaussians of a.ply are flat" in caplog.text
    thin = splats.scales[::4, SCALES.index(axis)]
    torch.testing.assert_close(thin, THICKNESS * splats.scales[::4].amax(1))
    save_splats(splats, tmp_path / "again.ply")
    caplog.clear()
    same(load_splats(tmp_path / "again.ply"), splats)
    assert not caplog.records, "what Lathe saves is ordinary"


def test_needles_and_points():
    scales = torch.tensor(
        [[0.1, 0, 0], [0, 0, 0], [0.1, 0.2, 1e-12], [0.1, 0.2, 1e-6], [float("nan"), 0, 1], [float("inf"), 0, 1], [1, 0, -1]]
    )
    thick, flat = with_thickness(scales)
    assert flat.tolist() == [True, False, True, False, False, False, True]
    torch.testing.assert_close(thick[0], torch.tensor([0.1, 1e-5, 1e-5]))
    torch.testing.assert_close(thick[2], torch.tensor([0.1, 0.2, 2e-5]))
    assert torch.equal(thick[3], scales[3])


def ordinary_files():
    """What must be read as logarithms and logits, without a word."""
    plain = gaussians()
    spread = numpy.linspace(0.01, 0.99, 500)
    yield "logits within [0, 1] by chance", plain | {"opacity": spread}
    yield "all logits 0", plain | {"opacity": numpy.zeros(500)}
    yield "all logits 1, many", gaussians(3000) | {"opacity": numpy.ones(3000)}
    yield "a scene in millimetres", gaussians(size=20.0, reach=4000.0)
    yield "all scales 1", plain | dict.fromkeys(SCALES, numpy.zeros(500)) | {"opacity": spread}
    yield "all scales equal", plain | dict.fromkeys(SCALES, numpy.full(500, -4.0))
    yield "one row", gaussians(1)
    yield "a third of the scales above 0", plain | {"scale_0": numpy.where(spread > 0.66, 0.4, -3.0), "opacity": spread}


@pytest.mark.parametrize(("name", "data"), list(ordinary_files()), ids=[name for name, _ in ordinary_files()])
def test_ordinary_files_are_read_by_their_layout(tmp_path, caplog, name, data):
    write(tmp_path / "a.ply", data)
    splats = load_splats(tmp_path / "a.ply")
    torch.testing.assert_close(splats.scales, columns(tmp_path / "a.ply").double().exp().float())
    torch.testing.assert_close(splats.opacities, columns(tmp_path / "a.ply", ["opacity"])[:, 0].sigmoid())
    assert not caplog.records


@pytest.mark.parametrize(
    ("changed", "words"), [(("opacity",), "half transparent"), (SCALES, "as large as the whole scene")], ids=["opacities", "scales"]
)
def test_half_linear_files_are_read_by_their_layout_with_a_warning(tmp_path, caplog, changed, words):
    data = gaussians(3000)
    linear = activated(data)
    write(tmp_path / "a.ply", data | {name: linear[name] for name in changed})
    splats = load_splats(tmp_path / "a.ply")
    torch.testing.assert_close(splats.scales, columns(tmp_path / "a.ply").exp())
    (record,) = caplog.records
    assert "a.ply" in record.getMessage() and words in record.getMessage()


def test_one_row_of_nonsense_does_not_turn_the_reading(tmp_path, caplog):
    data = activated(gaussians(1000))
    data["scale_1"][7], data["opacity"][9], data["scale_0"][11] = -0.5, numpy.nan, numpy.inf
    write(tmp_path / "a.ply", data)
    splats = load_splats(tmp_path / "a.ply")
    assert len(splats) == 997 and float(splats.scales.max()) < 0.5
    assert "look linear" in caplog.text and "3 of the 1000 Gaussians of a.ply are left out" in caplog.text


def test_a_file_like_geolrms_is_said_to_be_one(tmp_path, caplog):
    data = activated(gaussians(300, reach=0.3))
    shares = {f"f_dc_{i}": numpy.linspace(0, 1, 300) for i in range(3)}
    write(tmp_path / "a.ply", data | shares)
    assert float(load_splats(tmp_path / "a.ply").positions.abs().max()) > 0.6 and "looks like a PLY of GeoLRM" in caplog.text
    caplog.clear()
    write(tmp_path / "b.ply", data | shares | {"x": 20 * data["x"]})
    torch.testing.assert_close(load_splats(tmp_path / "b.ply").positions[:, 0], columns(tmp_path / "b.ply", ["x"])[:, 0])
    assert "look linear" in caplog.text and "GeoLRM" not in caplog.text, "GeoLRM's Gaussians lie within its cube"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rot", 1e30), ("rot", 0.0), ("x", 1e300), ("y", 3e38), ("z", -1e20), ("scale_0", 80.0), ("scale_0", 800.0), ("f_dc_1", 1e38),
        ("opacity", numpy.nan), ("f_dc_0", -numpy.inf),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [4, 300])
def test_one_absurd_row_is_left_out_and_said(tmp_path, caplog, name, value, count):
    data = gaussians(count)
    for column in ROTATIONS if name == "rot" else (name,):
        data[column][2] = value
    write(tmp_path / "a.ply", data, kind="f8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splats = load_splats(tmp_path / "a.ply")
    assert len(splats) == count - 1 and f"1 of the {count} Gaussians of a.ply are left out" in caplog.text
    assert float(splats.positions.abs().max()) < 10


def test_a_splat_file_of_flat_gaussians(tmp_path, caplog):
    splats = load_splats(REPORTED / "s_flat.ply")
    save_splats(splats, tmp_path / "a.splat")
    rows = numpy.fromfile(tmp_path / "a.splat", "<f4").reshape(-1, 8)
    rows[:, 5] = 0
    rows.tofile(tmp_path / "a.splat")
    caplog.clear()
    assert len(load_splats(tmp_path / "a.splat")) == 20 and "a.splat are flat" in caplog.text


def test_a_file_with_one_scale_is_refused_in_words(tmp_path):
    write(tmp_path / "a.ply", gaussians(), drop=["scale_1"])
    with pytest.raises(ValueError, match="a.ply .* no scale_1"):
        load_splats(tmp_path / "a.ply")


def test_splats_are_still_checked():
    with pytest.raises(ValueError, match="above 0"):
        Splats(torch.zeros(1, 3), torch.tensor([[1.0, 1, 0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1), torch.zeros(1, 1, 3))
