"""Differentiable rasterisation of triangle meshes, in the four steps of Laine et al. 2020 (arXiv 2011.03277).

Conventions: clip space is OpenGL's (y up, z in [-w, w], nearer is smaller); image row 0 is the top (y_ndc = +1); pixel
centres lie at +0.5; both sides of a face are drawn; a face with a corner at w <= 1e-8 is dropped whole (no near clipping),
and pixels outside -1 <= z/w <= 1 are not drawn.

Visibility is piecewise constant, so image gradients with respect to positions come from `interpolate` inside a face and
from `antialias` at silhouettes; without the latter most of them have the wrong sign.

Forms, chosen by `choose_backend`: on CUDA nvdiffrast, elsewhere numba (tensors of other devices are copied to the CPU and back); at last
the PyTorch form on the device.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..choose_backend import MESH, choose
from ..mesh_topology import Topology, make_topology
from . import torch_form

__all__ = ["Topology", "antialias", "interpolate", "make_topology", "rasterize_mesh"]


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(MESH, device)


def rasterize_mesh(pos: Tensor, tri: Tensor, size: tuple[int, int], behind: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The visible face at every pixel centre, and where on it the pixel lies.

    Args:
        pos: (B, V, 4) clip-space positions, float32 or float64.
        tri: (F, 3) int64 faces, shared by the batch.
        size: (H, W) in pixels.
        behind: (B, H, W) depths z/w; only what lies at or behind them is seen. None: all.

    Returns:
        face (B, H, W) int64, -1 on the background; perspective-correct barycentrics (B, H, W, 3); depth z/w (B, H, W).
        The last two are differentiable with respect to pos, and 0 on the background.
    """
    if pos.ndim != 3 or pos.shape[-1] != 4:
        raise ValueError(f"rasterize_mesh: pos must have shape (B, V, 4), not {tuple(pos.shape)}.")
    backend = backend_for(pos.device)
    face = backend.visibility(pos, tri, *size) if behind is None else backend.visibility(pos, tri, *size, behind)
    bary, zw = backend.barycentrics(pos, tri, face)
    return face, bary, zw


def interpolate(attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Vertex attributes at the pixels, differentiable with respect to attr and bary.

    Args:
        attr: (V, A), or (B, V, A) where each image has its own.
        tri, face, bary: the faces and what `rasterize_mesh` returned.

    Returns:
        (B, H, W, A), 0 on the background.
    """
    return backend_for(attr.device).interpolate(attr, tri, face, bary)


def antialias(img: Tensor, pos: Tensor, tri: Tensor, face: Tensor, zw: Tensor, topology: Topology) -> Tensor:
    """Blends pixels across visible silhouettes, which makes them move smoothly with the vertices (Laine et al. 2020, sec. 3.4).

    Where a silhouette edge passes between two neighbouring pixel centres at distance t from the one that shows its surface,
    that pixel takes the share 1/2 - t of the other's colour if t < 1/2, else the other takes t - 1/2 of its colour.
    The search starts from the edges of the mesh, not from the faces seen, so the number of crossings follows the length of the
    contour and not the size of the faces. Of several edges between two pixels the outermost counts.

    Args:
        img: (B, H, W, C) rendered values.
        pos, tri: as given to `rasterize_mesh`; face, zw: what it returned.
        topology: of `make_topology(tri)`, or `make_topology(tri, vertices)` for a mesh cut along texture seams.

    Returns:
        (B, H, W, C), differentiable with respect to img and pos. A pixel with contours on several sides can overshoot the
        range of its neighbours; clamp masks that must stay in [0, 1].
    """
    batch, height, width, channels = img.shape
    found = backend_for(pos.device).crossings(pos, tri, face, zw, topology)
    index, inner, outer, a, b, axis = found.unbind(-1)
    steep = axis == 0
    ends = pos[index[:, None], torch.stack([a, b], dim=-1)]
    x, y, _, _ = torch_form.screen(ends, height, width)
    along, across = torch.where(steep[:, None], x, y), torch.where(steep[:, None], y, x)
    column, row = (inner % width) + 0.5, torch.div(inner, width, rounding_mode="floor") + 0.5
    centre, line = torch.where(steep, column, row), torch.where(steep, row, column)
    share = (line - across[:, 0]) / (across[:, 1] - across[:, 0])
    crossing = along[:, 0] + share * (along[:, 1] - along[:, 0])
    distance = (crossing - centre) * torch.where(outer > inner, 1, -1)
    flat = img.reshape(batch * height * width, channels)
    inner, outer = inner + index * (height * width), outer + index * (height * width)
    amount = (0.5 - distance).to(img.dtype)[:, None] * (flat[outer] - flat[inner])
    return flat.index_add(0, torch.where(distance < 0.5, inner, outer), amount).view_as(img)
