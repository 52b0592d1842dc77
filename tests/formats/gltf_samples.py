"""A small builder of glTF 2.0 files for tests: whatever the format's core and a few extensions allow, valid unless a test breaks it.

    from formats.gltf_samples import Gltf

    gltf = Gltf()
    positions = gltf.accessor(corners, "i2", normalized=True, stride=16)      # floats become the integers that stand for them
    colors = gltf.accessor(rows, "u1", normalized=True, base=np.ones_like(rows))  # sparse: the rows that differ from the base
    paint = gltf.material(baseColorTexture=gltf.texture_info(picture, offset=(0.5, 0), scale=(0.5, 1)), alphaMode="MASK")
    triangles = gltf.primitive({"POSITION": positions, "COLOR_0": colors}, indices=[0, 1, 2], material=paint, mode=4)
    node = gltf.node(mesh=gltf.mesh(triangles), translation=[0, 1, 0])        # a root; parent=ID puts it below another
    gltf.instances(node, TRANSLATION=[[0, 0, 0], [2, 0, 0]])                  # EXT_mesh_gpu_instancing
    path = gltf.save(tmp_path / "a.glb")                                      # or a.gltf with a.bin; embed=True: data URIs

Arrays may stand wherever an accessor is asked for; they are stored plainly: attributes as f4 (u2 for JOINTS_n), indices as u4.
`gltf.tree` is the JSON, free to be changed before saving; its lists are made when first used. `gltf.use(name, required=True)` names an
extension; quantized attributes need that said: `gltf.use("KHR_mesh_quantization", required=True)`.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
SHAPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (2, 2): "MAT2", (3, 3): "MAT3", (4, 4): "MAT4"}
VERTICES, INDICES = 34962, 34963  # targets of buffer views
POINTS, LINES, LINE_LOOP, LINE_STRIP, TRIANGLES, STRIP, FAN = range(7)


def as_integers(values: Any, component: str) -> np.ndarray:
    """Floats in [-1, 1] or [0, 1] as the normalized integers of glTF 3.11 that stand for them."""
    top = np.iinfo(component).max
    return np.round(np.clip(np.asarray(values, dtype=np.float64), -1, 1) * top)


def png(pixels: Any, form: str = "png", **options: Any) -> bytes:
    """(H, W), (H, W, 3 or 4) uint8, or a PIL picture, as the bytes of a file; `form` is one of PIL's: png, jpeg, webp."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


