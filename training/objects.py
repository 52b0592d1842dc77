"""The furniture library's objects as triangles ready to render: loading, splits and attributions.

Objects come from the Debian package sweethome3d-furniture: `.sh3f` files are plain zips of
`<library>/<name>/<name>.obj` with its `.mtl` and textures. An object's key is `<library>/<name>`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..pipelines.data.mesh import Mesh

MAX_RADIUS = 0.95  # of the farthest vertex from the bounding box's centre: inside [-1, 1]^3 and inside every training view
MAX_OBJECT_BYTES = 256 << 20
DEFAULT_GREY = 190
BUNDLED = Path(__file__).resolve().parents[1] / "tests" / "data" / "objects"
CATALOGUE = "PluginFurnitureCatalog.properties"
MAX_TILES, MAX_TILE_SIDE, PADDING = 4, 512, 2  # of a material's rectangle in the atlas
LICENCES = {
    "blendswap-cc-0": "CC0-1.0",
    "blendswap-cc-by": "CC-BY-3.0",
    "katorlegaz": "CC-BY-3.0-US",
    "reallusion": "CC-BY-3.0-US",
    "scopia": "CC-BY-3.0",
}


@dataclass(frozen=True)
class RenderObject:
    """One textured object in world space (right-handed, +Y up, front along +Z), centred, farthest vertex at radius .95.

    Attributes:
        key: `<library>/<name>`.
        vertices: (V, 3) float32, split where uvs or normals differ.
        faces: (F, 3) int32. Winding is not reliable in this library: treat faces as two-sided.
        normals: (V, 3) float32 unit shading normals, of either sign.
        uvs: (V, 2) float32, origin at the top left, repeating outside [0, 1].
        face_material: (F,) int32.
        base_colors: (M, 3) uint8 sRGB, used where a material has no texture.
        textures: M entries, (H, W, 4) uint8 or None. Alpha below one half is a hole.
    """

    key: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    face_material: NDArray[np.int32]
    base_colors: NDArray[np.uint8]
    textures: tuple[NDArray[np.uint8] | None, ...]

    def to_mesh(self) -> Mesh:
        """The object with one texture atlas, its albedo. Holes cut by alpha are filled: a Mesh has no alpha."""
        return _to_mesh(self)


@dataclass(frozen=True)
class Attribution:
    """Who made an object and under which licence it may be used."""

    key: str
    name: str
    creator: str
    licence: str


def objects_folder(folder: str | Path | None = None) -> Path:
    """The folder of `.sh3f` files: the argument, else the environment variable LATHE_OBJECTS, else the bundled bench objects.

    Raises:
        ValueError: the folder holds no `.sh3f` file.
    """
    path = Path(folder or os.environ.get("LATHE_OBJECTS") or BUNDLED)
    if not any(path.glob("*.sh3f")):
        raise ValueError(f"{path} holds no .sh3f file: unpack the Debian package sweethome3d-furniture and name its furniture folder.")
    return path


def split(name: str) -> list[str]:
    """Keys of the split `train`, `test` or `bench` (8 of the test objects, the default of every benchmark)."""
    if name not in ("train", "test", "bench"):
        raise ValueError(f"There is no split {name!r}: choose train, test or bench.")
    return list(json.loads((Path(__file__).parent / "splits.json").read_text())[name])


def load_object(folder: str | Path | None, key: str) -> RenderObject:
    """Reads object `key` from the zips in `folder` (see `objects_folder`). Nothing is written to disk.

    Raises:
        ValueError: the key is in none of the zips, the object has no triangles, or it unpacks to more than 256 MiB.
    """
    import trimesh

    root = objects_folder(folder)
    archive, model, rotation = _find(root, key)
    with zipfile.ZipFile(root / archive) as zipped:
        members = _read_members(zipped, str(PurePosixPath(model).parent))
    name = PurePosixPath(model).name
    if name not in members:
        raise ValueError(f"{archive} holds no {model}.")
    # the resolver knows these members and nothing else: an .mtl cannot name a file of the disk
    resolver = trimesh.resolvers.ZipResolver(members)
    scene = trimesh.load(io.BytesIO(members[name]), file_type="obj", force="scene", resolver=resolver, process=False)
    return _from_scene(key, scene, rotation)


def attributions(folder: str | Path | None, keys: list[str] | None = None) -> list[Attribution]:
    """Creator and licence of the given objects (all of them by default), from the libraries' catalogues."""
    catalogue = _catalogue(str(objects_folder(folder)))
    out = []
    for key in keys if keys is not None else sorted(catalogue):
        if key not in catalogue:
            raise ValueError(f"No object {key!r} in the catalogues.")
        entry, library = catalogue[key], key.split("/")[0]
        out.append(Attribution(key, entry.get("name", key), entry.get("creator", "unknown"), LICENCES.get(library, "unknown")))
    return out


