"""Several textures as one: each in a cell of an atlas, with the uvs of its parts moved there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data.material import AlphaMode, Material
from ..data.progress import Tick, no_tick
from ..ops.material_maps import freest_alpha_mode, glows_beyond_one, joint_maps, joint_material, resized
from ..ops.mesh_colors import factored
from .parts import Contents, Look, Part
from .pictures import LARGEST_SIDE

_BORDER = 4  # texels around each cell, for filtering and mip levels
_PLAIN = 4  # side of the cell of a look without pictures
_MOST_TILES = 4096  # pixels a side that a repeating texture is laid out over
_MOST_REPEATS = 256  # of a texture along a side; what repeats more often within a face repeats less
_SLACK = 1e-4


def one_texture(parts: list[Part], contents: Contents, tick: Tick = no_tick) -> list[Part]:
    """The parts with uvs into one atlas, all with the one look that holds it."""
    parts = [_in_reach(_with_uvs(part)) for part in parts]
    looks = list({id(part.look): part.look for part in parts}.values())
    mode = freest_alpha_mode(look.material for look in looks)
    sheets = [_sheet(look, [p for p in parts if p.look is look], contents) for look in looks]
    corners, size, shrink = _packed([(sheet.height, sheet.width) for sheet in sheets])
    if shrink < 1:
        contents.note(f"its {len(sheets)} textures do not fit one of {LARGEST_SIDE} pixels; they were made {1 / shrink:.2f} times smaller")
    layers = _layers(looks, mode)
    whole: dict[str, Tensor] = {}
    for step, (sheet, (row, column)) in enumerate(zip(sheets, corners, strict=True)):
        tick(step, len(sheets))
        height, width = max(1, round(sheet.height * shrink)), max(1, round(sheet.width * shrink))
        for name, draw in layers.items():
            image = draw(sheet.look, *sheet.tile).repeat(sheet.tiles[1], sheet.tiles[0], 1)
            if name not in whole:
                whole[name] = torch.zeros(size[0], size[1], image.shape[2])
            cell = _bordered(resized(image, height, width))
            whole[name][row : row + cell.shape[0], column : column + cell.shape[1]] = cell
        sheet.place = (column + _BORDER, row + _BORDER, width / sheet.reach[0], height / sheet.reach[1])
    look = _joint_look(looks, whole, contents)
    placed = {id(sheet.look): sheet for sheet in sheets}
    return [_moved(part, placed[id(part.look)], size, look) for part in parts]


@dataclass
class _Sheet:
    """One look's cell.

    Attributes:
        tile: height and width of the look's pictures.
        tiles: how many of them lie across and down.
        reach: the squares of uvs, across and down, that they stand for: as many, unless that were too many.
        place: column and row in the atlas, and pixels a square of uvs.
    """

    look: Look
    tile: tuple[int, int]
    tiles: tuple[int, int]
    reach: tuple[float, float]
    place: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def height(self) -> int:
        return self.tile[0] * self.tiles[1]

    @property
    def width(self) -> int:
        return self.tile[1] * self.tiles[0]


def _layers(looks: list[Look], mode: AlphaMode) -> dict[str, Callable[[Look, int, int], Tensor]]:
    """The maps that some look needs, and what draws them (height, width, C) for a look."""
    layers: dict[str, Callable[[Look, int, int], Tensor]] = {"base": lambda look, *size: _base(look, mode, *size)}
    for name, make in joint_maps([look.material for look in looks]).items():
        layers[name] = lambda look, *size, make=make: make(look.material, *size)
    return layers


def _with_uvs(part: Part) -> Part:
    """A part whose look has no pictures reads its factors in the middle of their cell, whatever uvs it has."""
    if part.uvs is not None and (part.look.texture is not None or part.look.material.maps()):
        return part
    return replace(part, uvs=np.full((len(part.vertices), 2), 0.5))


def _in_reach(part: Part) -> Part:
    """The part with the uvs of each face moved by whole tiles, which changes nothing of a repeating texture, next to the origin."""
    assert part.uvs is not None
    corners = part.uvs[part.faces]
    shift = np.floor(corners.min(axis=1) + _SLACK)
    if not shift.any():
        return part
    pairs = np.concatenate([part.faces.reshape(-1, 1), np.repeat(shift, 3, axis=0)], axis=1)
    rows, index = np.unique(pairs, axis=0, return_inverse=True)
    source = rows[:, 0].astype(np.int64)
    return Part(
        vertices=part.vertices[source],
        faces=index.reshape(-1, 3),
        look=part.look,
        uvs=part.uvs[source] - rows[:, 1:],
        colors=None if part.colors is None else part.colors[source],
        normals=None if part.normals is None else part.normals[source],
        tangents=None if part.tangents is None else part.tangents[source],
    )


def _sheet(look: Look, users: list[Part], contents: Contents) -> _Sheet:
    material = look.material
    sizes = [image.shape[:2] for image in material.maps().values()] + ([] if look.texture is None else [look.texture.shape[:2]])
    height, width = (max(side) for side in zip(*sizes, strict=True)) if sizes else (_PLAIN, _PLAIN)
    reach = np.max([part.uvs.max(axis=0) for part in users if part.uvs is not None], axis=0)
    across, down = (max(1.0, float(np.ceil(r - _SLACK))) for r in reach)
    tiles = (int(min(across, _MOST_REPEATS)), int(min(down, _MOST_REPEATS)))
    if max(tiles[0] * width, tiles[1] * height) > _MOST_TILES and tiles != (1, 1) or max(across, down) > _MOST_REPEATS:
        width, height = (min(side, max(1, _MOST_TILES // n)) for side, n in zip((width, height), tiles, strict=True))
        contents.note("a texture that repeats many times within a face got coarser in the atlas")
    return _Sheet(look, (height, width), tiles, (across, down))


def _base(look: Look, mode: AlphaMode, height: int, width: int) -> Tensor:
    texture = torch.ones(1, 1, 4) if look.texture is None else torch.from_numpy(np.ascontiguousarray(look.texture))
    texture = resized(texture, height, width)
    material, painted = look.material, factored(texture, torch.from_numpy(look.factor))
    color, alpha = painted[..., :3], painted[..., 3:] if painted.shape[2] == 4 else torch.ones(height, width, 1)
    if material.alpha_mode == "OPAQUE":
        alpha = torch.ones_like(alpha)
    elif material.alpha_mode == "MASK" and (mode == "BLEND" or material.alpha_cutoff != 0.5):
        alpha = (alpha >= material.alpha_cutoff).float()
    return color if mode == "OPAQUE" else torch.cat([color, alpha], dim=2)


def _bordered(image: Tensor) -> Tensor:
    """With a border in which the picture goes on as if it repeated, as a filter would see it there."""
    rows, columns = (torch.arange(-_BORDER, size + _BORDER) % size for size in image.shape[:2])
    return image[rows][:, columns]


def _packed(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int], float]:
    """Row and column of each cell with its border, the atlas's height and width, and how much the cells shrank to fit."""
    shrink = 1.0
    while True:
        cells = [(max(1, round(height * shrink)) + 2 * _BORDER, max(1, round(width * shrink)) + 2 * _BORDER) for height, width in sizes]
        area = sum(height * width for height, width in cells)
        # The shelves' width is what differs; the squarest atlas wins.
        widths = {max(max(width for _, width in cells), math.ceil(math.sqrt(area) * factor)) for factor in np.arange(0.9, 1.6, 0.02)}
        corners, size = min((_on_shelves(cells, width) for width in sorted(widths)), key=lambda made: max(made[1]))
        if max(size) <= LARGEST_SIDE:
            return corners, size, shrink
        shrink *= min(0.99, LARGEST_SIDE / max(size))


