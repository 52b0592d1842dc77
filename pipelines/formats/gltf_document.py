"""glTF 2.0 files as containers: the JSON tree, its buffers, and the files it names (Khronos glTF 2.0, sections 3.6.1 and 4)."""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from .beside import find_beside

_JSON, _BIN = 0x4E4F534A, 0x004E4942

# Extensions that are read, or that concern nothing Lathe reads.
SUPPORTED = {
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_draco_mesh_compression",
    "EXT_mesh_gpu_instancing",
    "EXT_texture_webp",
    "EXT_texture_avif",
    "KHR_materials_unlit",
    "KHR_materials_emissive_strength",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_lights_punctual",
    "KHR_animation_pointer",
    "KHR_node_visibility",
    "KHR_xmp_json_ld",
}
REMEDIES = {
    "EXT_meshopt_compression": "its geometry is compressed with meshopt; save it without (gltfpack without -c, gltf-transform copy)",
    "KHR_meshopt_compression": "its geometry is compressed with meshopt; save it without (gltfpack without -c, gltf-transform copy)",
    "KHR_texture_basisu": "its textures are KTX2 (Basis Universal); save them as PNG, JPEG or WebP",
    "MSFT_texture_dds": "its textures are DDS; save them as PNG, JPEG or WebP",
    "KHR_materials_variants": "save it with one variant only",
}


