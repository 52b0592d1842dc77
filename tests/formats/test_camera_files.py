"""transforms.json as other programs write them: what is read, what is refused, and that each error names the file."""

import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.formats.cameras import load_cameras
from lathe_root import ROOT

REPORTED = Path(ROOT) / "tests" / "data" / "reported"
POSE = np.array([[0.0, 0, 1, 3], [0, 1, 0, 0.5], [-1, 0, 0, 0.25], [0, 0, 0, 1]])
LENS = {"fl_x": 500, "fl_y": 510, "cx": 320, "cy": 250, "w": 640, "h": 480}


def frame(pose=POSE, name="a.png", **more):
    return {"file_path": name, "transform_matrix": np.asarray(pose).tolist(), **more}


@pytest.fixture
def load(tmp_path):
    """Loads what a tree, a text or bytes say when they stand in t.json."""

    def loaded(tree):
        data = tree if isinstance(tree, bytes) else (tree if isinstance(tree, str) else json.dumps(tree)).encode()
        (tmp_path / "t.json").write_bytes(data)
        return load_cameras(tmp_path / "t.json")

    return loaded


def refused(load, tree, *words):
    """The error is a ValueError that names the file and has these words."""
    with pytest.raises(ValueError) as error:
        load(tree)
    text = str(error.value)
    assert "t.json" in text, text
    for word in words:
        assert word in text, text
    return text


def test_the_reported_fisheye_is_refused():
    with pytest.raises(ValueError, match=r"c_fisheye.json.*OPENCV_FISHEYE.*undistort the images first \(COLMAP"):
        load_cameras(REPORTED / "c_fisheye.json")


@pytest.mark.parametrize("level", ["file", "frame"])
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, ["OPENCV_FISHEYE", "undistort"]),
        ({"camera_model": "fisheye624"}, ["fisheye624", "undistort"]),
        ({"camera_model": "THIN_PRISM_FISHEYE"}, ["THIN_PRISM_FISHEYE", "undistort"]),
        ({"camera_model": "RAD_TAN_THIN_PRISM_FISHEYE"}, ["undistort"]),
        ({"camera_model": "FOV"}, ["FOV", "undistort"]),
        ({"camera_type": "fisheye"}, ["camera_type", "undistort"]),
        ({"camera_model": "EQUIRECTANGULAR"}, ["EQUIRECTANGULAR", "panoramas"]),
        ({"camera_type": "equirectangular"}, ["panoramas"]),
        ({"camera_model": "VR180_L"}, ["panoramas"]),
        ({"camera_model": "Panorama"}, ["panoramas"]),
        ({"camera_model": "ORTHOPHOTO"}, ["perspective camera"]),
        ({"camera_model": "orthographic"}, ["perspective camera"]),
        ({"camera_model": "SOMETHING_NEW"}, ["SOMETHING_NEW", "pinholes"]),
        ({"camera_model": 3}, ["camera_model is a number"]),
        ({"is_fisheye": True}, ["is_fisheye", "undistort"]),
        ({"is_fisheye": "true"}, ["is_fisheye"]),
        ({"equirectangular": True}, ["panoramas"]),
        ({"orthographic": 1}, ["perspective camera"]),
        ({"ftheta_p0": 0.1, "ftheta_p1": 0.9}, ["f-theta"]),
        *(
            ({key: -0.03}, [f"lens distortion ({key})", "undistort"])
            for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s4")
        ),
        ({"camera_model": "OPENCV", "k1": 0.2, "p2": 0.01}, ["lens distortion (k1, p2)"]),
        ({"distortion_params": [0, 0.1, 0, 0, 0, 0]}, ["lens distortion (distortion_params[1])"]),
    ],
)
def test_what_is_no_pinhole_is_refused_by_name(load, level, entries, words):
    tree = {**LENS, "frames": [frame(), frame(name="b.png")]}
    (tree if level == "file" else tree["frames"][1]).update(entries)
    text = refused(load, tree, *words)
    assert ("frame 1 (b.png)" in text) == (level == "frame")


