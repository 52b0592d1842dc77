"""Several textures as one: each in a cell of an atlas, with the uvs of its parts moved there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.material import AlphaMode, Material
from ..ops.color import linear_to_srgb, srgb_to_linear
from .parts import Contents, Look, Part
from .pictures import LARGEST_SIDE

_BORDER = 4  # texels around each cell, for filtering and mip levels
_PLAIN = 4  # side of the cell of a look without pictures
_MOST_TILES = 4096  # pixels a side that a repeating texture is laid out over
_SLACK = 1e-4


def one_texture(parts: list[Part], looks: list[Look], contents: Contents) -> list[Part]:
    """The parts with uvs into one atlas, all with the one look that holds it."""
    parts = [_in_reach(_with_uvs(part)) for part in parts]
    looks = list({id(part.look): part.look for part in parts}.values())
    mode = _alpha_mode(looks)
    sheets = [_sheet(look, mode, [p for p in parts if p.look is look], contents) for look in looks]
    corners, size, shrink = _packed([(sheet.height, sheet.width) for sheet in sheets])
    if shrink < 1:
        contents.note(f"its {len(sheets)} textures do not fit one of {LARGEST_SIDE} pixels; they were made {1 / shrink:.1f} times smaller")
    whole: dict[str, Tensor] = {}
    for sheet, (row, column) in zip(sheets, corners, strict=True):
        height, width = max(1, round(sheet.height * shrink)), max(1, round(sheet.width * shrink))
        for name, image in sheet.images.items():
            canvas = whole.setdefault(name, torch.zeros(size[0], size[1], image.shape[2]))
            cell = _bordered(_resized(image, height, width))
            canvas[row : row + cell.shape[0], column : column + cell.shape[1]] = cell
        sheet.place = (column + _BORDER, row + _BORDER, width / sheet.tiles[0], height / sheet.tiles[1])
    look = _joint_look(looks, whole, mode, contents)
    placed = {id(own): sheet for own, sheet in zip(looks, sheets, strict=True)}
    return [_moved(part, placed[id(part.look)], size, look) for part in parts]


@dataclass
class _Sheet:
    """One look's pictures (height, width, C) over the tiles (across, down) that its parts reach, and its place in the atlas: column
    and row in pixels, and pixels a tile."""

    images: dict[str, Tensor]
    tiles: tuple[int, int]
    place: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def height(self) -> int:
        return int(self.images["base"].shape[0])

    @property
    def width(self) -> int:
        return int(self.images["base"].shape[1])


def _with_uvs(part: Part) -> Part:
    """A part without uvs, whose look has no pictures, reads its factors in the middle of their cell."""
    return part if part.uvs is not None else replace(part, uvs=np.full((len(part.vertices), 2), 0.5))


def _in_reach(part: Part) -> Part:
    """The part with the uvs of each face moved by whole tiles, which changes nothing of a repeating texture, next to the origin."""
    assert part.uvs is not None
    corners = part.uvs[part.faces]
    shift = np.floor(corners.min(axis=1) + _SLACK)
    if not shift.any():
        return part
    pairs = np.concatenate([part.faces.reshape(-1, 1), np.repeat(shift, 3, axis=0).astype(np.int64)], axis=1)
    rows, index = np.unique(pairs, axis=0, return_inverse=True)
    source = rows[:, 0]
    return Part(
        vertices=part.vertices[source],
        faces=index.reshape(-1, 3),
        look=part.look,
        uvs=part.uvs[source] - rows[:, 1:],
        colors=None if part.colors is None else part.colors[source],
        normals=None if part.normals is None else part.normals[source],
        tangents=None if part.tangents is None else part.tangents[source],
    )


def _sheet(look: Look, mode: AlphaMode, users: list[Part], contents: Contents) -> _Sheet:
    material = look.material
    sizes = [image.shape[:2] for image in material.maps().values()] + ([] if look.texture is None else [look.texture.shape[:2]])
    height, width = (max(side) for side in zip(*sizes, strict=True)) if sizes else (_PLAIN, _PLAIN)
    reach = np.max([part.uvs.max(axis=0) for part in users if part.uvs is not None], axis=0)
    across, down = (max(1, int(np.ceil(r - _SLACK))) for r in reach) if sizes else (1, 1)
    if max(across * width, down * height) > _MOST_TILES and across * down > 1:
        width, height = (min(side, max(1, _MOST_TILES // n)) for side, n in ((width, across), (height, down)))
        contents.note("a texture that repeats many times within a face got coarser in the atlas")
    images = {
        "base": _base(look, mode, height, width),
        "metallic_roughness": _shine(material, height, width),
        "normal_map": _normal(material, height, width),
        "emissive": _glow(material, height, width),
    }
    return _Sheet({name: image.repeat(down, across, 1) for name, image in images.items()}, (across, down))


def _base(look: Look, mode: AlphaMode, height: int, width: int) -> Tensor:
    texture = torch.ones(1, 1, 4) if look.texture is None else torch.from_numpy(np.ascontiguousarray(look.texture))
    texture = _resized(texture, height, width)
    factor, material = torch.from_numpy(look.factor), look.material
    color = linear_to_srgb(srgb_to_linear(texture[..., :3]) * factor[:3]).clamp(0, 1) if bool((factor[:3] != 1).any()) else texture[..., :3]
    alpha = texture[..., 3:] * factor[3] if texture.shape[2] == 4 else factor[3].expand(height, width, 1)
    if material.alpha_mode == "OPAQUE":
        alpha = torch.ones_like(alpha)
    elif material.alpha_mode == "MASK" and (mode == "BLEND" or material.alpha_cutoff != 0.5):
        alpha = (alpha >= material.alpha_cutoff).float()
    return color if mode == "OPAQUE" else torch.cat([color, alpha.clamp(0, 1)], dim=2)


def _shine(material: Material, height: int, width: int) -> Tensor:
    image = torch.ones(1, 1, 3) if material.metallic_roughness is None else material.metallic_roughness
    image = _resized(image, height, width) * torch.tensor([1.0, material.roughness, material.metallic])
    occlusion = 1 + material.occlusion_strength * (image[..., :1] - 1) if material.occlusion_in_red else torch.ones_like(image[..., :1])
    return torch.cat([occlusion, image[..., 1:]], dim=2).clamp(0, 1)


def _normal(material: Material, height: int, width: int) -> Tensor:
    image = torch.tensor([[[0.5, 0.5, 1.0]]]) if material.normal_map is None else material.normal_map
    vector = (_resized(image, height, width) * 2 - 1) * torch.tensor([material.normal_scale, material.normal_scale, 1.0])
    return F.normalize(vector, dim=2) / 2 + 0.5


def _glow(material: Material, height: int, width: int) -> Tensor:
    image = torch.ones(1, 1, 3) if material.emissive is None else material.emissive
    amount = torch.tensor(material.emissive_factor) * material.emissive_strength
    return linear_to_srgb((srgb_to_linear(_resized(image, height, width)) * amount).clamp(0, 1))


def _bordered(image: Tensor) -> Tensor:
    """With a border in which the picture goes on as if it repeated, as a filter would see it there."""
    rows, columns = (torch.arange(-_BORDER, size + _BORDER) % size for size in image.shape[:2])
    return image[rows][:, columns]


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if tuple(image.shape[:2]) == (height, width):
        return image
    moved = image.movedim(-1, 0)[None]
    return F.interpolate(moved, size=(height, width), mode="bilinear", antialias=True)[0].movedim(0, -1)


def _alpha_mode(looks: list[Look]) -> AlphaMode:
    modes = {look.material.alpha_mode for look in looks}
    return "BLEND" if "BLEND" in modes else "MASK" if "MASK" in modes else "OPAQUE"


def _packed(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int], float]:
    """Row and column of each cell with its border, the atlas's height and width, and how much the cells shrank to fit."""
    from trimesh.path.packing import rectangles

    quiet, before = logging.getLogger("trimesh"), logging.getLogger("trimesh").disabled
    shrink = 1.0
    while True:
        cells = [[max(1, round(side * shrink)) + 2 * _BORDER for side in size] for size in sizes]
        quiet.disabled = True  # it logs each run
        try:
            bounds, _ = rectangles(np.array(cells), rotate=False, iterations=1)
        finally:
            quiet.disabled = before
        corners = np.rint(bounds[:, 0] - bounds[:, 0].min(axis=0)).astype(int)
        height, width = (corners + np.array(cells)).max(axis=0).tolist()
        if max(height, width) <= LARGEST_SIDE:
            return [(int(row), int(column)) for row, column in corners], (height, width), shrink
        shrink *= 0.8


