"""Where the textures of a glTF material lie, and how those that lie differently are brought to one layout.

A `Mesh` has one set of uvs. Lightmaps and occlusion usually lie on a set of their own, details on the base texture's at another scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.material import Material
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..meshes.resample import resample, smaller
from ..ops.texture_bake import texels
from .parts import Contents, Look, Part
from .texture_wrap import REPEAT, repeating

MOST_PIXELS = 4096  # a side of what is resampled
_LEAST_PIXELS = 256
_COARSEST = 4  # a layout that would make a texture this many times coarser does not serve
_CHECKED = 1024  # pixels a side at which overlaps are looked for
_FEW = 1e-3  # the share of overlaps, or of surface without uvs, that is overlooked
_PACKED = {"occlusion", "metallic-roughness"}  # they become one picture, so that both are resampled where one is
_FIELDS = {  # of Mesh and Material, in which `resample` takes the pictures
    "base colour": "texture",
    "normal": "normal_map",
    "metallic-roughness": "metallic_roughness",
    "emissive": "emissive",
    "occlusion": "texture",
}
_FARTHEST = 1e4  # uvs beyond this leave too few digits in float32


@dataclass(frozen=True)
class Placement:
    """How a texture lies on the surface: which TEXCOORD_n, its 2 x 3 matrix, and how it goes on outside the unit square."""

    uv_set: int
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    wrap: tuple[int, int]

    def uvs(self, sets: dict[int, np.ndarray]) -> np.ndarray | None:
        """The uvs (V, 2) of a primitive, the matrix applied; None where it has no such set."""
        uv, matrix = sets.get(self.uv_set), np.array(self.matrix)
        return uv if uv is None or np.array_equal(matrix, np.eye(2, 3)) else uv @ matrix[:, :2].T + matrix[:, 2]


Placed = dict[str, tuple[np.ndarray, Placement]]  # pictures (H, W, 3 or 4) by what they are for, and where each lies
User = tuple[Part, dict[int, np.ndarray]]  # a part without its look, and its sets of uvs


@dataclass(frozen=True)
class OneLayout:
    """Pictures that all lie as `placement` says; `size` is the side of those that were resampled, `coarser` that some lost by it."""

    images: dict[str, np.ndarray]
    placement: Placement
    size: int
    coarser: bool


def one_layout(found: Placed, users: list[User], contents: Contents, tick: Tick = no_tick) -> OneLayout | None:
    """The pictures in the first of their layouts that is unique, or None where none is.

    Unique: inside the unit square, and where two faces share a texel they show the same of the other pictures there. Pictures that lie
    in that layout stay as they are; the others are resampled, at least as fine as they were up to 4096 pixels a side.
    """
    users = list({id(sets): (part, sets) for part, sets in users}.values())  # instances share their sets
    places = list(dict.fromkeys(placement for _, placement in found.values()))
    reach = [uv for placement in places for _, sets in users if (uv := placement.uvs(sets)) is not None]
    if len(reach) < len(places) * len(users) or any(np.abs(uv).max(initial=0) > _FARTHEST for uv in reach):
        return None
    surface, sources = _surface(users), _sources(found, users, contents)
    for place in places:
        roles = {role for role, (_, placement) in found.items() if placement != place}
        if roles & _PACKED:
            roles |= _PACKED & found.keys()
        odd = {role: sources[role] for role in found if role in roles}
        layout = _joined([place.uvs(sets) for _, sets in users])
        area = _areas(layout, surface.faces).sum()
        if area <= 0 or not _unique(layout, surface, [uvs for _, uvs in odd.values()]):
            continue
        odd_areas = {role: float(_areas(uvs, surface.faces).sum() / area) for role, (_, uvs) in odd.items()}
        sides = {role: max(1.0, math.sqrt(odd_areas[role] * image.shape[0] * image.shape[1])) for role, (image, _) in odd.items()}
        if max(sides.values()) > _COARSEST * MOST_PIXELS:
            continue
        longest = {role: max(image.shape[:2]) for role, (image, _) in found.items()}
        size = min(MOST_PIXELS, math.ceil(max(_LEAST_PIXELS, *sides.values(), *longest.values())))
        images = {role: image for role, (image, _) in found.items() if role not in odd}
        # What is read at steps of several texels is made smaller first, or fine patterns would flicker.
        scales = {role: min(1.0, size / max(sides[role], *image.shape[:2])) for role, (image, _) in odd.items()}
        for roles_alike in _groups({role: uvs for role, (_, uvs) in odd.items()}):
            pictures = {role: smaller(odd[role][0], scales[role]) for role in roles_alike}
            images |= _resampled(pictures, odd[roles_alike[0]][1], layout, surface, size, tick)
        return OneLayout(images, Placement(place.uv_set, place.matrix, (REPEAT, REPEAT)), size, min(scales.values()) < 1)
    return None


def _surface(users: list[User]) -> Mesh:
    """All parts as one mesh about the origin, whose size does not matter here."""
    starts = np.cumsum([0, *(len(part.vertices) for part, _ in users)])
    places = np.concatenate([part.vertices for part, _ in users])
    places = places - places.mean(axis=0)
    normals = [part.normals for part, _ in users if part.normals is not None]
    return Mesh(
        torch.from_numpy((places / max(float(np.abs(places).max()), 1e-300)).astype(np.float32)),
        torch.from_numpy(np.concatenate([part.faces + start for (part, _), start in zip(users, starts[:-1], strict=True)])),
        normals=torch.from_numpy(np.concatenate(normals)) if len(normals) == len(users) else None,
    )


def _sources(found: Placed, users: list[User], contents: Contents) -> dict[str, tuple[Tensor, Tensor]]:
    """Each picture and its uvs, made to repeat."""
    out = {}
    for role, (image, placement) in found.items():
        uvs = [uv for _, sets in users if (uv := placement.uvs(sets)) is not None]
        look, uvs = repeating(Look(image), uvs, placement.wrap, contents)
        assert look.texture is not None
        out[role] = torch.from_numpy(np.ascontiguousarray(look.texture)), _joined(uvs)
    return out


def _joined(uvs: list[np.ndarray] | list[np.ndarray | None]) -> Tensor:
    return torch.from_numpy(np.concatenate([uv for uv in uvs if uv is not None]).astype(np.float32))


def _areas(points: Tensor, faces: Tensor) -> Tensor:
    """(F,) float64: twice the areas of triangles in the plane or in space."""
    a, b, c = (points.double()[faces[:, i]] for i in range(3))
    one, two = F.pad(b - a, (0, 3 - points.shape[1])), F.pad(c - a, (0, 3 - points.shape[1]))
    return torch.linalg.cross(one, two).norm(dim=1)


def _unique(layout: Tensor, surface: Mesh, others: list[Tensor]) -> bool:
    """Whether each texel of the layout stands for one place of all the `others`, uvs of pictures that repeat."""
    if float(layout.min()) < -_FEW or float(layout.max()) > 1 + _FEW:
        return False
    shown = _areas(surface.vertices, surface.faces)
    if float(shown[_areas(layout, surface.faces) <= 1e-12].sum()) > _FEW * float(shown.sum()):
        return False
    # The rasteriser keeps the first of the faces over a texel; turned round, the last.
    turned, covered, differ = surface.faces.flip(0), 0, 0
    for first, last in zip(texels(layout, surface.faces, _CHECKED), texels(layout, turned, _CHECKED), strict=True):
        covered += len(first.index)
        apart = torch.zeros(len(first.index), dtype=torch.bool)
        for uvs in others:
            step = first.read(uvs, surface.faces) - last.read(uvs, turned)
            apart |= ((step - step.round()).abs() > 1 / _CHECKED).any(dim=1)
        differ += int(apart.sum())
    return covered > 0 and differ <= _FEW * covered


def _groups(uvs: dict[str, Tensor]) -> list[list[str]]:
    """What pictures are for, those of equal uvs together: one pass over the surface does for them."""
    groups: list[list[str]] = []
    for role in uvs:
        fields = [{_FIELDS[other] for other in group} for group in groups]
        near = (g for g, taken in zip(groups, fields, strict=True) if _FIELDS[role] not in taken and torch.equal(uvs[g[0]], uvs[role]))
        group = next(near, None)
        if group is None:
            groups.append([role])
        else:
            group.append(role)
    return groups


def _resampled(given: dict[str, Tensor], uvs: Tensor, layout: Tensor, surface: Mesh, size: int, tick: Tick) -> dict[str, np.ndarray]:
    """(size, size, C) of each; the directions of a normal map are turned along."""
    fields: dict[str, Any] = {_FIELDS[role]: image for role, image in given.items()}
    texture = fields.pop("texture", None)
    material = Material(**{name: image[..., :3].contiguous() for name, image in fields.items()})
    old = Mesh(surface.vertices, surface.faces, uvs=uvs, texture=texture, material=material)
    new = Mesh(surface.vertices, surface.faces, uvs=layout, normals=surface.normals)
    made = resample(old, new, torch.arange(len(surface.vertices)), size, tick)
    return {role: made[_FIELDS[role]].numpy() for role in given}
