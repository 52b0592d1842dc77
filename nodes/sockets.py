"""Socket types, and the one place that knows ComfyUI's versions.

Everything here is detected by looking at the running core (0.3.75 and up), never by comparing version numbers.
A socket carries what architecture.md's table says; conversions to and from Lathe's payloads stand beside it.
"""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ..pipelines.cameras import count_assets as assets_of  # noqa: F401  (B of a batch of frames; nodes take it from here)
from ..pipelines.data.mesh import Mesh

IMAGE, MASK, MESH, VOXEL = io.Image, io.Mask, io.Mesh, io.Voxel
LOAD3D_CAMERA = io.Load3DCamera
LOAD3D_MODEL_INFO = getattr(io, "Load3DModelInfo", None) or io.Custom("LOAD3D_MODEL_INFO")
# From the cores that report how the viewer moved a model on, the viewer leaves it in its own space until the user fits it.
NEWER_VIEWER = hasattr(io, "Load3DModelInfo")
SPLAT = getattr(io, "Splat", None) or io.Custom("SPLAT")

CAMERAS = io.Custom("LATHE_CAMERAS")
FIELD = io.Custom("LATHE_FIELD")
PRIOR = io.Custom("LATHE_PRIOR")
VIEW_MODEL = io.Custom("LATHE_VIEW_MODEL")
LRM = io.Custom("LATHE_LRM")
GEOLRM = io.Custom("LATHE_GEOLRM")

# Mesh files Lathe reads; the core has these sockets from about 0.12 on.
MESH_FILES = [t for t in (getattr(io, name, None) for name in ("File3DAny", "File3DGLB", "File3DOBJ")) if t is not None]
_MESH_EXTRAS = ("uvs", "vertex_colors", "texture", "vertex_counts", "face_counts")


# ---- schemas ---------------------------------------------------------------------------------------------------------


def schema(**fields: Any) -> io.Schema:
    """An io.Schema from the fields this core knows; newer ones (search_aliases, ...) are left out on older cores.

    Asks for the node's unique id, which `host.tick_for` needs to show progress on the right node.
    """
    known = {f.name for f in dataclasses.fields(io.Schema)}
    hidden = list(fields.pop("hidden", []))
    if io.Hidden.unique_id not in hidden:
        hidden.append(io.Hidden.unique_id)
    return io.Schema(hidden=hidden, **{k: v for k, v in fields.items() if k in known})


@cache
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters)


def widget(kind: Any, id: str, **options: Any) -> Any:
    """`kind.Input(id, ...)` with the options this core knows, e.g. `widget(io.Int, "steps", default=28, advanced=True)`."""
    known = _parameters(kind.Input)
    return kind.Input(id, **{k: v for k, v in options.items() if k in known})


def mesh_input(id: str = "mesh", **options: Any) -> Any:
    """An input for an asset: MESH, and FILE_3D where the core has it. Read it with `meshes_in`."""
    return asset_input(id, MESH, *MESH_FILES, **options)


def asset_input(id: str, *kinds: Any, **options: Any) -> Any:
    """An input that takes any of these socket types; one alone is an ordinary input."""
    if len(kinds) == 1:
        return widget(kinds[0], id, **options)
    known = _parameters(io.MultiType.Input)
    return io.MultiType.Input(id, types=list(kinds), **{k: v for k, v in options.items() if k in known})


def precision_input() -> Any:
    """The precision widget of a loader."""
    return widget(
        io.Combo, "precision", options=["auto", "fp32", "bf16", "fp16"], default="auto", advanced=True,
        tooltip="Number format of the weights. auto takes what suits the device; half precision needs half the memory.",
    )


def download_input() -> Any:
    """The download widget of a loader."""
    return widget(
        io.Boolean, "download", default=False,
        tooltip="Fetch the chosen weights from Hugging Face if they are not on this machine. Nothing is fetched while this is off.",
    )


def color_in(text: str) -> tuple[float, float, float]:
    """A colour written as #rrggbb, #rgb or white, grey, black -> sRGB in [0, 1].

    Raises:
        ValueError: anything else.
    """
    digits = {"white": "ffffff", "grey": "7f7f7f", "gray": "7f7f7f", "black": "000000"}.get(text.strip().lower(), text.strip().lstrip("#"))
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    try:
        red, green, blue = bytes.fromhex(digits) if len(digits) == 6 else b""
    except ValueError:
        raise ValueError(f"{text!r} is no colour: write #ffffff, or white, grey or black.") from None
    return red / 255, green / 255, blue / 255


# ---- IMAGE and MASK --------------------------------------------------------------------------------------------------


def images_in(image: Tensor) -> Tensor:
    """IMAGE (N, H, W, C) -> (N, 3, H, W) float32 in [0, 1]. An alpha channel is dropped (see `alpha_in`), grey is repeated; whole numbers
    of 8 and 16 bits, which some nodes hand on, are brought to that range.

    Raises:
        ValueError: another shape, no pixels, or pixels that are not finite.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"An IMAGE of shape (count, height, width, 1, 3 or 4 channels) is expected, this one is {tuple(image.shape)}.")
    pixels = _shares(image[..., :3]).movedim(-1, 1)
    bad = ~torch.isfinite(pixels).flatten(1).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(f"Image {first} holds pixels that are NaN or infinite; the node before made them (often a VAE in half precision).")
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    return pixels.clamp(0, 1).contiguous()


def alpha_in(image: Tensor) -> Tensor | None:
    """The alpha of a four-channel IMAGE as (N, 1, H, W), 1 = object; None where the image has none."""
    if image.ndim != 4 or image.shape[-1] != 4:
        return None
    return _shares(image[..., 3]).clamp(0, 1)[:, None].contiguous()


def _shares(values: Tensor) -> Tensor:
    """float32, whole numbers as shares of the largest their kind holds."""
    full = {torch.uint8: 255, torch.uint16: 65535}.get(values.dtype)
    return values.to(torch.float32) if full is None else values.to(torch.float32) / full


def images_out(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> IMAGE (N, H, W, 3) float32 in [0, 1] on the CPU, without a gradient."""
    return images.detach().to("cpu", torch.float32).clamp(0, 1).movedim(1, -1).contiguous()


def masks_in(mask: Tensor) -> Tensor:
    """MASK (N, H, W) or (H, W) -> (N, 1, H, W) float32 in [0, 1]; which side is the object is the node's matter."""
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"A MASK of shape (count, height, width) is expected, this one is {tuple(mask.shape)}.")
    if not bool(torch.isfinite(mask).all()):
        raise ValueError("The mask holds numbers that are NaN or infinite.")
    return mask.to(torch.float32).clamp(0, 1)[:, None].contiguous()


def masks_out(masks: Tensor) -> Tensor:
    """(N, 1, H, W) -> MASK (N, H, W) float32 in [0, 1] on the CPU."""
    return masks.detach().to("cpu", torch.float32).clamp(0, 1)[:, 0].contiguous()


# ---- MESH ------------------------------------------------------------------------------------------------------------


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
    known = _parameters(Types.MESH)
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
    from ..pipelines.files import load_mesh

    if asset.is_disk_backed:
        return [load_mesh(Path(asset.get_source()))]
    with tempfile.TemporaryDirectory() as folder:
        return [load_mesh(Path(asset.save_to(str(Path(folder) / f"asset.{asset.format or 'glb'}"))))]