@pytest.mark.parametrize(
    "entries",
    [
        {"camera_model": "PINHOLE"},
        {"camera_model": "SIMPLE_PINHOLE", "k1": 0},
        {"camera_model": "simple-pinhole"},
        {"camera_model": "OPENCV", "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0},
        {"camera_model": "SIMPLE_RADIAL", "k1": 0},
        {"camera_model": None, "k1": None},
        {"camera_type": "perspective"},
        {"is_fisheye": False, "distortion_params": [0, 0, 0, 0, 0, 0]},
        {"is_fisheye": "false", "k1": "0"},
        {"aabb_scale": 16, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "applied_transform": [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]},
        {"applied_scale": 2.0, "ply_file_path": "sparse.ply", "orientation_override": "none", "train_filenames": ["a.png"]},
    ],
)
def test_pinholes_by_any_name_are_read_as_they_stand(load, caplog, entries):
    cameras = load({**LENS, **entries, "frames": [frame()]})
    torch.testing.assert_close(cameras.c2w[0].double(), torch.from_numpy(POSE))
    assert cameras.K[0].tolist() == pytest.approx([500 / 640, 510 / 480, 0.5, 250 / 480])
    assert not caplog.records


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_of_any_unicode_form_are_read(load, encoding):
    tree = json.dumps({**LENS, "frames": [frame(name="größe/视图.png")]}, ensure_ascii=False)
    assert load(tree.encode(encoding)).names == ("größe/视图.png",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"  \n", ["empty"]),
        ('{"w": 640, "frames": [], "x": "é"}'.encode("latin-1"), ["UTF-8"]),
        (b"\xff\xfe\x00", ["no JSON that can be read"]),
        (b"[" * 200_000, ["nested"]),
        (b'{"frames": ' * 100_000, ["nested"]),
        (b'{"frames": [{},]}', ["no JSON that can be read", "line 1"]),
        (b"null", ["it has no frames"]),
        (b'"text"', ["it has no frames"]),
        (b'{"frames": null}', ["it has no frames"]),
        (b'{"frames": {"0": {}}}', ["its frames are an object"]),
        (b'{"frames": "a.png"}', ["its frames are a text"]),
        (b'{"frames": []}', ["holds no frames"]),
        (b'{"frames": [[]], "camera_angle_x": 1}', ["frame 0 is a list"]),
        (b'{"frames": [null], "camera_angle_x": 1}', ["frame 0 is null"]),
        (b'{"frames": [{}], "camera_angle_x": 1}', ["frame 0", "no transform_matrix"]),
    ],
)
def test_files_of_another_kind_are_refused_in_words(load, data, words):
    refused(load, data, *words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true or false"),
        ("wide", "the text 'wide'"),
        ("0,69", "the text '0,69'"),
        ([1], "a list"),
        ({}, "an object"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (-math.inf, "infinite"),
        (1e300, "1e+300"),
        (10**400, "infinite or beyond"),
    ],
)
@pytest.mark.parametrize("key", ["fl_x", "cx", "w", "camera_angle_x", "k1", "transform_matrix[1][3]"])
def test_numbers_that_are_none_are_named(load, key, value, words):
    tree = {**LENS, "frames": [frame(), frame(name="b.png")]}
    if key.startswith("transform"):
        tree["frames"][1]["transform_matrix"][1][3] = value
    else:
        tree["frames"][1][key] = value
    if key == "k1" and value is None:
        assert load(tree).n_views == 2, "a coefficient that is null is none"
        return
    refused(load, tree, "frame 1 (b.png)", key, words)


def test_a_whole_number_longer_than_python_reads_is_named(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({**LENS, "frames": [frame()]}).replace("640", "6" * 5000))
    with pytest.raises(ValueError, match="t.json is no JSON that can be read: Exceeds the limit"):
        load_cameras(tmp_path / "t.json")


@pytest.mark.parametrize("value", [0, 5e-324, -0.5, 3.14159265, 3.5, 40, 180])
def test_angles_that_no_lens_has_are_named(load, value):
    text = refused(load, {"camera_angle_x": value, "frames": [frame()]}, "camera_angle_x is", "radians")
    assert ("write 0.698132" in text) == (value == 40)


@pytest.mark.parametrize(("key", "value"), [("fl_x", 0), ("fl_y", -500), ("w", 0), ("h", -480)])
def test_sizes_are_above_0(load, key, value):
    refused(load, {**LENS, key: value, "frames": [frame()]}, f"{key} is {value:g}", "above 0")


def test_a_text_that_is_a_number_is_that_number(load):
    cameras = load({"camera_angle_x": "0.69", "w": "800", "h": "800", "frames": [frame()]})
    assert float(cameras.K[0, 0]) == pytest.approx(0.5 / math.tan(0.345))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pose: pose.T, "transposed"),
        (lambda pose: pose[:3, :3], "3 rows of 3"),
        (lambda pose: pose[:, :3], "4 rows of 3"),
        (lambda pose: pose.reshape(-1), "a list of 16"),
        (lambda pose: np.zeros((0, 4)), "0 rows of"),
        (lambda pose: pose[None], "shape"),
        (lambda pose: np.diag([1, 1, 1, 0]) @ pose, "last row"),
        (lambda pose: np.diag([1, 1, 1, 2.0]) @ pose, "last row"),
        (lambda pose: pose @ np.diag([-1.0, 1, 1, 1]), "mirrored"),
        (lambda pose: pose @ np.diag([1.0, 2, 1, 1]), "unevenly"),
        (lambda pose: pose @ (np.eye(4) + 0.2 * np.eye(4, k=1)), "last row|shears"),
        (lambda pose: pose @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "shears"),
        (lambda pose: pose @ np.diag([0.0, 0, 0, 1]), "no rotation"),
        (lambda pose: pose @ np.diag([0.0, 1, 1, 1]), "unevenly"),
    ],
)
def test_matrices_that_are_no_poses_are_refused(load, change, words):
    text = refused(load, {**LENS, "frames": [frame(), frame(change(POSE), "b.png")]}, "frame 1 (b.png)")
    assert any(word in text for word in words.split("|")), text


