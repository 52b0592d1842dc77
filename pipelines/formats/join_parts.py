"""The parts of a file as one mesh: one set of uvs, one texture, one material."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data.material import AlphaMode, Material
from ..data.mesh import Mesh
from ..ops.color import linear_to_srgb, srgb_to_linear
from ..ops.mesh_tools import vertex_normals
from .atlas import one_texture
from .parts import Contents, Look, Part

_COARSE = 1e-4  # float32 steps beyond this fraction of a mesh's size would show


def join(contents: Contents, *, fit_radius: float | None = None) -> Mesh:
    """One mesh of all parts.

    Parts that share a material keep its texture; several textures become an atlas; without textures the materials' colours go to
    the vertices. What cannot be kept is noted in `contents`.

    Args:
        fit_radius: centre the bounding box on the origin and put the farthest vertex at this distance, in float64; None leaves the
            file's coordinates, unless they lie so far out that float32 would flatten the mesh: then it is moved, and that is noted.

    Raises:
        ValueError: no triangles, coordinates that no mesh can have, or no size to fit.
    """
    parts = [part for part in contents.parts if len(part.faces)]
    if not parts:
        raise ValueError("it holds no triangles; a point cloud or an empty scene cannot be used as a mesh")
    parts = _alike([_shown(part, contents) for part in parts])
    looks = list({id(part.look): part.look for part in parts}.values())
    if len(looks) > 1 and any(look.texture is not None or look.material.maps() for look in looks):
        parts = one_texture(parts, looks, contents)
        looks = [parts[0].look]
    material = looks[0].material if len(looks) == 1 else _merged(parts, looks, contents)
    texture = None if len(looks) > 1 else _texture(looks[0], material.alpha_mode)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    places = np.concatenate([part.vertices for part in parts])
    uvs = None if any(part.uvs is None for part in parts) else np.concatenate([part.uvs for part in parts if part.uvs is not None])
    tangents = [part.tangents for part in parts if part.tangents is not None]
    return Mesh(
        vertices=torch.from_numpy(_placed(places, fit_radius, contents).astype(np.float32)),
        faces=torch.from_numpy(np.concatenate([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)])),
        uvs=None if uvs is None else torch.from_numpy(uvs.astype(np.float32)),
        texture=texture,
        vertex_colors=_colors(parts, textured=texture is not None, see_through=material.alpha_mode != "OPAQUE"),
        normals=_normals(parts),
        tangents=torch.from_numpy(np.concatenate(tangents)) if len(tangents) == len(parts) else None,
        material=material,
    )


def _shown(part: Part, contents: Contents) -> Part:
    """A part without uvs cannot show its look's pictures: the factors stay."""
    if part.uvs is not None or (part.look.texture is None and not part.look.material.maps()):
        return part
    contents.note("an object without UVs has a material with pictures, which are left out there")
    return replace(part, look=Look(None, part.look.factor, part.look.material.without_maps()))


def _placed(places: np.ndarray, fit_radius: float | None, contents: Contents) -> np.ndarray:
    low, high = places.min(0), places.max(0)
    extent = float(np.linalg.norm(high - low))
    if fit_radius is not None:
        centred = places - (low + high) / 2
        farthest = float(np.linalg.norm(centred, axis=1).max())
        if farthest <= 0:
            raise ValueError("it is a single point, so it has no size to fit")
        return centred * (fit_radius / farthest)
    if float(np.abs(places).max()) * float(np.finfo(np.float32).eps) > _COARSE * extent > 0:
        middle = np.round((low + high) / 2)
        contents.note(
            f"it lies so far from the origin that its shape would be lost, and was moved by {', '.join(f'{-x:.10g}' for x in middle)}"
        )
        return places - middle
    return places


def _alike(parts: list[Part]) -> list[Part]:
    """The parts, with equal looks made one object."""
    known: list[Look] = []
    out = []
    for part in parts:
        same = next((look for look in known if look is part.look or _equal(look, part.look)), None)
        if same is None:
            known.append(part.look)
        out.append(part if same is None else replace(part, look=same))
    return out


