"""Hostile files for the loaders: sound ones that are cut, patched and misnamed, and others written for the purpose."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from .table import EITHER, REFUSE, SAID, VALUE, WARN, Row

Made = tuple[str, bytes, Row]
"""Ending, content, what is right."""
DEEP = 100_000  # brackets: more than any parser may recurse


def patched(at: int, form: str, value: Any) -> Callable[[bytes], bytes]:
    """Writes a number into the file."""

    def change(data: bytes) -> bytes:
        part = struct.pack(form, value)
        return data[:at] + part + data[at + len(part) :]

    return change


def any_file(ending: str, sound: bytes, draws: random.Random) -> dict[str, Made]:
    """What can befall every format."""
    flipped = bytearray(sound)
    for _ in range(20):
        flipped[draws.randrange(len(flipped))] ^= 1 << draws.randrange(8)
    row = EITHER if ending in (".obj", ".stl", ".splat") else REFUSE  # those have no length of their own
    return {
        "sound": (ending, sound, VALUE | WARN),
        "empty": (ending, b"", REFUSE),
        "one byte": (ending, sound[:1], REFUSE),
        "cut in the middle": (ending, sound[: len(sound) // 2], row),
        "cut at the end": (ending, sound[:-7], row | WARN),
        "bits flipped": (ending, bytes(flipped), EITHER | WARN),
        "zeros": (ending, bytes(4096), EITHER if ending in (".splat", ".stl") else REFUSE),
        "random bytes": (ending, draws.randbytes(4096), EITHER if ending == ".splat" else REFUSE),
        "a web page": (ending, b"<!doctype html><html><body>404 not found</body></html>" * 9, REFUSE),
    }


def glb(tree: Any, data: bytes = b"", text: bytes | None = None) -> bytes:
    """A GLB of this JSON, or of this text."""
    text = json.dumps(tree).encode() if text is None else text
    text += b" " * (-len(text) % 4)
    data += bytes(-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + (struct.pack("<I4s", len(data), b"BIN\0") + data if data else b"")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def triangle(**changes: Any) -> tuple[dict[str, Any], bytes]:
    """The smallest mesh: three vertices, one face. `changes` replace parts of the JSON."""
    places = [0.0, 0, 0, 1, 0, 0, 0, 1, 0]
    data = struct.pack("<9f3Hxx", *places, 0, 1, 2)
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 6}],
        "buffers": [{"byteLength": 44}],
    }
    return {**tree, **changes}, data


def accessor(index: int, **changes: Any) -> bytes:
    """The triangle with one accessor changed."""
    tree, data = triangle()
    tree["accessors"][index] |= changes
    return glb(tree, data)


def bomb_png(side: int) -> bytes:
    """A PNG of side x side black pixels in a few kilobytes a gigabyte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side * 3)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_picture(picture: bytes | None, uri: str | None = None) -> bytes:
    """The triangle with a texture, inside the file or where `uri` says."""
    tree, data = triangle()
    uvs = struct.pack("<6f", 0, 0, 1, 0, 0, 1)
    at = len(data)
    tree["bufferViews"] += [{"buffer": 0, "byteOffset": at, "byteLength": 24}]
    tree["accessors"] += [{"bufferView": 2, "componentType": 5126, "count": 3, "type": "VEC2"}]
    tree["meshes"][0]["primitives"][0] |= {"material": 0}
    tree["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"] = 2
    image: dict[str, Any] = {"uri": uri} if picture is None else {"bufferView": 3, "mimeType": "image/png"}
    if picture is not None:
        tree["bufferViews"] += [{"buffer": 0, "byteOffset": at + 24, "byteLength": len(picture)}]
    tree |= {"materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}], "textures": [{"source": 0}], "images": [image]}
    body = data + uvs + (picture or b"")
    tree["buffers"] = [{"byteLength": len(body)}]
    return glb(tree, body)


def mesh_files(sound: dict[str, bytes], draws: random.Random) -> dict[str, Made]:
    """For Load Mesh."""
    tree, data = triangle()
    nan = struct.pack("<f", float("nan"))
    chain = [*({"children": [i + 1]} for i in range(20_000)), {"mesh": 0}]
    doubling = [*({"children": [i + 1, i + 1]} for i in range(40)), {"mesh": 0}]
    lists = b"[" * DEEP + b"]" * DEEP
    sparse = {"count": 2**40, "indices": {"bufferView": 1, "componentType": 5123}, "values": {"bufferView": 0}}

    def scene(**parts: Any) -> bytes:
        return glb({**tree, **parts}, data)

    def mode(number: int) -> bytes:
        return scene(meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "mode": number}]}])

    made: dict[str, Made] = {f"glb {name}": what for name, what in any_file(".glb", sound[".glb"], draws).items()}
    made |= {f"obj {name}": what for name, what in any_file(".obj", sound[".obj"], draws).items()}
    made |= {
        "glb total length lies": (".glb", patched(8, "<I", 2**31)(sound[".glb"]), REFUSE),
        "glb chunk length lies": (".glb", patched(12, "<I", 2**31)(sound[".glb"]), REFUSE),
        "glb version 9": (".glb", patched(4, "<I", 9)(sound[".glb"]), REFUSE),
        "glb nested deep": (".glb", glb({}, text=lists), REFUSE),
        "glb extras nested deep": (".glb", glb({}, text=json.dumps(tree)[:-1].encode() + b',"extras":' + lists + b"}"), REFUSE),
        "glb a list": (".glb", glb([1, 2]), REFUSE),
        "glb without anything": (".glb", glb({"asset": {"version": "2.0"}}), REFUSE),
        "glb count 2^40": (".glb", accessor(0, count=2**40), REFUSE),
        "glb count negative": (".glb", accessor(0, count=-3), REFUSE),
        "glb count a word": (".glb", accessor(0, count="three"), REFUSE),
        "glb component type 1": (".glb", accessor(0, componentType=1), REFUSE),
        "glb type unknown": (".glb", accessor(0, type="VEC9"), REFUSE),
        "glb buffer view 99": (".glb", accessor(0, bufferView=99), REFUSE),
        "glb offset outside": (".glb", accessor(0, byteOffset=10**9), REFUSE),
        "glb sparse of 2^40": (".glb", accessor(0, sparse=sparse), REFUSE),
        "glb index outside": (".glb", glb(tree, data[:36] + struct.pack("<3Hxx", 0, 1, 999)), SAID),
        "glb NaN in a vertex": (".glb", glb(tree, nan + data[4:]), SAID),
        "glb 1e30 wide": (".glb", glb(tree, struct.pack("<9f", 0, 0, 0, 1e30, 0, 0, 0, 1e30, 0) + data[36:]), EITHER | WARN),
        "glb node circle": (".glb", scene(nodes=[{"children": [0], "mesh": 0}]), REFUSE),
        "glb node of itself twice": (".glb", scene(nodes=[{"children": [1, 1]}, {"mesh": 0}]), EITHER | WARN),
        "glb doubling nodes": (".glb", scene(nodes=doubling), REFUSE),
        "glb chain of 20000 nodes": (".glb", scene(nodes=chain), EITHER | WARN),
        "glb matrix of NaN": (".glb", scene(nodes=[{"mesh": 0, "matrix": [float("nan")] * 16}]), REFUSE),
        "glb matrix of five": (".glb", scene(nodes=[{"mesh": 0, "matrix": [1.0] * 5}]), REFUSE),
        "glb scale of 0": (".glb", scene(nodes=[{"mesh": 0, "scale": [0, 0, 0]}]), EITHER | WARN),
        "glb mode 9": (".glb", mode(9), SAID),
        "glb points": (".glb", mode(0), REFUSE),
        "glb extension required": (".glb", scene(extensionsRequired=["EXT_not_there"], extensionsUsed=["EXT_not_there"]), REFUSE),
        "glb buffer leads out": (".glb", glb({**tree, "buffers": [{"byteLength": 44, "uri": "../../../etc/passwd"}]}), REFUSE),
        "glb buffer absolute": (".glb", glb({**tree, "buffers": [{"byteLength": 44, "uri": "/etc/passwd"}]}), REFUSE),
        "glb buffer from the net": (".glb", glb({**tree, "buffers": [{"byteLength": 44, "uri": "http://127.0.0.1:9/a.bin"}]}), REFUSE),
        "glb picture leads out": (".glb", with_picture(None, "../../../etc/passwd"), SAID),
        "glb picture file address": (".glb", with_picture(None, "file:///etc/passwd"), SAID),
        "glb picture cut": (".glb", with_picture(bomb_png(64)[:48]), SAID),
        "glb picture no picture": (".glb", with_picture(b"not a picture at all"), SAID),
        "glb picture of 20000 pixels": (".glb", with_picture(bomb_png(20_000)), SAID),
        "gltf without its buffer": (".gltf", json.dumps({**tree, "buffers": [{"byteLength": 44, "uri": "gone.bin"}]}).encode(), REFUSE),
        "gltf buffer leads out": (".gltf", json.dumps({**tree, "buffers": [{"byteLength": 44, "uri": "../../x.bin"}]}).encode(), REFUSE),
        "gltf data of words": (".gltf", json.dumps({**tree, "buffers": [{"byteLength": 44, "uri": "data:,words"}]}).encode(), REFUSE),
        "obj index outside": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", SAID),
        "obj index 0": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", SAID),
        "obj index negative outside": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -9\n", SAID),
        "obj index 2^70": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 1180591620717411303424\n", SAID),
        "obj NaN": (".obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", SAID),
        "obj words": (".obj", b"v one two three\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", SAID),
        "obj without faces": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", REFUSE),
        "obj material leads out": (".obj", b"mtllib ../../../etc/passwd\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", VALUE | WARN),
        "obj one line of a megabyte": (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf" + b" 1 2 3" * 200_000, EITHER | WARN),
        "obj that is a glb": (".obj", sound[".glb"], REFUSE),
        "glb that is an obj": (".glb", sound[".obj"], REFUSE),
        "stl count lies": (".stl", bytes(80) + struct.pack("<I", 2**31) + bytes(50), REFUSE),
        "stl NaN": (".stl", bytes(80) + struct.pack("<I", 1) + nan * 12 + bytes(2), SAID),
        "ply count lies": (".ply", mesh_ply(10**9), REFUSE),
        "ply faces lie": (".ply", mesh_ply(3, 10**9), REFUSE),
        "off count lies": (".off", b"OFF\n1000000000 1 0\n0 0 0\n3 0 1 2\n", REFUSE),
    }  # fmt: skip
    return made


def mesh_ply(vertices: int, faces: int = 1) -> bytes:
    """A binary PLY of a triangle whose header says another number of vertices or faces."""
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    head += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    return head.encode() + struct.pack("<9fB3i", 0, 0, 0, 1, 0, 0, 0, 1, 0, 3, 0, 1, 2)


def spz(count: int, degree: int = 0, version: int = 2, body: bytes = b"") -> bytes:
    """A packed splat file whose header says this."""
    return gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, 12, 0, 0) + body, 9)