def test_ragged_and_nested_matrices_are_refused(load):
    ragged = POSE.tolist()
    ragged[2] = ragged[2][:2]
    refused(load, {**LENS, "frames": [{"transform_matrix": ragged}]}, "4 rows of 2 or 4")
    refused(load, {**LENS, "frames": [{"transform_matrix": [[[1]] * 4] * 4}]}, "transform_matrix[0][0] is a list")
    refused(load, {**LENS, "frames": [{"transform_matrix": "eye(4)"}]}, "a text")


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, 1000.0])
def test_the_scale_of_a_scaled_pose_is_taken_out_and_said(load, caplog, scale):
    cameras = load({**LENS, "frames": [frame(), frame(POSE @ np.diag([scale, scale, scale, 1]))]})
    torch.testing.assert_close(cameras.c2w[1], cameras.c2w[0])
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING and "scale" in r.getMessage()]
    assert f"t.json: the poses of 1 of the 2 frames are scaled, by {scale:.4g}" in record.getMessage()


def test_rotations_of_few_digits_become_the_nearest_ones(load):
    turn = math.radians(33.3)
    exact = np.eye(4)
    exact[:3, :3] = [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
    cameras = load({**LENS, "frames": [frame(exact.round(2))]})
    rotation = cameras.c2w[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation, torch.from_numpy(exact[:3, :3]).float(), atol=6e-3, rtol=0)


def test_focal_lengths_and_angles(load, caplog):
    angle = 2 * math.atan(0.5 * 640 / 500)
    fractions = [500 / 640, 500 / 480]
    square_pixels = {"w": 640, "h": 480, "frames": [frame()]}
    for lens in ({"fl_x": 500}, {"fl_y": 500}, {"camera_angle_x": angle}, {"fl_x": 500, "camera_angle_x": angle}):
        assert load({**square_pixels, **lens}).K[0, :2].tolist() == pytest.approx(fractions), lens
    vertical = {"camera_angle_y": 2 * math.atan(0.5 * 480 / 500)}
    assert load({**square_pixels, **vertical}).K[0, :2].tolist() == pytest.approx(fractions)
    assert load({"camera_angle_x": angle, **vertical, "frames": [frame()]}).K[0, :2].tolist() == pytest.approx(fractions)
    assert not caplog.records
    assert load({**square_pixels, "fl_x": 500, "camera_angle_x": 0.69}).K[0, 0] == pytest.approx(500 / 640)
    assert "they disagree; the focal lengths are used" in caplog.text


def test_a_lens_without_a_picture_size_is_of_square_pictures_and_said(load, caplog):
    assert load({"camera_angle_x": 0.69, "frames": [frame()]}).K[0, 0] == load({"camera_angle_x": 0.69, "frames": [frame()]}).K[0, 1]
    assert "t.json does not give the size of its pictures" in caplog.text
    refused(load, {"camera_angle_x": 0.69, "cx": 320, "frames": [frame()]}, "cx in pixels but not the images' w")
    refused(load, {"fl_x": 500, "w": 640, "frames": [frame()]}, "fl_x in pixels", "w and h")


def test_a_frame_says_more_than_the_file(load):
    tree = {**LENS, "frames": [frame(), frame(name="b", camera_angle_x=1.0), frame(name="c", w=320, h=240), frame(name="d", fl_x=250)]}
    K = load(tree).K
    assert K[0].tolist() == pytest.approx([500 / 640, 510 / 480, 0.5, 250 / 480])
    assert float(K[1, 0]) == pytest.approx(0.5 / math.tan(0.5)), "the frame's angle, not the file's focal length"
    assert K[2].tolist() == pytest.approx([500 / 320, 510 / 240, 1.0, 250 / 240])
    assert float(K[3, 0]) == pytest.approx(250 / 640)
    refused(load, {**LENS, "frames": [frame(), frame(name="b", cx=None)]}, "frame 1 (b): cx is null")


def test_names(load, caplog):
    cameras = load({**LENS, "frames": [{**frame(), "file_path": None}, {"transform_matrix": POSE.tolist()}, frame(name="x")]})
    assert cameras.names == ("view 0", "view 1", "x") and not caplog.records
    assert load({**LENS, "frames": [frame(name="\ud800x"), frame(name=7)]}).names == ("?x", "7")
    refused(load, {**LENS, "frames": [frame(name=["a"])]}, "frame 0", "file_path is a list")
    load({**LENS, "frames": [frame(), frame(), frame(name="b")]})
    assert "names 1 of its pictures more than once (a.png" in caplog.text


def test_tens_of_thousands_of_frames_are_read_quickly(load):
    own = {key: LENS[key] for key in ("fl_x", "fl_y", "cx", "cy")}
    text = json.dumps({"w": 640, "h": 480, "frames": [frame(name=f"{i}.png", **own) for i in range(30_000)]})
    start = time.process_time()
    cameras = load(text)
    assert cameras.n_views == 30_000 and time.process_time() - start < 8
