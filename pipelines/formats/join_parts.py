"""The parts of a file as one mesh: one set of uvs, one texture, one material."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ..data.material import AlphaMode, Material
from ..data.mesh import FARTHEST, Mesh
from ..data.progress import Tick, no_tick
from ..ops.material_maps import freest_alpha_mode
from ..ops.mesh_colors import factored
from ..ops.mesh_tools import fitted, vertex_normals
from .atlas import note_sides, one_texture
from .parts import Contents, Look, Part, refuse_distant

_COARSE = 1e-4  # float32 steps beyond this fraction of a mesh's size would show


def join(contents: Contents, *, fit_radius: float | None = None, tick: Tick = no_tick) -> Mesh:
    """One mesh of all parts.

    Parts that share a material keep its texture; several textures become an atlas; without textures the materials' colours go to
    the vertices. What cannot be kept is noted in `contents`.

    Args:
        fit_radius: centre the bounding box on the origin and put the farthest vertex at this distance, in float64; None leaves the
            file's coordinates, unless they lie so far out that float32 would flatten the mesh: then it is moved, and that is noted.
        tick: called for each texture of an atlas.

    Raises:
        ValueError: no triangles, coordinates that no mesh can have, or no size to fit.
    """
    parts = [part for part in contents.parts if len(part.faces)]
    if not parts:
        raise ValueError("it holds no triangles; a point cloud or an empty scene cannot be used as a mesh")
    parts = _alike([_shown(part, contents) for part in parts])
    looks = list({id(part.look): part.look for part in parts}.values())
    if len(looks) > 1 and any(look.texture is not None or look.material.maps() for look in looks):
        parts = one_texture(parts, contents, tick)
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
        vertex_colors=_colors(parts, material, textured=texture is not None),
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
    refuse_distant(places)
    low, high = places.min(0), places.max(0)
    extent = float(np.linalg.norm(high - low))
    if fit_radius is not None:
        return fitted(torch.from_numpy(places), fit_radius).numpy()
    if float(np.abs(places).max()) * float(np.finfo(np.float32).eps) > _COARSE * extent > 0:
        middle = np.round((low + high) / 2)
        contents.note(
            f"it lies so far from the origin that its shape would be lost, and was moved by {', '.join(f'{-x:.10g}' for x in middle)}"
        )
        places = places - middle
    refuse_distant(places, FARTHEST)
    return places


def _alike(parts: list[Part]) -> list[Part]:
    """The parts, with equal looks made one object."""
    chosen: dict[int, Look] = {}
    alike: dict[Hashable, list[Look]] = {}  # looks that a glance does not tell apart
    digests: dict[int, bytes] = {}
    for look in (part.look for part in parts):
        if id(look) not in chosen:
            known = alike.setdefault(_glance(look), [])
            chosen[id(look)] = next((other for other in known if _equal_pictures(look, other, digests)), look)
            if chosen[id(look)] is look:
                known.append(look)
    return [part if chosen[id(part.look)] is part.look else replace(part, look=chosen[id(part.look)]) for part in parts]


def _pictures(look: Look) -> dict[str, np.ndarray | Tensor]:
    maps = dict[str, np.ndarray | Tensor](look.material.maps())
    return maps if look.texture is None else {"texture": look.texture, **maps}


def _glance(look: Look) -> Hashable:
    """All of a look but its pictures, and of these the size and a few texels."""
    few = (
        (name, *image.shape, np.asarray(image[:: 1 + len(image) // 4, :: 1 + image.shape[1] // 16]).tobytes())
        for name, image in _pictures(look).items()
    )
    return (tuple(look.factor.tolist()), look.material.occlusion_in_red, look.material.without_maps(), *few)


def _equal_pictures(one: Look, other: Look, digests: dict[int, bytes]) -> bool:
    """Whether pictures of the same names are equal, by digests made once for each (`digests`, by their ids)."""
    mine, theirs = _pictures(one), _pictures(other)
    for image in (*mine.values(), *theirs.values()):
        if id(image) not in digests:
            digests[id(image)] = blake2b(np.ascontiguousarray(image).data).digest()
    return all(digests[id(mine[name])] == digests[id(theirs[name])] for name in mine)


def _texture(look: Look, alpha_mode: AlphaMode) -> Tensor | None:
    """(H, W, 3 or 4) sRGB with the factor multiplied in; the fourth channel only where alpha counts."""
    if look.texture is None:
        return None
    painted = factored(torch.from_numpy(np.ascontiguousarray(look.texture)), torch.from_numpy(look.factor))
    return painted[..., :3].contiguous() if alpha_mode == "OPAQUE" else painted.contiguous()


def _colors(parts: list[Part], joint: Material, *, textured: bool) -> Tensor | None:
    """Linear (V, 3 or 4): the vertices' own colours, times their material's factor where no texture carries that.

    Alpha that a part's own material ignores or cuts otherwise than the joint one is settled here.
    """
    rows, plain = [], True
    for part in parts:
        own = np.ones((len(part.vertices), 4), np.float32)
        if part.colors is not None:
            own[:, : part.colors.shape[1]] = part.colors
            plain = False
        if not textured:
            own *= part.look.factor
            plain = plain and bool((part.look.factor == 1).all())
        material = part.look.material
        if material.alpha_mode == "OPAQUE":
            own[:, 3] = 1
        elif material.alpha_mode == "MASK" and (joint.alpha_mode, joint.alpha_cutoff) != ("MASK", material.alpha_cutoff):
            own[:, 3] = own[:, 3] >= material.alpha_cutoff
        rows.append(own)
    if plain:
        return None
    colors = torch.from_numpy(np.concatenate(rows)).clamp(0, 1)
    return colors if joint.alpha_mode != "OPAQUE" and bool((colors[:, 3] < 1).any()) else colors[:, :3].contiguous()


def _normals(parts: list[Part]) -> Tensor | None:
    if all(part.normals is None for part in parts):
        return None
    rows = []
    for part in parts:
        own = None if part.normals is None else torch.from_numpy(part.normals)
        unit = None if own is None else (own.norm(dim=1, keepdim=True) - 1).abs() < 0.1
        if own is None or unit is None or not bool(unit.all()):
            smooth = vertex_normals(torch.from_numpy(part.vertices - part.vertices.mean(0)), torch.from_numpy(part.faces)).float()
            own = smooth if own is None or unit is None else torch.where(unit, own, smooth)
        rows.append(torch.nn.functional.normalize(own, dim=1))
    return torch.cat(rows)


def _merged(parts: list[Part], looks: list[Look], contents: Contents) -> Material:
    """One material for parts without textures: the factors of the one with most faces, the freer of alpha mode and sides."""
    faces = [sum(len(part.faces) for part in parts if part.look is look) for look in looks]
    main = looks[int(np.argmax(faces))].material
    materials = [look.material for look in looks]
    for name in ("metallic", "roughness", "emissive_factor", "emissive_strength", "unlit"):
        if any(getattr(material, name) != getattr(main, name) for material in materials):
            contents.note(f"its materials differ in {name.replace('_', ' ')}; that of the largest counts for all")
    note_sides(materials, contents)
    return replace(main, alpha_mode=freest_alpha_mode(materials), double_sided=any(material.double_sided for material in materials))
