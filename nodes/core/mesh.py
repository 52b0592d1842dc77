"""MESH at sockets: between the core's padded batch and Lathe's `Mesh`, and files where the core hands those on."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ...pipelines.data.mesh import Mesh
from ...pipelines.data.progress import Tick, no_tick
from ...pipelines.ops.material_maps import resized
from ...pipelines.ops.mesh_tools import vertex_normals
from .mesh_checks import check_core_mesh
from .mesh_material import material_from_core, material_to_core, with_factor
from .schema import MESH, asset_input, parameters_of

log = logging.getLogger(__name__)

_FILE_TYPES = ("File3DAny", "File3DGLB", "File3DGLTF", "File3DOBJ", "File3DSTL", "File3DPLY")
# Mesh files Lathe reads; the core has these sockets from about 0.12 on.
MESH_FILES = [t for t in (getattr(io, name, None) for name in _FILE_TYPES) if t is not None]


def mesh_input(id: str = "mesh", **options: Any) -> Any:
    """An input for an asset: MESH, and FILE_3D where the core has it. Read it with `meshes_in`."""
    return asset_input(id, MESH, *MESH_FILES, **options)


def to_core_mesh(meshes: list[Mesh]) -> Any:
    """Meshes -> one `Types.MESH`, zero-padded to the largest, with `vertex_counts` and `face_counts`.

    What a core's MESH does not know is set as attributes of the same object. Core's texture has three channels: alpha stands in
    `texture_alpha` (B, H, W). Where only some meshes have a texture, a map or vertex colours the others get what changes nothing.
    """
    if not meshes:
        raise ValueError("There is no mesh to hand on.")
    parts: dict[str, Any] = {
        "vertex_counts": torch.tensor([len(m.vertices) for m in meshes]),
        "face_counts": torch.tensor([len(m.faces) for m in meshes]),
        "uvs": _batch([m.uvs for m in meshes], lambda m: m.vertices.new_zeros(len(m.vertices), 2), meshes),
        "vertex_colors": _colors(meshes),
        "normals": _batch([m.normals for m in meshes], lambda m: vertex_normals(m.vertices, m.faces), meshes),
        "tangents": _padded([m.tangents for m in meshes if m.tangents is not None])
        if all(m.tangents is not None for m in meshes)
        else None,
        **_texture(meshes),
        **material_to_core([m.material for m in meshes]),
    }
    parts = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in parts.items()}
    known = parameters_of(Types.MESH)
    core = Types.MESH(
        vertices=_padded([m.vertices.detach().cpu() for m in meshes]),
        faces=_padded([m.faces.detach().cpu() for m in meshes]),
        **{k: v for k, v in parts.items() if k in known},
    )
    for name, value in parts.items():
        if name not in known:
            setattr(core, name, value)
    return core


def _padded(rows: list[Tensor]) -> Tensor:
    out = rows[0].new_zeros(len(rows), max(map(len, rows)), rows[0].shape[1])
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _batch(values: list[Tensor | None], missing: Any, meshes: list[Mesh]) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return _padded([missing(mesh) if value is None else value for value, mesh in zip(values, meshes, strict=True)])


def _colors(meshes: list[Mesh]) -> Tensor | None:
    widest = max((m.vertex_colors.shape[1] for m in meshes if m.vertex_colors is not None), default=0)
    if not widest:
        return None
    rows = []
    for mesh in meshes:
        row = mesh.vertices.new_ones(len(mesh.vertices), widest)
        if mesh.vertex_colors is not None:
            row[:, : mesh.vertex_colors.shape[1]] = mesh.vertex_colors
        rows.append(row)
    return _padded(rows)


def _texture(meshes: list[Mesh]) -> dict[str, Tensor | None]:
    textures = [m.texture for m in meshes if m.texture is not None]
    if not textures:
        return {"texture": None, "texture_alpha": None}
    size = (max(t.shape[0] for t in textures), max(t.shape[1] for t in textures))
    white = torch.ones(*size, 3)
    stacked = [resized(m.texture, *size) if m.texture is not None else white for m in meshes]
    alpha = None
    if any(t.shape[2] == 4 for t in stacked):
        alpha = torch.stack([t[..., 3] if t.shape[2] == 4 else torch.ones(size) for t in stacked])
    return {"texture": torch.stack([t[..., :3] for t in stacked]), "texture_alpha": alpha}


def from_core_mesh(core: Any, *, points: bool = False) -> list[Mesh]:
    """A core MESH (ours or another node's) -> its meshes, without padding.

    Where the core gave no counts, faces whose corners are one and the same vertex are padding.

    Args:
        points: whether a mesh may have no faces, as a cloud of points.

    Raises:
        ValueError: tensors that do not fit together, or as `Mesh`.
    """
    vertices, faces = (_items(core, name, 2, needed=True) for name in ("vertices", "faces"))
    if len(vertices) != len(faces):
        raise ValueError(f"The MESH has vertices of {len(vertices)} meshes and faces of {len(faces)}.")
    check_core_mesh(core, vertices, faces, points)
    counts = [getattr(core, name, None) for name in ("vertex_counts", "face_counts")]
    return [_item(core, i, vertices[i], faces[i], [None if c is None else int(c[i]) for c in counts]) for i in range(len(vertices))]


def _item(core: Any, i: int, vertices: Tensor, faces: Tensor, counts: list[int | None]) -> Mesh:
    n_vertices = len(vertices) if counts[0] is None else counts[0]
    corners = faces if counts[1] is None else faces[: counts[1]]
    corners = corners.to("cpu", torch.int64)
    if counts[1] is None and corners.ndim == 2:
        corners = corners[(corners != corners[:, :1]).any(1)]

    def of_vertex(name: str, channels: int) -> Tensor | None:
        values = _items(core, name, 2)
        return values[i][:n_vertices, :channels].to("cpu", torch.float32) if values else None

    def picture(name: str) -> Tensor | None:
        values = _items(core, name, 3)
        if not values:
            return None
        image = values[i].to("cpu", torch.float32)
        return image.expand(-1, -1, 3) if image.shape[2] == 1 else image[..., :4]

    uvs = of_vertex("uvs", 2)
    material, factor = material_from_core(core, picture)
    texture, alpha = picture("texture"), _items(core, "texture_alpha", 2)
    if texture is not None and alpha and texture.shape[2] == 3:
        texture = torch.cat([texture, resized(alpha[i][..., None].to(texture), *texture.shape[:2])], dim=2)
    if uvs is None and (texture is not None or material.maps()):
        log.warning("A MESH has pictures but no UVs to lay them by; they are left out.")
        texture, material = None, material.without_maps()
    mesh = Mesh(
        vertices=vertices[:n_vertices].to("cpu", torch.float32),
        faces=corners,
        uvs=uvs,
        texture=texture,
        vertex_colors=of_vertex("vertex_colors", 4),
        normals=of_vertex("normals", 3),
        tangents=of_vertex("tangents", 4),
        material=material,
    )
    return with_factor(mesh, factor)


def _items(core: Any, name: str, ndim: int, needed: bool = False) -> list[Tensor]:
    """One tensor a mesh, of a batch, a list of tensors or the tensor of one mesh alone; none where the MESH has none."""
    value = getattr(core, name, None)
    if value is None and not needed:
        return []
    several = isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.ndim == ndim + 1)
    items: list[Any] = list(value) if several else [value]  # type: ignore[arg-type]
    for item in items:
        if not isinstance(item, Tensor) or item.ndim != ndim:
            shape = tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__
            raise ValueError(f"The MESH's {name} are {shape}; a tensor of {ndim} dimensions for each mesh is expected.")
    return items


def meshes_in(asset: Any, tick: Tick = no_tick) -> list[Mesh]:
    """What arrived at a `mesh_input`: a core MESH, or a FILE_3D, which is read as the mesh file it is, `tick` called meanwhile."""
    if hasattr(asset, "vertices"):
        return from_core_mesh(asset)
    if not hasattr(asset, "save_to"):
        raise ValueError(f"A MESH or a 3D file is expected, not a {type(asset).__name__}.")
    from ...pipelines.formats.meshes import load_mesh

    if asset.is_disk_backed:
        return [load_mesh(Path(asset.get_source()), tick=tick)]
    with tempfile.TemporaryDirectory() as folder:
        return [load_mesh(Path(asset.save_to(str(Path(folder) / f"asset.{asset.format or 'glb'}"))), tick=tick)]