def write_attributions(folder: str | Path | None, keys: list[str] | None, path: Path) -> None:
    """A table of creators and licences beside whatever was made from these objects."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "name", "creator", "licence"])
        writer.writerows([a.key, a.name, a.creator, a.licence] for a in attributions(folder, keys))


@lru_cache(maxsize=8)
def _catalogue(folder: str) -> dict[str, dict[str, str]]:
    """key -> its catalogue entries (`archive`, `model`, and `name`, `creator`, `modelRotation` where given)."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(Path(folder).glob("*.sh3f")):
        with zipfile.ZipFile(path) as zipped:
            names = zipped.namelist()
            text = zipped.read(CATALOGUE).decode("latin-1") if CATALOGUE in names else ""
        described: dict[str, dict[str, str]] = {}
        for field, number, value in re.findall(r"^(\w+)#(\d+)\s*[=:]\s*(.*?)\s*$", text, re.MULTILINE):
            described.setdefault(number, {})[field] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
        for name in names:
            parts = PurePosixPath(name).parts
            if len(parts) == 3 and name.lower().endswith(".obj"):
                found.setdefault("/".join(parts[:2]), {"archive": path.name, "model": name})
        for entry in described.values():
            key = "/".join(PurePosixPath(entry.get("model", "").lstrip("/")).parts[:2])
            if key in found:
                found[key].update({**entry, "model": entry["model"].lstrip("/")})
    return found


def _find(root: Path, key: str) -> tuple[str, str, NDArray[np.float64]]:
    catalogue = _catalogue(str(root))
    if key not in catalogue:
        raise ValueError(
            f"No object {key!r} in the .sh3f files of {root}. The whole library is the Debian package sweethome3d-furniture: unpack it "
            "and pass --objects DIR or set LATHE_OBJECTS (training/README.md says how)."
        )
    entry = catalogue[key]
    rotation = np.fromstring(entry["modelRotation"], sep=" ").reshape(3, 3) if "modelRotation" in entry else np.eye(3)
    return entry["archive"], entry["model"], rotation


def _read_members(zipped: zipfile.ZipFile, folder: str) -> dict[str, bytes]:
    """Files under `folder`, by their path relative to it. Members whose names climb out of it are left out."""
    chosen: list[tuple[str, zipfile.ZipInfo]] = []
    for info in zipped.infolist():
        path = PurePosixPath(info.filename)
        safe = ".." not in path.parts and "\\" not in info.filename and not path.is_absolute()
        if safe and not info.is_dir() and info.filename.startswith(folder + "/"):
            chosen.append((info.filename[len(folder) + 1 :], info))
    total = sum(info.file_size for _, info in chosen)
    if total > MAX_OBJECT_BYTES:
        raise ValueError(f"{folder} unpacks to {total >> 20} MiB, more than the {MAX_OBJECT_BYTES >> 20} MiB an object may have.")
    return {name: zipped.read(info) for name, info in chosen}


def _from_scene(key: str, scene: Any, rotation: NDArray[np.float64]) -> RenderObject:
    lists: list[list[NDArray]] = [[] for _ in range(6)]
    vertices, faces, normals, uvs, face_material, colors = lists
    textures: list[NDArray[np.uint8] | None] = []
    offset = 0
    for geometry in scene.dump(concatenate=False) if scene.geometry else []:
        if not hasattr(geometry, "faces") or not len(geometry.faces):
            continue
        count = len(geometry.vertices)
        vertices.append(np.asarray(geometry.vertices, np.float64))
        faces.append(np.asarray(geometry.faces, np.int64) + offset)
        normals.append(np.asarray(geometry.vertex_normals, np.float64))
        color, texture = _material(geometry)
        uv = getattr(geometry.visual, "uv", None)
        if uv is None or len(uv) != count:
            uv, texture = np.zeros((count, 2)), None
        uvs.append(np.nan_to_num(np.asarray(uv, np.float64)[:, :2]))
        face_material.append(np.full(len(geometry.faces), len(colors), np.int32))
        colors.append(color)
        textures.append(texture)
        offset += count
    if not faces:
        raise ValueError(f"Object {key!r} has no triangles.")
    position = np.concatenate(vertices) @ rotation.T
    index = np.concatenate(faces)
    used = position[np.unique(index)]
    if not np.isfinite(used).all():
        raise ValueError(f"Object {key!r} has vertices that are not finite numbers.")
    centre = (used.min(0) + used.max(0)) / 2
    radius = np.linalg.norm(used - centre, axis=1).max()
    if radius <= 0:
        raise ValueError(f"Object {key!r} is a single point.")
    normal = np.nan_to_num(np.concatenate(normals) @ rotation.T)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    uv_top_left = np.concatenate(uvs) * (1, -1) + (0, 1)
    return RenderObject(
        key=key,
        vertices=np.nan_to_num((position - centre) * (MAX_RADIUS / radius)).astype(np.float32),
        faces=index.astype(np.int32),
        normals=normal.astype(np.float32),
        uvs=uv_top_left.astype(np.float32),
        face_material=np.concatenate(face_material),
        base_colors=np.stack(colors).astype(np.uint8),
        textures=tuple(textures),
    )


