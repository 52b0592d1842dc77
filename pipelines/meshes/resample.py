"""A mesh's texture and maps, read into new uvs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..ops.mesh_tools import vertex_normals
from ..ops.texture_bake import Texels, fill_gaps, texels
from ..ops.texture_sampling import sample_texture


def resample(old: Mesh, new: Mesh, rows: Tensor, size: int, tick: Tick = no_tick) -> dict[str, Tensor]:
    """The texture and maps of `old` in the uvs of `new`, by field name ("texture", "normal_map", ...), (size, size, C) each.

    The directions of a normal map are turned from the old uvs' axes to the new ones.

    Args:
        old: with uvs; they may repeat.
        new: the same faces in the same order, with other uvs in the unit square.
        rows: (V',) the old vertex of each new one.
    """
    maps = dict(old.material.maps())
    if old.texture is not None:
        maps["texture"] = old.texture
    if not maps or old.uvs is None or new.uvs is None:
        return {}
    sources = {name: smaller(image, 2 * size / max(image.shape[:2])) for name, image in maps.items()}
    frames = _Frames(old, new) if "normal_map" in maps else None
    made = {name: torch.zeros(size * size, image.shape[2]) for name, image in maps.items()}
    covered = torch.zeros(size * size, dtype=torch.bool)
    for part in texels(new.uvs, new.faces, size):
        tick(int(part.index[0]) if len(part.index) else 0, size * size)
        where = part.read(old.uvs[rows], new.faces)
        for name, image in sources.items():
            values = sample_texture(image, where)
            made[name][part.index] = frames.turned(values, part) if frames is not None and name == "normal_map" else values
        covered[part.index] = True
    if not covered.any():
        return {}
    inside = covered.reshape(size, size)
    return {name: fill_gaps(image.reshape(size, size, -1), inside) for name, image in made.items()}


def smaller(image: Tensor, scale: float) -> Tensor:
    """A picture (H, W, C) that is not much finer than what is made of it, so that reading it skips no texel; never a larger one."""
    if scale >= 1:
        return image
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    return F.interpolate(image.movedim(-1, 0)[None], size=(height, width), mode="area")[0].movedim(0, -1)


class _Frames:
    """The axes of old and new uvs on each face, to turn tangent-space normals between them."""

    def __init__(self, old: Mesh, new: Mesh) -> None:
        assert old.uvs is not None and new.uvs is not None
        self._faces = new.faces
        self._normals = vertex_normals(new.vertices, new.faces) if new.normals is None else new.normals
        self._old, self._new = _uv_axes(old.vertices, old.faces, old.uvs), _uv_axes(new.vertices, new.faces, new.uvs)

    def turned(self, colors: Tensor, part: Texels) -> Tensor:
        """Values (T, 3) of the old normal map, as values of the new one."""
        up = F.normalize(part.read(self._normals, self._faces), dim=1)
        vector = colors * 2 - 1
        along, across = _orthonormal(self._old, part.face, up)
        there = vector[:, :1] * along + vector[:, 1:2] * across
        along, across = _orthonormal(self._new, part.face, up)
        turned = torch.stack([(there * along).sum(1), (there * across).sum(1), vector[:, 2]], dim=1)
        return turned / 2 + 0.5


def _uv_axes(vertices: Tensor, faces: Tensor, uvs: Tensor) -> tuple[Tensor, Tensor]:
    """Direction of growing u on each face (F, 3), and the side (F, 1) of it on which v falls: +1 or -1 times normal x direction."""
    a, b, c = vertices[faces].unbind(1)
    (du1, dv1), (du2, dv2) = ((uvs[faces[:, i]] - uvs[faces[:, 0]]).unbind(1) for i in (1, 2))
    determinant = (du1 * dv2 - du2 * dv1)[:, None]
    sign = torch.where(determinant < 0, -1.0, 1.0)
    along = sign * (dv2[:, None] * (b - a) - dv1[:, None] * (c - a))
    return along, -sign


def _orthonormal(axes: tuple[Tensor, Tensor], face: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions (T, 3) of u, and of falling v, in the planes across `up`."""
    along = axes[0][face]
    along = F.normalize(along - (along * up).sum(1, keepdim=True) * up, dim=1)
    return along, axes[1][face] * torch.linalg.cross(up, along)
