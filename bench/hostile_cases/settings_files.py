"""Hostile files of cameras, fields, runs and weights."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import zipfile
from typing import Any

from .files import DEEP, Made, any_file
from .table import EITHER, REFUSE, VALUE, WARN

NAN, INF = float("nan"), float("inf")


def camera_files(sound: dict[str, bytes], draws: random.Random) -> dict[str, Made]:
    """For Load Cameras."""
    tree = json.loads(sound["cameras"])
    matrix = "transform_matrix"

    def changed(**parts: Any) -> bytes:
        return json.dumps({**tree, **parts}).encode()

    def pose(value: Any) -> bytes:
        own = copy.deepcopy(tree)
        own["frames"][draws.randrange(len(own["frames"]))][matrix] = value
        return json.dumps(own).encode()

    def lens(**parts: Any) -> bytes:
        own = {name: value for name, value in tree.items() if name in ("frames", "lathe")}
        return json.dumps({**own, **parts}).encode()

    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    eye: list[list[float]] = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    contents = {
        "nested deep": (b"[" * DEEP + b"]" * DEEP, REFUSE),
        "objects nested deep": (b'{"frames":' * DEEP, REFUSE),
        "byte order mark": (b"\xef\xbb\xbf" + sound["cameras"], VALUE),
        "UTF-16": (sound["cameras"].decode().encode("utf-16"), EITHER),
        "not UTF-8": (b"\xff\xfe\xfa" + sound["cameras"], REFUSE),
        "a list": (b"[1, 2, 3]", REFUSE),
        "null": (b"null", REFUSE),
        "a number of 5000 digits": (changed(w=1).replace(b'"w": 1,', b'"w": ' + b"9" * 5000 + b","), REFUSE),
        "no frames": (changed(frames=[]), REFUSE),
        "frames null": (changed(frames=None), REFUSE),
        "frames of words": (changed(frames=["a", "b"]), REFUSE),
        "frames of null": (changed(frames=[None]), REFUSE),
        "frames by name": (changed(frames={"a": tree["frames"][0]}), EITHER),
        "pose null": (pose(None), REFUSE),
        "pose a word": (pose("eye"), REFUSE),
        "pose of words": (pose([["one"] * 4] * 4), REFUSE),
        "pose of NaN": (pose([[NAN] * 4] * 4), REFUSE),
        "pose infinitely far": (pose([*([*row[:3], INF] for row in eye[:3]), eye[3]]), REFUSE),
        "pose of zeros": (pose([[0.0] * 4] * 4), REFUSE),
        "pose scaled": (pose([[2 * x for x in row] for row in eye[:3]] + [eye[3]]), EITHER | WARN),
        "pose mirrored": (pose([[-1.0, 0, 0, 0], *eye[1:]]), REFUSE),
        "pose of 3 x 4": (pose(eye[:3]), EITHER),
        "pose of five rows": (pose([*eye, eye[0]]), REFUSE),
        "pose flat": (pose([x for row in eye for x in row]), EITHER),
        "pose nested deep": (pose(nested), REFUSE),
        "lens missing": (lens(), REFUSE),
        "angle 0": (lens(camera_angle_x=0.0), REFUSE),
        "angle of NaN": (lens(camera_angle_x=NAN), REFUSE),
        "angle of half a turn": (lens(camera_angle_x=3.2), REFUSE),
        "angle a word": (lens(camera_angle_x="wide"), REFUSE),
        "angle null": (lens(camera_angle_x=None), REFUSE),
        "width 0": (lens(fl_x=1.0, fl_y=1.0, cx=0.0, cy=0.0, w=0, h=0), REFUSE),
        "focal length negative": (lens(fl_x=-10.0, fl_y=-10.0, cx=8.0, cy=8.0, w=16, h=16), REFUSE),
        "focal length 1e400": (lens(fl_x=INF, fl_y=INF, cx=8.0, cy=8.0, w=16, h=16), REFUSE),
        "fisheye": (changed(camera_model="OPENCV_FISHEYE", k1=0.1), REFUSE),
        "equirectangular": (changed(camera_model="EQUIRECTANGULAR"), REFUSE),
        "distorted": (changed(k1=0.5, k2=-0.3), REFUSE),
        "name a number": (changed(frames=[{**tree["frames"][0], "file_path": 7}]), EITHER),
        "name leads out": (changed(frames=[{**tree["frames"][0], "file_path": "../../etc/passwd"}]), VALUE),
        "name of a megabyte": (changed(frames=[{**tree["frames"][0], "file_path": "n" * 2**20}]), EITHER),
    }  # fmt: skip
    return {f"json {n}": w for n, w in any_file(".json", sound["cameras"], draws).items()} | {n: (".json", *w) for n, w in contents.items()}


def safetensors(header: Any, body: bytes = b"", text: bytes | None = None, length: int | None = None) -> bytes:
    """A safetensors file of this header, or of this text, which may lie about its length."""
    text = json.dumps(header).encode() if text is None else text
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor_files(sound: bytes, draws: random.Random) -> dict[str, Made]:
    """For what is read from .safetensors: a field, a run."""
    size = struct.unpack("<Q", sound[:8])[0]
    header, body = json.loads(sound[8 : 8 + size]), sound[8 + size :]
    about = header["__metadata__"]
    key = next(iter(about))
    first = next(name for name, entry in header.items() if name != "__metadata__" and len(entry.get("shape", ())) > 1)

    def entry(**parts: Any) -> bytes:
        return safetensors({**header, first: {**header[first], **parts}}, body)

    def said(value: str) -> bytes:
        return safetensors({**header, "__metadata__": {**about, key: value}}, body)

    settings = json.loads(about[key])
    contents = {
        "header of 2^60 bytes": safetensors({}, length=2**60),
        "header of 2^64 - 1 bytes": safetensors({}, length=2**64 - 1),
        "header nested deep": safetensors(None, text=b"[" * DEEP + b"]" * DEEP),
        "header a list": safetensors([]),
        "nothing in it": safetensors({}),
        "no metadata": safetensors({n: e for n, e in header.items() if n != "__metadata__"}, body),
        "metadata nested deep": said("[" * DEEP + "]" * DEEP),
        "metadata a list": said("[1, 2]"),
        "metadata null": said("null"),
        "metadata no JSON": said("not JSON"),
        "metadata of NaN": said(json.dumps({name: NAN for name in settings})),
        "metadata of words": said(json.dumps({**settings, **{n: "a word" for n, v in settings.items() if not isinstance(v, str)}})),
        "metadata of lists": said(json.dumps({**settings, **{n: [[]] for n in settings if n not in ("format", "version")}})),
        "another version": said(json.dumps({**settings, "version": 999})),
        "another format": said(json.dumps({**settings, "format": ["a", "list"]})),
        "shape of 2^40": entry(shape=[2**40]),
        "shape transposed": entry(shape=header[first]["shape"][::-1]),
        "shape negative": entry(shape=[-1]),
        "type unknown": entry(dtype="F7"),
        "type of whole numbers": entry(dtype="I32"),
        "offsets outside": entry(data_offsets=[0, 2**50]),
        "a tensor missing": safetensors({n: e for n, e in header.items() if n != first}, body),
        "numbers of NaN": safetensors(header, struct.pack("<f", NAN) * (len(body) // 4)),
    }
    row = {"shape transposed": EITHER if len(set(header[first]["shape"])) == 1 else REFUSE}
    made = {name: (".safetensors", content, row.get(name, REFUSE)) for name, content in contents.items()}
    whole = any_file(".safetensors", sound, draws)
    return {f"file {name}": what for name, what in whole.items()} | made


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code in a pickle was run",)


def zip_bomb(mebibytes: int) -> bytes:
    """A .ckpt in torch's layout whose one member is zeros."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(mebibytes << 20))
        file.writestr("archive/version", "3\n")
    return out.getvalue()


def weight_files(sound: dict[str, bytes], draws: random.Random) -> dict[str, Made]:
    """For loaders of networks."""
    junk = draws.randbytes(4096)
    contents = {
        ".safetensors empty": b"",
        ".safetensors random bytes": junk,
        ".safetensors header of 2^60 bytes": safetensors({}, length=2**60),
        ".safetensors header nested deep": safetensors(None, text=b"[" * DEEP + b"]" * DEEP),
        ".safetensors nothing in it": safetensors({}),
        ".safetensors another network": safetensors({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, bytes(16)),
        ".safetensors a field": sound["field"],
        ".ckpt empty": b"",
        ".ckpt random bytes": junk,
        ".ckpt code in a pickle": pickle.dumps({"state_dict": _Code()}),
        ".ckpt a number in a pickle": pickle.dumps(7),
        ".ckpt zip bomb": zip_bomb(200),
        ".ckpt a web page": b"<!doctype html>" * 99,
    }
    return {name: (name.split()[0], content, REFUSE) for name, content in contents.items()}