def _equal(one: Look, other: Look) -> bool:
    if not np.array_equal(one.factor, other.factor) or (one.texture is None) != (other.texture is None):
        return False
    if one.texture is not None and other.texture is not None and not np.array_equal(one.texture, other.texture):
        return False
    mine, theirs = one.material.maps(), other.material.maps()
    if mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine):
        return False
    return one.material.occlusion_in_red == other.material.occlusion_in_red and one.material.without_maps() == other.material.without_maps()


def _texture(look: Look, alpha_mode: AlphaMode) -> Tensor | None:
    """(H, W, 3 or 4) sRGB with the factor multiplied in; the fourth channel only where alpha counts."""
    if look.texture is None:
        return None
    picture = torch.from_numpy(np.ascontiguousarray(look.texture))
    color, factor = picture[..., :3], torch.from_numpy(look.factor)
    if not bool((factor[:3] == 1).all()):
        color = linear_to_srgb(srgb_to_linear(color) * factor[:3]).clamp(0, 1)
    if alpha_mode == "OPAQUE" or (picture.shape[2] == 3 and factor[3] == 1):
        return color.contiguous()
    alpha = picture[..., 3:] if picture.shape[2] == 4 else torch.ones_like(picture[..., :1])
    return torch.cat([color, (alpha * factor[3]).clamp(0, 1)], dim=2)


def _colors(parts: list[Part], *, textured: bool, see_through: bool) -> Tensor | None:
    """Linear (V, 3 or 4): the vertices' own colours, times their material's factor where no texture carries that."""
    rows, plain = [], True
    for part in parts:
        own = np.ones((len(part.vertices), 4), np.float32)
        if part.colors is not None:
            own[:, : part.colors.shape[1]] = part.colors
            plain = False
        if not textured:
            own *= part.look.factor
            plain = plain and bool((part.look.factor == 1).all())
        if part.look.material.alpha_mode == "OPAQUE":
            own[:, 3] = 1
        rows.append(own)
    if plain:
        return None
    colors = torch.from_numpy(np.concatenate(rows)).clamp(0, 1)
    return colors if see_through and bool((colors[:, 3] < 1).any()) else colors[:, :3].contiguous()


def _normals(parts: list[Part]) -> Tensor | None:
    if all(part.normals is None for part in parts):
        return None
    rows = []
    for part in parts:
        smooth = vertex_normals(torch.from_numpy(part.vertices - part.vertices.mean(0)), torch.from_numpy(part.faces)).float()
        own = smooth if part.normals is None else torch.from_numpy(part.normals)
        unit = (own.norm(dim=1, keepdim=True) - 1).abs() < 0.1
        rows.append(torch.where(unit, torch.nn.functional.normalize(own, dim=1), smooth))
    return torch.cat(rows)


def _merged(parts: list[Part], looks: list[Look], contents: Contents) -> Material:
    """One material for parts without textures: the factors of the one with most faces, the freer of alpha mode and sides."""
    faces = [sum(len(part.faces) for part in parts if part.look is look) for look in looks]
    main = looks[int(np.argmax(faces))].material
    materials = [look.material for look in looks]
    for name in ("metallic", "roughness", "emissive_factor", "emissive_strength", "unlit"):
        if any(getattr(material, name) != getattr(main, name) for material in materials):
            contents.note(f"its materials differ in {name.replace('_', ' ')}; that of the largest counts for all")
    modes = {material.alpha_mode for material in materials}
    mode: AlphaMode = "BLEND" if "BLEND" in modes else "MASK" if "MASK" in modes else "OPAQUE"
    sides = any(material.double_sided for material in materials)
    if sides and not all(material.double_sided for material in materials):
        contents.note("some of its materials show from behind; now all of it does")
    return replace(main, alpha_mode=mode, double_sided=sides)
