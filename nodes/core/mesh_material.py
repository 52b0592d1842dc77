"""Materials at MESH sockets: between the maps and the `material` dict of newer cores and Lathe's `Material`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...pipelines.data.material import Material
from ...pipelines.data.mesh import Mesh
from ...pipelines.ops.material_maps import freest_alpha_mode, glows_beyond_one, joint_maps, joint_material, resized
from ...pipelines.ops.mesh_colors import factored

log = logging.getLogger(__name__)

# Field of `Material` -> key of core's dict. Core's writer does not know the last two; Lathe's nodes do.
_FACTORS = {
    "metallic": "metallic_factor",
    "roughness": "roughness_factor",
    "occlusion_strength": "occlusion_strength",
    "normal_scale": "normal_scale",
    "emissive_factor": "emissive_factor",
    "emissive_strength": "emissive_strength",
    "double_sided": "double_sided",
    "alpha_mode": "alpha_mode",
    "alpha_cutoff": "alpha_cutoff",
}


def material_to_core(materials: list[Material]) -> dict[str, Any]:
    """The attributes of a core MESH that say what these materials say.

    A batch has one set of factors: where its materials differ, each one's are multiplied into its own maps.
    """
    if not _alike(materials):
        materials = _with_maps_for_all(materials)
    first = materials[0]
    plain = first.without_maps() == Material() or first.without_maps() == Material(unlit=True)
    return {
        "metallic_roughness": _stacked([material.metallic_roughness for material in materials]),
        "normal_map": _stacked([material.normal_map for material in materials]),
        "emissive": _stacked([material.emissive for material in materials]),
        "occlusion_in_mr": first.occlusion_in_red,
        "unlit": first.unlit,
        "material": None if plain and not first.maps() else {key: getattr(first, name) for name, key in _FACTORS.items()},
    }


def _alike(materials: list[Material]) -> bool:
    """Whether all have the same factors and maps of the same kinds."""
    first = materials[0]
    return all(
        material.without_maps() == first.without_maps()
        and material.maps().keys() == first.maps().keys()
        and material.occlusion_in_red == first.occlusion_in_red
        for material in materials
    )


def _with_maps_for_all(materials: list[Material]) -> list[Material]:
    """Materials that show the same with equal factors; what these cannot hold apart is said."""
    first = materials[0]
    names = ["alpha_mode", "double_sided", "unlit"] + (["alpha_cutoff"] if freest_alpha_mode(materials) == "MASK" else [])
    differ = [name.replace("_", " ") for name in names if any(getattr(m, name) != getattr(first, name) for m in materials)]
    if any(glows_beyond_one(material) for material in materials):
        differ.append("emission brighter than 1")
    if differ:
        log.warning("The meshes of a batch share one material, so %s cannot differ between them; save them one by one.", ", ".join(differ))
    sizes = [image.shape[:2] for material in materials for image in material.maps().values()]
    size = (max((h for h, _ in sizes), default=4), max((w for _, w in sizes), default=4))
    makers = joint_maps(materials)
    maps = [{name: make(material, *size) for name, make in makers.items()} for material in materials]
    return [replace(joint_material(materials, own), alpha_cutoff=first.alpha_cutoff) for own in maps]


def _stacked(maps: list[Tensor | None]) -> Tensor | None:
    """One picture a mesh, as large as the largest; all have one or none has."""
    there = [image for image in maps if image is not None]
    if not there:
        return None
    size = (max(image.shape[0] for image in there), max(image.shape[1] for image in there))
    return torch.stack([resized(image, *size) for image in there])


def material_from_core(core: Any, picture: Callable[[str], Tensor | None]) -> tuple[Material, Tensor]:
    """A core MESH's material, and the factor (4,), linear, of its base colour, read as core's own writer reads them.

    Args:
        picture: the (H, W, C) map of this name of the wanted mesh, or None.

    Raises:
        ValueError: what is no number, no colour, or as `Material`.
    """
    given = getattr(core, "material", None)
    given = given if isinstance(given, dict) else {}
    maps = {name: picture(name) for name in ("metallic_roughness", "normal_map", "emissive")}
    maps = {name: None if image is None else image[..., :3].contiguous() for name, image in maps.items()}
    factors: dict[str, Any] = {name: given[key] for name, key in _FACTORS.items() if given.get(key) is not None}
    own = 1.0 if maps["metallic_roughness"] is not None else None  # what core writes where no factor is told
    for name, default in (("metallic", 0.0), ("roughness", 1.0)):
        factors[name] = _number(factors.get(name, -1.0), name)
        if factors[name] < 0:
            factors[name] = default if own is None else own
    for name in ("occlusion_strength", "normal_scale", "emissive_strength", "alpha_cutoff"):
        if name in factors:
            factors[name] = _number(factors[name], name)
    for name in ("metallic", "roughness", "occlusion_strength"):
        if not 0 <= factors.get(name, 0.0) <= 1:
            raise ValueError(f"The MESH's material has {factors[name]:g} as {name}; a number from 0 to 1 is expected.")
    if factors.get("emissive_strength", 0.0) < 0:
        raise ValueError(f"The MESH's material has {factors['emissive_strength']:g} as emissive_strength; 0 or more is expected.")
    glow = _numbers(factors.get("emissive_factor", (0.0, 0.0, 0.0)), 3, "emissive_factor")
    factors["emissive_factor"] = (1.0, 1.0, 1.0) if maps["emissive"] is not None and not any(glow) else glow
    factors["double_sided"] = _flag(given.get("double_sided", bool(given)), "double_sided")
    red = _flag(getattr(core, "occlusion_in_mr", False), "occlusion_in_mr") and maps["metallic_roughness"] is not None
    material = Material(**maps, **factors, occlusion_in_red=red, unlit=_flag(getattr(core, "unlit", False), "unlit"))  # type: ignore[arg-type]
    factor = given.get("base_color_factor")
    base = (1.0, 1.0, 1.0, 1.0) if factor is None else _numbers(factor, 4, "base_color_factor")
    if not all(0 <= value <= 1 for value in base):
        raise ValueError(f"The MESH's material has {list(base)} as base_color_factor; numbers from 0 to 1 are expected.")
    return material, torch.tensor(base)


def with_factor(mesh: Mesh, factor: Tensor) -> Mesh:
    """The mesh with a linear factor (4,) multiplied into its texture, else into its vertices' colours."""
    if bool((factor == 1).all()):
        return mesh
    if mesh.texture is not None:
        return replace(mesh, texture=factored(mesh.texture, factor))
    own = torch.ones(len(mesh.vertices), 4)
    if mesh.vertex_colors is not None:
        own[:, : mesh.vertex_colors.shape[1]] = mesh.vertex_colors
    own = (own * factor).clamp(0, 1)
    return replace(mesh, vertex_colors=own if bool((own[:, 3] < 1).any()) else own[:, :3])


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"The MESH's {name} is a tensor of {value.numel()} values; one for all meshes is expected.")
    return bool(value)


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"The MESH's material has {value!r} as {name}; a number is expected.") from None


def _numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    items = list(value) if isinstance(value, (list, tuple, Tensor)) else [value]
    if len(items) == count - 1 == 3:
        items.append(1.0)
    if len(items) != count:
        raise ValueError(f"The MESH's material has {value!r} as {name}; {count} numbers are expected.")
    return tuple(_number(item, name) for item in items)