def _material(geometry: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Base colour (3,) and texture (H, W, 4) or None. A texture replaces the colour, as the library's own viewer shows it."""
    material = getattr(geometry.visual, "material", None)
    image = getattr(material, "image", None)
    color = getattr(material, "diffuse", None)
    base = np.full(3, DEFAULT_GREY, np.uint8) if color is None else np.asarray(color, np.uint8).reshape(-1)[:3]
    # trimesh stands in a 2x2 picture where a texture is missing
    if image is None or max(image.size) <= 4:
        return base, None
    return base, np.asarray(image.convert("RGBA"), np.uint8)


def _to_mesh(obj: RenderObject) -> Mesh:
    corner_uv = obj.uvs[obj.faces].astype(np.float64)
    corner_uv -= np.floor(corner_uv.min(1, keepdims=True))  # a face may lie in any repeat of its texture: take the first
    rectangles = []
    for m, texture in enumerate(obj.textures):
        mine = obj.face_material == m
        if texture is None:
            rectangles.append(np.broadcast_to(obj.base_colors[m], (4 + 2 * PADDING, 4 + 2 * PADDING, 3)))
            corner_uv[mine] = 0.5
            continue
        span = corner_uv[mine].max((0, 1)) if mine.any() else np.ones(2)
        tiles = np.clip(np.ceil(span - 1e-4), 1, MAX_TILES)
        corner_uv[mine] /= np.maximum(span / tiles, 1) * tiles  # fractions of the tiled rectangle
        rectangles.append(_tiled(texture[..., :3], int(tiles[0]), int(tiles[1])))
    atlas, corners = _pack_shelves(rectangles)
    inner = np.array([(r.shape[1] - 2 * PADDING, r.shape[0] - 2 * PADDING) for r in rectangles], np.float64)
    pixel = (corners + PADDING)[obj.face_material][:, None] + corner_uv * inner[obj.face_material][:, None]
    uvs = pixel / (atlas.shape[1], atlas.shape[0])
    return Mesh(
        vertices=torch.from_numpy(obj.vertices[obj.faces].reshape(-1, 3)),
        faces=torch.arange(obj.faces.size).reshape(-1, 3),
        uvs=torch.from_numpy(uvs.reshape(-1, 2).astype(np.float32)),
        texture=torch.from_numpy(atlas.astype(np.float32) / 255),
    )


def _tiled(texture: NDArray[np.uint8], across: int, down: int) -> NDArray[np.uint8]:
    """The texture repeated, shrunk to the largest rectangle allowed, with a border that wraps around."""
    from PIL import Image

    side = MAX_TILE_SIDE // max(across, down)
    image = Image.fromarray(texture)
    shrink = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    repeated = np.tile(np.asarray(image.resize(size, Image.Resampling.BOX)), (down, across, 1))
    return np.pad(repeated, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="wrap")


def _pack_shelves(rectangles: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rectangles side by side in rows, tallest first: the atlas and each rectangle's (x, y) in it."""
    area = sum(r.shape[0] * r.shape[1] for r in rectangles)
    width = max(int(np.ceil(np.sqrt(area))), max(r.shape[1] for r in rectangles))
    corners = np.zeros((len(rectangles), 2), np.int64)
    x = y = shelf = 0
    for i in sorted(range(len(rectangles)), key=lambda i: -rectangles[i].shape[0]):
        height_i, width_i = rectangles[i].shape[:2]
        if x + width_i > width:
            x, y, shelf = 0, y + shelf, 0
        corners[i] = x, y
        x, shelf = x + width_i, max(shelf, height_i)
    atlas = np.zeros((y + shelf, width, 3), np.uint8)
    for (x, y), rectangle in zip(corners, rectangles, strict=True):
        atlas[y : y + rectangle.shape[0], x : x + rectangle.shape[1]] = rectangle
    return atlas, corners