def _on_shelves(cells: list[tuple[int, int]], most: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Row and column of each cell (height, width), the highest first in rows of at most `most` pixels; and the height and width of all."""
    corners = [(0, 0)] * len(cells)
    row = column = shelf = widest = 0
    for index in sorted(range(len(cells)), key=lambda i: cells[i], reverse=True):
        height, width = cells[index]
        if column and column + width > most:
            row, column, shelf = row + shelf, 0, 0
        corners[index] = (row, column)
        column, shelf = column + width, max(shelf, height)
        widest = max(widest, column)
    return corners, (row + shelf, widest)


def _joint_look(looks: list[Look], whole: dict[str, Tensor], contents: Contents) -> Look:
    """The look of the atlas."""
    materials = [look.material for look in looks]
    if any(glows_beyond_one(m) for m in materials):
        contents.note("some of its materials glow brighter than 1, which one texture cannot hold; they glow as 1")
    if any(m.unlit for m in materials) and not all(m.unlit for m in materials):
        contents.note("some of its materials are unlit; in one texture with the others they are lit")
    note_sides(materials, contents)
    base = whole.pop("base").numpy()
    return Look(base, np.ones(4, np.float32), joint_material(materials, whole))


def note_sides(materials: list[Material], contents: Contents) -> None:
    """Says it where only some of the materials that become one show from behind."""
    if any(m.double_sided for m in materials) and not all(m.double_sided for m in materials):
        contents.note("some of its materials show from behind; now all of it does")


def _moved(part: Part, sheet: _Sheet, size: tuple[int, int], look: Look) -> Part:
    assert part.uvs is not None
    column, row, across, down = sheet.place
    uvs = (np.array([column, row]) + part.uvs * np.array([across, down])) / np.array([size[1], size[0]])
    return replace(part, look=look, uvs=uvs)