def _joint_look(looks: list[Look], whole: dict[str, Tensor], mode: AlphaMode, contents: Contents) -> Look:
    """The look of the atlas; maps that no look needs are left away."""
    materials = [look.material for look in looks]
    first = materials[0]
    shines = any(m.metallic_roughness is not None for m in materials) or len({(m.metallic, m.roughness) for m in materials}) > 1
    glows = any(any(m.emissive_factor) for m in materials)
    if any(any(f * m.emissive_strength > 1 for f in m.emissive_factor) for m in materials):
        contents.note("some of its materials glow brighter than 1, which one texture cannot hold; they glow as 1")
    unlit = all(m.unlit for m in materials)
    if not unlit and any(m.unlit for m in materials):
        contents.note("some of its materials are unlit; in one texture with the others they are lit")
    sides = any(m.double_sided for m in materials)
    if sides and not all(m.double_sided for m in materials):
        contents.note("some of its materials show from behind; now all of it does")
    return Look(
        whole["base"].numpy(),
        np.ones(4, np.float32),
        Material(
            metallic_roughness=whole["metallic_roughness"] if shines else None,
            metallic=1.0 if shines else first.metallic,
            roughness=1.0 if shines else first.roughness,
            occlusion_in_red=any(m.occlusion_in_red for m in materials),
            normal_map=whole["normal_map"] if any(m.normal_map is not None for m in materials) else None,
            emissive=whole["emissive"] if glows else None,
            emissive_factor=(1.0, 1.0, 1.0) if glows else (0.0, 0.0, 0.0),
            alpha_mode=mode,
            double_sided=sides,
            unlit=unlit,
        ),
    )


def _moved(part: Part, sheet: _Sheet, size: tuple[int, int], look: Look) -> Part:
    assert part.uvs is not None
    column, row, across, down = sheet.place
    uvs = (np.array([column, row]) + part.uvs * np.array([across, down])) / np.array([size[1], size[0]])
    return replace(part, look=look, uvs=uvs)