class Gltf:
    """One file under construction; every method that adds something returns its index."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {"asset": {"version": "2.0", "generator": "gltf_samples"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.body = bytearray()

    def add(self, kind: str, **entry: Any) -> int:
        """Appends to one of the lists of the JSON, without the keys that are None."""
        rows = self.tree.setdefault(kind, [])
        rows.append({key: value for key, value in entry.items() if value is not None})
        return len(rows) - 1

    def use(self, extension: str, required: bool = False) -> None:
        """Names an extension in extensionsUsed, and in extensionsRequired."""
        for key in ("extensionsUsed", "extensionsRequired")[: 1 + required]:
            if extension not in self.tree.setdefault(key, []):
                self.tree[key].append(extension)

    # ---- numbers

    def view(self, data: bytes, target: int | None = None, stride: int | None = None) -> int:
        """A buffer view of its own, at a multiple of four."""
        self.body += b"\0" * (-len(self.body) % 4)
        index = self.add("bufferViews", buffer=0, byteOffset=len(self.body), byteLength=len(data), byteStride=stride, target=target)
        self.body += data
        return index

    def accessor(
        self,
        values: Any,
        component: str = "f4",
        *,
        normalized: bool = False,
        target: int | None = VERTICES,
        stride: int | None = None,
        offset: int = 0,
        base: Any = None,
        sparse: bool = False,
        sparse_index: str = "u2",
        bounds: bool = True,
    ) -> int:
        """(N,), (N, 2..4) or (N, 2..4, 2..4) numbers, matrices row by row as numpy has them.

        Args:
            component: one of COMPONENTS.
            normalized: the integers stand for [0, 1] or [-1, 1]; `values` and `base` that are floats are turned into them.
            target: of the buffer view; VERTICES, INDICES, or None for what is neither (matrices of skins, instances, animations).
            stride: bytes from row to row; the least that the format allows, if None.
            offset: bytes between the start of the view and the first row.
            base: stores `values` as the sparse rows that differ from these.
            sparse: the same over no base, which stands for zeros.
            sparse_index: component of the sparse indices.
            bounds: writes min and max (POSITION needs them).
        """
        rows, below = (self._stored(part, component, normalized) for part in (values, values if base is None else base))
        kind = SHAPES[rows.shape[1:]]
        entry: dict[str, Any] = {"componentType": COMPONENTS[component], "count": len(rows), "type": kind, "normalized": normalized or None}
        if bounds:
            flat = rows.swapaxes(-1, -2) if rows.ndim == 3 else rows  # columns first
            flat = flat.reshape(len(rows), -1)
            entry |= {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}
        if not sparse:
            data, step = self._packed(below, stride, offset, target)
            entry |= {"bufferView": self.view(data, target, step), "byteOffset": offset or None}
        if sparse or base is not None:
            other = rows.reshape(len(rows), -1) != (0 if sparse else below.reshape(len(rows), -1))
            places = np.flatnonzero(other.any(axis=1))
            where = {"bufferView": self.view(places.astype(f"<{sparse_index}").tobytes()), "componentType": COMPONENTS[sparse_index]}
            what = {"bufferView": self.view(self._packed(rows[places], None, 0, None)[0])}
            entry["sparse"] = {"count": len(places), "indices": where, "values": what}
        return self.add("accessors", **entry)

    def _stored(self, values: Any, component: str, normalized: bool) -> np.ndarray:
        rows = np.asarray(values)
        if normalized and rows.dtype.kind == "f":
            rows = as_integers(rows, component)
        return rows.astype(f"<{component}")

    def _packed(self, rows: np.ndarray, stride: int | None, offset: int, target: int | None) -> tuple[bytes, int | None]:
        """The bytes of the rows, and the stride to be written; columns of matrices begin at multiples of four."""
        if rows.ndim == 3:
            columns = rows.swapaxes(1, 2)
            gap = -columns.shape[2] * rows.itemsize % 4 // rows.itemsize
            rows = np.pad(columns, ((0, 0), (0, 0), (0, gap))).reshape(len(rows), -1)
        rows = np.ascontiguousarray(rows.reshape(len(rows), -1))
        size = rows.shape[1] * rows.itemsize
        if stride is None and target == VERTICES and size % 4:
            stride = size + -size % 4
        step = stride or size
        room = np.full((len(rows), step), 0xCD, dtype=np.uint8)  # what lies between rows is not zero, so that reading it shows
        room[:, :size] = rows.view(np.uint8).reshape(len(rows), size)
        return b"\xcd" * offset + room.tobytes(), stride

    def _accessor_of(self, values: Any, name: str = "") -> int:
        """An index as it is; an array as an accessor of the plain kind for this attribute."""
        if isinstance(values, int):
            return values
        component = "u2" if name.startswith("JOINTS") else "f4"
        return self.accessor(values, component, target=VERTICES if name else None)

    # ---- looks

    def image(self, content: Any, mime: str = "image/png", uri: str | None = None) -> int:
        """Pixels (see `png`) or the bytes of a picture file in the buffer; or `uri`, a file of its own, which is not written."""
        if uri is not None:
            return self.add("images", uri=uri)
        data = content if isinstance(content, bytes) else png(content, mime.partition("/")[2])
        return self.add("images", bufferView=self.view(data), mimeType=mime)

    def texture(self, content: Any, sampler: dict[str, int] | None = None) -> int:
        """A texture of an image (index, pixels or bytes of a PNG)."""
        source = content if isinstance(content, int) else self.image(content)
        return self.add("textures", source=source, sampler=None if sampler is None else self.add("samplers", **sampler))

    def texture_info(self, content: Any, uv: int = 0, sampler: dict[str, int] | None = None, **transform: Any) -> dict[str, Any]:
        """What a material names: a texture (pixels or bytes), its uv set, and KHR_texture_transform's offset, rotation, scale, texCoord."""
        info: dict[str, Any] = {"index": self.texture(content, sampler)}
        if uv:
            info["texCoord"] = uv
        if transform:
            self.use("KHR_texture_transform")
            info["extensions"] = {"KHR_texture_transform": transform}
        return info

    def material(self, *, unlit: bool = False, **keys: Any) -> int:
        """A material; keys of pbrMetallicRoughness (baseColorFactor, metallicFactor, ...) find their place by themselves."""
        inside = ("baseColorFactor", "baseColorTexture", "metallicFactor", "roughnessFactor", "metallicRoughnessTexture")
        surface = {key: keys.pop(key) for key in inside if key in keys}
        if unlit:
            self.use("KHR_materials_unlit")
            keys["extensions"] = {**keys.get("extensions", {}), "KHR_materials_unlit": {}}
        return self.add("materials", pbrMetallicRoughness=surface or None, **keys)

    # ---- scene

    def primitive(
        self,
        attributes: dict[str, Any],
        indices: Any = None,
        *,
        index_component: str = "u4",
        mode: int | None = None,
        material: int | None = None,
        targets: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """For `mesh`. Attributes, indices and morph targets are accessors or arrays."""
        made: dict[str, Any] = {"attributes": {name: self._accessor_of(values, name) for name, values in attributes.items()}}
        if indices is not None:
            is_index = isinstance(indices, int)
            made["indices"] = indices if is_index else self.accessor(indices, index_component, target=INDICES, bounds=False)
        if targets is not None:
            made["targets"] = [{name: self._accessor_of(values, name) for name, values in target.items()} for target in targets]
        made |= {key: value for key, value in (("mode", mode), ("material", material)) if value is not None}
        return made

    def mesh(self, *primitives: dict[str, Any], weights: list[float] | None = None) -> int:
        """A mesh of primitives, with its morph weights."""
        return self.add("meshes", primitives=list(primitives), weights=weights)

    def node(self, *, parent: int | None = None, **keys: Any) -> int:
        """A node (mesh, skin, weights, translation, rotation, scale; matrix as 4 x 4 rows); a root of the scene where it has no parent."""
        if "matrix" in keys:
            keys["matrix"] = np.asarray(keys["matrix"], dtype=np.float64).T.reshape(-1).tolist()
        index = self.add("nodes", **keys)
        siblings = self.tree["scenes"][0]["nodes"] if parent is None else self.tree["nodes"][parent].setdefault("children", [])
        siblings.append(index)
        return index

    def skin(self, joints: list[int], inverse_bind: Any = None) -> int:
        """A skin of these nodes; `inverse_bind` (J, 4, 4) or None for identities."""
        matrices = None if inverse_bind is None else self._accessor_of(inverse_bind)
        return self.add("skins", joints=joints, inverseBindMatrices=matrices)

    def instances(self, node: int, **attributes: Any) -> None:
        """Copies of a node's mesh by EXT_mesh_gpu_instancing; accessors or arrays: TRANSLATION (N, 3), ROTATION (N, 4) xyzw, SCALE."""
        self.use("EXT_mesh_gpu_instancing", required=True)
        told = {"attributes": {name: self._accessor_of(values) for name, values in attributes.items()}}
        self.tree["nodes"][node].setdefault("extensions", {})["EXT_mesh_gpu_instancing"] = told

    # ---- files

    def glb(self) -> bytes:
        """The binary file."""
        body = bytes(self.body) + b"\0" * (-len(self.body) % 4)
        head = json.dumps(self._whole(len(self.body), None)).encode()
        head += b" " * (-len(head) % 4)
        chunks = struct.pack("<II", len(head), 0x4E4F534A) + head
        if body:
            chunks += struct.pack("<II", len(body), 0x004E4942) + body
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks

    def save(self, path: Path, embed: bool = False) -> Path:
        """Writes a .glb, or a .gltf with its numbers beside it or in a data URI."""
        if path.suffix == ".glb":
            path.write_bytes(self.glb())
            return path
        uri = f"{path.stem}.bin"
        if embed:
            uri = "data:application/octet-stream;base64," + base64.b64encode(self.body).decode()
        else:
            path.with_suffix(".bin").write_bytes(self.body)
        path.write_text(json.dumps(self._whole(len(self.body), uri)), encoding="utf-8")
        return path

    def _whole(self, size: int, uri: str | None) -> dict[str, Any]:
        buffer = {"byteLength": size} | ({} if uri is None else {"uri": uri})
        tree = {**self.tree, "buffers": [buffer]} if size else dict(self.tree)
        if not tree["scenes"][0]["nodes"]:
            tree |= {"scenes": [{}]}
        return tree
