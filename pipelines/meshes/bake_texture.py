"""Textures: baked from a field, or from pictures of the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.field import Field
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..ops import camera_math
from ..ops.mesh_colors import base_color, is_colored
from ..ops.mesh_tools import face_vectors, vertex_normals
from ..ops.texture_bake import SeenDepth, Texels, fill_gaps, look_up, nearest_colors, seen_depth, texels
from ..ops.texture_sampling import sample_texture
from .extract import POINTS_AT_ONCE
from .unwrap import unwrap

SMALLEST, LARGEST = 16, 8192
GAPS_AT_ONCE = 1 << 16  # the search takes about a second for so many


def bake_from_field(mesh: Mesh, field: Field, size: int = 1024, *, device: torch.device | str = "cpu", tick: Tick = no_tick) -> Mesh:
    """The mesh with a texture of `size` x `size` that holds the field's colour at each texel's place on the surface.

    A mesh without uvs is unwrapped first. Texels outside the charts take the nearest colour. Vertex colours, which would multiply
    the texture, are dropped; alpha, normals and the other maps stay.

    Args:
        device: where the field is evaluated.
        tick: called for each part of the texture.

    Raises:
        ValueError: no faces, a size out of range, or uvs that cover nothing or leave the unit square.
    """
    mesh = _unwrapped(mesh, size, tick)
    assert mesh.uvs is not None
    field = field.to(device)
    texture = torch.zeros(size * size, 3)
    covered = torch.zeros(size * size, dtype=torch.bool)
    with torch.no_grad():
        for part in texels(mesh.uvs, mesh.faces, size):
            places = part.read(mesh.vertices, mesh.faces)
            for index, points in zip(part.index.split(POINTS_AT_ONCE), places.split(POINTS_AT_ONCE), strict=True):
                if len(index):
                    tick(int(index[0]), size * size)
                    texture[index] = field.color(points.to(device)).float().cpu()
            covered[part.index] = True
    _require_cover(covered)
    texture = fill_gaps(texture.reshape(size, size, 3), covered.reshape(size, size)).clamp(0, 1)
    tick(size * size, size * size)
    return _painted(mesh, texture)


def bake_from_views(
    mesh: Mesh,
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    size: int = 1024,
    view_weights: Sequence[float] | None = None,
    sharpness: float = 4.0,
    fill: Literal["existing", "nearest"] = "existing",
    tick: Tick = no_tick,
) -> tuple[Mesh, Tensor]:
    """The mesh with a texture projected from pictures of it, and which texels some picture covers.

    Each texel takes the mean of the pictures that see it. A picture weighs cos(angle to the surface)^sharpness, times its own weight,
    and fades out beside silhouettes, steps in depth and the mask's outline, where its colours mix with what lies behind.

    Args:
        mesh: with uvs; one without is unwrapped first.
        images: (V, 3, H, W) sRGB in [0, 1].
        masks: (V, 1, H, W), 1 = object; None trusts the mesh's own silhouette.
        cameras: V cameras of one asset.
        view_weights: V numbers >= 0; None means all 1.
        sharpness: 1 blends broadly, 8 nearly takes the picture that looks straightest.
        fill: what uncovered texels get: "existing" keeps the mesh's texture or vertex colours where it has them and blends into them,
            "nearest" (and "existing" on a bare mesh) spreads the colours of the nearest covered surface that faces the same way.

    Returns:
        the mesh without vertex colours, its alpha, normals and other maps as they were; and the coverage (size, size): 1 where a
        picture gave the colour.

    Raises:
        ValueError: numbers of pictures, masks, cameras and weights that differ, or no picture that sees the mesh.
    """
    weights = _checked_weights(images, masks, cameras, view_weights)
    cameras = cameras.for_pictures(*images.shape[2:])
    mesh = _unwrapped(mesh, size, tick)
    assert mesh.uvs is not None
    extent = float((mesh.vertices.max(0).values - mesh.vertices.min(0).values).norm())
    bake = _ViewBake(mesh, images.float(), masks, cameras, weights, sharpness, extent, tick)
    keep_old = fill == "existing" and is_colored(mesh)

    color, total = torch.zeros(size * size, 3), torch.zeros(size * size)
    inside = torch.zeros(size * size, dtype=torch.bool)
    for part in texels(mesh.uvs, mesh.faces, size):
        part_color, part_total = bake.blend(part, tick)
        if keep_old:
            share = (part_total / (0.05 * max(weights))).clamp(0, 1)[:, None]
            part_color = torch.lerp(_old_colors(mesh, part, size)[:, :3], part_color, share)
        color[part.index], total[part.index], inside[part.index] = part_color, part_total, True
    _require_cover(inside)
    seen = total > 1e-4 * max(weights)
    if not seen.any():
        raise ValueError("Texturing: no picture sees the mesh; check that cameras and images belong together and masks are not empty.")
    if not keep_old:
        _spread(mesh, color, seen, size, extent, tick)
    texture = fill_gaps(color.reshape(size, size, 3), inside.reshape(size, size)).clamp(0, 1)
    return _painted(mesh, texture), seen.reshape(size, size).float()


class _ViewBake:
    """The pictures, what each camera sees, and their blend at texels."""

    def __init__(
        self,
        mesh: Mesh,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        weights: list[float],
        sharpness: float,
        extent: float,
        tick: Tick,
    ) -> None:
        self.mesh, self.images, self.masks, self.cameras = mesh, images, masks, cameras
        self.weights, self.sharpness, self.bias = weights, sharpness, 0.01 * extent
        self.smooth = vertex_normals(mesh.vertices, mesh.faces)
        self.flat = F.normalize(face_vectors(mesh.vertices, mesh.faces), dim=1)
        pos = F.pad(mesh.vertices, (0, 1), value=1.0) @ camera_math.clip_matrices(cameras.c2w, cameras.K).transpose(1, 2)
        height, width = images.shape[2:]
        self.seen: list[SeenDepth] = []
        for v in range(cameras.n_views):
            tick(v, cameras.n_views)
            mask = None if masks is None else masks[v]
            self.seen.append(seen_depth(pos[v], mesh.faces, (height, width), mask, step=0.02 * extent, margin=2.0))

    def blend(self, part: Texels, tick: Tick) -> tuple[Tensor, Tensor]:
        """Blended colours (T, 3) and their total weights (T,), a few texels at a time."""
        colors, totals = [], []
        places = part.read(self.mesh.vertices, self.mesh.faces)
        normals = F.normalize(part.read(self.smooth, self.mesh.faces), dim=1)
        for rows in torch.arange(len(places)).split(POINTS_AT_ONCE):
            color, total = torch.zeros(len(rows), 3), torch.zeros(len(rows))
            for view, weight in enumerate(self.weights):
                tick(view, len(self.weights))
                if weight > 0:
                    at, amount = self._view(view, places[rows], normals[rows], self.flat[part.face[rows]])
                    amount = amount * weight
                    color += look_up(self.images[view : view + 1], at) * amount[:, None]
                    total += amount
            colors.append(color / total.clamp(min=1e-12)[:, None])
            totals.append(total)
        if not colors:
            return torch.zeros(0, 3), torch.zeros(0)
        return torch.cat(colors), torch.cat(totals)

    def _view(self, view: int, places: Tensor, normals: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Where one camera sees the places, (T, 2), and how much its picture is worth there, (T,)."""
        pose = self.cameras.c2w[view]
        at, depth = camera_math.project(places, pose[None], self.cameras.K[view][None])
        to_camera = F.normalize(pose[:3, 3] - places, dim=1)
        facing = (normals * to_camera).sum(1).clamp(min=0) ** self.sharpness
        # The smooth normal alone would let a camera colour a face that it sees edge-on or from behind.
        facing = facing * (((flat * to_camera).sum(1) - 0.05) / 0.2).clamp(0, 1)
        seen = self.seen[view]
        visible = (depth[0] > 0) & (depth[0] <= look_up(seen.depth, at[0])[:, 0] + self.bias)
        return at[0], facing * visible * look_up(seen.trust, at[0])[:, 0]


