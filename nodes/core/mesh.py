"""MESH at sockets: between the core's padded batch and Lathe's `Mesh`, and files where the core hands those on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ...pipelines.data.mesh import Mesh
from .schema import MESH, asset_input, parameters_of

# Mesh files Lathe reads; the core has these sockets from about 0.12 on.
MESH_FILES = [t for t in (getattr(io, name, None) for name in ("File3DAny", "File3DGLB", "File3DOBJ")) if t is not None]
_MESH_EXTRAS = ("uvs", "vertex_colors", "texture", "vertex_counts", "face_counts")


def mesh_input(id: str = "mesh", **options: Any) -> Any:
    """An input for an asset: MESH, and FILE_3D where the core has it. Read it with `meshes_in`."""
    return asset_input(id, MESH, *MESH_FILES, **options)


def _padded(rows: list[Tensor], length: int) -> Tensor:
    out = rows[0].new_zeros(len(rows), length, rows[0].shape[1])
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _resized(texture: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(texture.shape[:2]) == size:
        return texture
    picture = texture.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(picture, size=size, mode="bilinear", align_corners=False)[0].movedim(0, -1)


def to_core_mesh(meshes: list[Mesh]) -> Any:
    """Meshes -> one `Types.MESH`, zero-padded to the largest, with `vertex_counts` and `face_counts`.

    A core whose MESH knows only vertices and faces gets uvs, texture and vertex_colors as attributes of the same object.
    Where only some meshes have a texture or vertex colours the others get white, which multiplies to nothing.
    """
    if not meshes:
        raise ValueError("There is no mesh to hand on.")
    n_vertices = max(len(m.vertices) for m in meshes)
    n_faces = max(len(m.faces) for m in meshes)
    parts: dict[str, Tensor | None] = dict.fromkeys(_MESH_EXTRAS)
    parts["vertex_counts"] = torch.tensor([len(m.vertices) for m in meshes])
    parts["face_counts"] = torch.tensor([len(m.faces) for m in meshes])
    if any(m.uvs is not None for m in meshes):
        parts["uvs"] = _padded([m.uvs if m.uvs is not None else m.vertices.new_zeros(len(m.vertices), 2) for m in meshes], n_vertices)
    if any(m.vertex_colors is not None for m in meshes):
        colors = [m.vertex_colors if m.vertex_colors is not None else torch.ones_like(m.vertices) for m in meshes]
        parts["vertex_colors"] = _padded(colors, n_vertices)
    textures = [m.texture for m in meshes if m.texture is not None]
    if textures:
        size = (max(t.shape[0] for t in textures), max(t.shape[1] for t in textures))
        white = torch.ones(*size, 3)
        parts["texture"] = torch.stack([_resized(m.texture, size) if m.texture is not None else white for m in meshes])
    parts = {k: v.detach().cpu() if v is not None else None for k, v in parts.items()}
    known = parameters_of(Types.MESH)
    core = Types.MESH(
        vertices=_padded([m.vertices.detach().cpu() for m in meshes], n_vertices),
        faces=_padded([m.faces.detach().cpu() for m in meshes], n_faces),
        **{k: v for k, v in parts.items() if k in known},
    )
    for name, value in parts.items():
        if name not in known:
            setattr(core, name, value)
    return core


def from_core_mesh(core: Any) -> list[Mesh]:
    """A core MESH (ours or another node's) -> its meshes, without padding.

    Where the core gave no counts, faces whose corners are one and the same vertex are padding.
    """
    extras: dict[str, Any] = {name: getattr(core, name, None) for name in _MESH_EXTRAS}
    vertices = core.vertices if core.vertices.ndim == 3 else core.vertices[None]
    faces = core.faces if core.faces.ndim == 3 else core.faces[None]
    meshes = []
    for i in range(vertices.shape[0]):
        n_vertices, n_faces = vertices.shape[1], faces.shape[1]
        if extras["vertex_counts"] is not None:
            n_vertices, n_faces = int(extras["vertex_counts"][i]), int(extras["face_counts"][i])
        corners = faces[i, :n_faces].to("cpu", torch.int64)
        if extras["vertex_counts"] is None:
            corners = corners[(corners != corners[:, :1]).any(1)]

        def of_vertex(name: str, channels: int, index: int = i, count: int = n_vertices) -> Tensor | None:
            value = extras[name]
            return None if value is None else value[index, :count, :channels].to("cpu", torch.float32)

        uvs = of_vertex("uvs", 2)
        texture = extras["texture"]
        meshes.append(
            Mesh(
                vertices=vertices[i, :n_vertices].to("cpu", torch.float32),
                faces=corners,
                uvs=uvs,
                texture=None if texture is None or uvs is None else texture[i, ..., :3].to("cpu", torch.float32),
                vertex_colors=of_vertex("vertex_colors", 3),
            )
        )
    return meshes


def meshes_in(asset: Any) -> list[Mesh]:
    """What arrived at a `mesh_input`: a core MESH, or a FILE_3D, which is read as GLB or OBJ."""
    if hasattr(asset, "vertices"):
        return from_core_mesh(asset)
    if not hasattr(asset, "save_to"):
        raise ValueError(f"A MESH or a 3D file is expected, not a {type(asset).__name__}.")
    from ...pipelines.formats.meshes import load_mesh

    if asset.is_disk_backed:
        return [load_mesh(Path(asset.get_source()))]
    with tempfile.TemporaryDirectory() as folder:
        return [load_mesh(Path(asset.save_to(str(Path(folder) / f"asset.{asset.format or 'glb'}"))))]