class Gltf:
    """One opened file.

    Attributes:
        name: the file's name, for messages.
        tree: the JSON object.
        empty_numbers: how many numbers were read so far that have no data in the file.

    Raises:
        ValueError: it is no glTF 2.0, it is cut short, or it needs an extension that is not read.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._folder = path.name, path.parent
        self.empty_numbers = 0
        data = path.read_bytes()
        self._bin: memoryview | None = None
        self._items: dict[str, list[dict[str, Any]]] = {}  # arrays of the tree, checked once
        text: bytes | memoryview = data
        if data[:4] == b"glTF":
            text = self._chunks(data)
        elif path.suffix.lower() == ".glb":
            raise ValueError("it does not begin as a binary glTF does")
        try:
            self.tree: dict[str, Any] = json.loads(bytes(text).decode("utf-8-sig"))
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"its JSON is damaged: {error}") from None
        if not isinstance(self.tree, dict) or not isinstance(self.tree.get("asset"), dict):
            raise ValueError("its JSON has no asset, so it is no glTF")
        if not str(self.tree["asset"].get("version", "")).startswith("2"):
            raise ValueError(f"it is glTF {shown(self.tree['asset'].get('version'))}; save it as glTF 2.0")
        self._refuse_unsupported()
        self._buffers: dict[int, memoryview] = {}

    def _chunks(self, data: bytes) -> memoryview:
        if len(data) < 20:
            raise ValueError("it is cut short")
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise ValueError(f"it is binary glTF {version}; save it as glTF 2.0")
        if length > len(data):
            raise ValueError(f"it is cut short: {len(data)} of {length} bytes are there")
        whole, at, text = memoryview(data), 12, None
        while at + 8 <= length:
            size, kind = struct.unpack_from("<II", data, at)
            if at + 8 + size > length:
                raise ValueError("one of its chunks is cut short")
            chunk = whole[at + 8 : at + 8 + size]
            if kind == _JSON and text is None:
                text = chunk
            elif kind == _BIN and self._bin is None:
                self._bin = chunk
            at += 8 + size
        if text is None:
            raise ValueError("it has no JSON")
        return text

    def _refuse_unsupported(self) -> None:
        required = self.tree.get("extensionsRequired") or []
        missing = [str(name) for name in required if name not in SUPPORTED]
        if missing:
            reasons = [REMEDIES.get(name, "save it without this extension") for name in missing]
            said = "; ".join(f"{name}: {reason}" for name, reason in zip(missing, reasons, strict=True))
            raise ValueError(f"it needs glTF extensions that Lathe does not read. {said}")

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The array `kind` ("nodes", "meshes", ...), empty where the file has none."""
        if kind not in self._items:
            found = self.tree.get(kind, [])
            if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
                raise ValueError(f"its {kind} are no list of objects")
            self._items[kind] = found
        return self._items[kind]

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """Entry `index` of the array `kind`.

        Raises:
            ValueError: there is none.
        """
        found = self.items(kind)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(found):
            raise ValueError(f"it names entry {shown(index)} of its {kind}, which has {len(found)}")
        return found[index]

    def view(self, index: Any) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0: packed).

        Raises:
            ValueError: it reaches outside its buffer.
        """
        view = self.item("bufferViews", index)
        compressed = [name for name in view.get("extensions", {}) if name in REMEDIES]
        buffer = self._buffer(view.get("buffer"), compressed)
        start, length = natural(view.get("byteOffset", 0), "byteOffset"), natural(view.get("byteLength"), "byteLength")
        if start + length > len(buffer):
            raise ValueError(f"buffer view {index} ends {start + length - len(buffer)} bytes behind its buffer; it may be cut short")
        return buffer[start : start + length], natural(view.get("byteStride", 0), "byteStride")

    def _buffer(self, index: Any, compressed: list[str]) -> memoryview:
        buffer = self.item("buffers", index)
        if index not in self._buffers:
            uri = buffer.get("uri")
            if uri is None and index == 0 and self._bin is not None:
                self._buffers[index] = self._bin
            elif uri is None:
                # The place holder of a compressed file that has no uncompressed copy.
                raise ValueError("; ".join(f"{name}: {REMEDIES[name]}" for name in compressed) or f"buffer {index} has no data")
            else:
                self._buffers[index] = memoryview(self.resource(uri))
            if len(self._buffers[index]) < natural(buffer.get("byteLength", 0), "byteLength"):
                raise ValueError(f"buffer {index} is cut short")
        return self._buffers[index]

    def resource(self, uri: Any) -> bytes:
        """What a uri names: data in it, or a file in the folder of this one (section 2.8: percent-encoded, relative), which is found
        however an exporter wrote it (`find_beside`).

        Raises:
            ValueError: no such file, a place outside the folder, or data that cannot be decoded.
        """
        if not isinstance(uri, str):
            raise ValueError(f"it names a file by {shown(uri)}")
        if uri[:5].lower() == "data:":
            return _embedded(uri)
        plain = unquote(uri)
        file = find_beside(self._folder, plain) or find_beside(self._folder, uri)  # some exporters do not encode
        if file is not None:
            return file.read_bytes()
        steps = re.split(r"[\\/]+", plain)
        if re.match(r"(file:|[a-z]:|[\\/])", plain.strip(), re.IGNORECASE):
            raise ValueError(f"{shown(plain)} lies on another machine or outside the folder; put it beside {self.name}")
        if "://" in plain:
            raise ValueError(f"{shown(plain)} lies on the network, where nothing is fetched from; save it beside {self.name}")
        if ".." in steps:
            raise ValueError(f"{shown(plain)} leads out of the folder of {self.name}")
        raise ValueError(f"{shown(plain)} is missing; put it beside {self.name}")

    @cached_property
    def drops(self) -> list[str]:
        """Sentences about what of the file is not read."""
        notes = []
        if self.tree.get("animations"):
            notes.append("its animations are left out: it is read in the pose the file shows at rest")
        if "KHR_materials_variants" in (self.tree.get("extensionsUsed") or []):
            notes.append("of its material variants the first to show is read")
        return notes


def _embedded(uri: str) -> bytes:
    """The data of a data URI (RFC 2397). Its base64 may have line breaks, percent-encoding, and no padding at its end."""
    head, _, body = uri.partition(",")
    if not head.rstrip().lower().endswith(";base64"):
        return unquote_to_bytes(body)
    letters = "".join(unquote(body).split()).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: letters outside ASCII
        raise ValueError(f"data in its JSON is damaged: {error}") from None


def shown(value: Any) -> str:
    """A value of the file as messages show it: a file can hold megabytes where a name is expected."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def natural(value: Any, what: str) -> int:
    """A whole number of at least 0.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its {what} is {shown(value)}, not a whole number of 0 or more")
    return value