def splat_files(sound: dict[str, bytes], draws: random.Random) -> dict[str, Made]:
    """For Load Splat."""
    made: dict[str, Made] = {}
    for ending in (".ply", ".splat", ".spz"):
        made |= {f"{ending[1:]} {name}": what for name, what in any_file(ending, sound[ending], draws).items()}
    head, _, body = sound[".ply"].partition(b"end_header\n")
    lines = head.decode()
    number = next(line for line in lines.splitlines() if line.startswith("element vertex"))

    def ply(old: str, new: str) -> bytes:
        return lines.replace(old, new, 1).encode() + b"end_header\n" + body

    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    made |= {
        "ply count 2^40": (".ply", ply(number, f"element vertex {2**40}"), REFUSE),
        "ply count negative": (".ply", ply(number, "element vertex -5"), REFUSE),
        "ply count a word": (".ply", ply(number, "element vertex many"), REFUSE),
        "ply count twenty thousand digits": (".ply", ply(number, "element vertex " + "9" * 20_000), REFUSE),
        "ply second element of 10^9": (".ply", ply(number, f"element camera 1000000000\nproperty float f\n{number}"), REFUSE),
        "ply no end of the header": (".ply", head, REFUSE),
        "ply type unknown": (".ply", ply("property float", "property quaternion"), REFUSE),
        "ply property twice": (".ply", ply("property float y", "property float x"), REFUSE),
        "ply list property": (".ply", ply("property float x", "property list uchar float x"), REFUSE),
        "ply NaN everywhere": (".ply", head + b"end_header\n" + nan * (len(body) // 4), REFUSE),
        "ply infinity everywhere": (".ply", head + b"end_header\n" + inf * (len(body) // 4), REFUSE),
        "ply one row of NaN": (".ply", head + b"end_header\n" + nan * 14 + body[56:], SAID),
        "ply ascii words": (".ply", ply("binary_little_endian", "ascii"), REFUSE),
        "spz count 2^31": (".spz", spz(2**31), REFUSE),
        "spz of ten million": (".spz", spz(10_000_000, body=bytes(19 * 10_000_000)), EITHER | WARN),
        "spz version 77": (".spz", spz(1, version=77, body=bytes(19)), REFUSE),
        "spz degree 9": (".spz", spz(1, degree=9, body=bytes(19)), REFUSE),
        "spz empty": (".spz", spz(0), REFUSE),
        "spz not packed": (".spz", struct.pack("<IIIBBBB", 0x5053474E, 2, 1, 0, 12, 0, 0) + bytes(19), REFUSE),
        "splat of zero size": (".splat", bytes(32 * 10), EITHER | WARN),
        "splat of NaN": (".splat", (nan * 6 + bytes(8)) * 10, SAID),
        "splat that is a ply": (".splat", sound[".ply"][: len(sound[".ply"]) // 32 * 32], REFUSE | WARN),
        "ply that is a glb": (".ply", sound[".glb"], REFUSE),
    }
    return made