def _old_colors(mesh: Mesh, part: Texels, size: int) -> Tensor:
    """sRGB colours (T, 3) that the mesh had, or (T, 4) with alpha."""
    texture = None
    if mesh.texture is not None:
        column, row = part.index % size, part.index // size
        texture = sample_texture(mesh.texture, (torch.stack([column, row], dim=1) + 0.5) / size)
    colors = base_color(texture, None if mesh.vertex_colors is None else part.read(mesh.vertex_colors, mesh.faces))
    assert colors is not None
    return colors


def _painted(mesh: Mesh, texture: Tensor) -> Mesh:
    """The mesh with a new base colour (S, S, 3); where alpha counts, with the alpha it had."""
    size = len(texture)
    if mesh.material.alpha_mode != "OPAQUE" and mesh.uvs is not None and is_colored(mesh):
        alpha, covered = torch.ones(size * size, 1), torch.zeros(size * size, dtype=torch.bool)
        for part in texels(mesh.uvs, mesh.faces, size):
            old = _old_colors(mesh, part, size)
            alpha[part.index] = old[:, 3:] if old.shape[1] == 4 else torch.ones(len(old), 1)
            covered[part.index] = True
        texture = torch.cat([texture, fill_gaps(alpha.reshape(size, size, 1), covered.reshape(size, size))], dim=2)
    return replace(mesh, texture=texture, vertex_colors=None)


def _spread(mesh: Mesh, color: Tensor, seen: Tensor, size: int, extent: float, tick: Tick) -> None:
    """Writes into `color` the nearest seen colours wherever a texel was not seen.

    Nearness counts direction too, so that the front of something thin does not colour its back.
    """
    assert mesh.uvs is not None
    normals = vertex_normals(mesh.vertices, mesh.faces) * (0.1 * extent)
    surface = torch.cat([mesh.vertices, normals], dim=1)
    sources, gaps = [], []
    for part in texels(mesh.uvs, mesh.faces, size):
        where = part.read(surface, mesh.faces)
        known = seen[part.index]
        sources.append((where[known], color[part.index[known]]))
        gaps.append((part.index[~known], where[~known]))
    points, colors = (torch.cat(parts) for parts in zip(*sources, strict=True))
    index, wanted = (torch.cat(parts) for parts in zip(*gaps, strict=True))
    done = 0
    for rows, places in zip(index.split(GAPS_AT_ONCE), wanted.split(GAPS_AT_ONCE), strict=True):
        if len(rows):
            tick(done, len(index))
            color[rows] = nearest_colors(points, colors, places)
            done += len(rows)


def _unwrapped(mesh: Mesh, size: int, tick: Tick) -> Mesh:
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"Texturing: a texture of {size} pixels is out of range; use {SMALLEST} to {LARGEST}, 1024 to 4096 are usual.")
    if mesh.faces.shape[0] == 0:
        raise ValueError("Texturing: the mesh has no faces.")
    if mesh.uvs is None:
        return unwrap(mesh, texture_size=size, tick=tick)
    used = mesh.uvs[mesh.faces]
    if float(used.min()) < -1e-4 or float(used.max()) > 1 + 1e-4 or not torch.isfinite(used).all():
        raise ValueError("Texturing: the mesh's uvs leave the unit square (a repeating texture); unwrap it anew first.")
    return mesh


def _require_cover(covered: Tensor) -> None:
    if not covered.any():
        raise ValueError("Texturing: the mesh's uvs cover no texel (their faces have no area); unwrap it anew first.")


def _checked_weights(images: Tensor, masks: Tensor | None, cameras: Cameras, view_weights: Sequence[float] | None) -> list[float]:
    n = cameras.n_views
    if cameras.n_assets is not None:
        raise ValueError(f"Texturing takes the cameras of one asset, not those of {cameras.n_assets}: use cameras.of_asset(index).")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] != n:
        raise ValueError(f"Texturing: {n} cameras need as many images (V, 3, H, W), got {tuple(images.shape)}.")
    if not torch.isfinite(images).all():
        raise ValueError("Texturing: the images hold NaN or infinite numbers.")
    if masks is not None and (masks.ndim != 4 or masks.shape[0] != n or masks.shape[1] != 1):
        raise ValueError(f"Texturing: {n} images need as many masks (V, 1, H, W), got {tuple(masks.shape)}.")
    weights = [1.0] * n if view_weights is None else [float(weight) for weight in view_weights]
    if len(weights) != n or min(weights) < 0 or max(weights) == 0:
        raise ValueError(f"Texturing: {n} images need as many weights, none negative and not all 0, got {weights}.")
    return weights
