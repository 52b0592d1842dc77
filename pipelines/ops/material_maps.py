"""Maps of a material with its factors multiplied in, so that materials of different factors can share one set of maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.material import AlphaMode, Material
from .color import linear_to_srgb, srgb_to_linear


def shine_map(material: Material, height: int, width: int) -> Tensor:
    """Metallic-roughness (height, width, 3) for factors of 1, its red the occlusion, 1 without any."""
    image = torch.ones(1, 1, 3) if material.metallic_roughness is None else material.metallic_roughness
    image = resized(image, height, width) * torch.tensor([1.0, material.roughness, material.metallic])
    occlusion = 1 + material.occlusion_strength * (image[..., :1] - 1) if material.occlusion_in_red else torch.ones_like(image[..., :1])
    return torch.cat([occlusion, image[..., 1:]], dim=2).clamp(0, 1)


def normal_map(material: Material, height: int, width: int) -> Tensor:
    """Normals (height, width, 3) for a scale of 1."""
    image = torch.tensor([[[0.5, 0.5, 1.0]]]) if material.normal_map is None else material.normal_map
    vector = (resized(image, height, width) * 2 - 1) * torch.tensor([material.normal_scale, material.normal_scale, 1.0])
    return F.normalize(vector, dim=2) / 2 + 0.5


def glow_map(material: Material, height: int, width: int) -> Tensor:
    """What it emits (height, width, 3), sRGB, for factors of 1; what is brighter than 1 is 1."""
    image = torch.ones(1, 1, 3) if material.emissive is None else material.emissive
    amount = torch.tensor(material.emissive_factor) * material.emissive_strength
    return linear_to_srgb((srgb_to_linear(resized(image, height, width)) * amount).clamp(0, 1))


def glows_beyond_one(material: Material) -> bool:
    """Whether `glow_map` cannot hold what it emits."""
    return any(factor * material.emissive_strength > 1 for factor in material.emissive_factor)


MapMaker = Callable[[Material, int, int], Tensor]


def joint_maps(materials: Sequence[Material]) -> dict[str, MapMaker]:
    """What makes each map that some of these materials need once all have equal factors, by field name."""
    made: dict[str, MapMaker] = {}
    if any(m.metallic_roughness is not None for m in materials) or len({(m.metallic, m.roughness) for m in materials}) > 1:
        made["metallic_roughness"] = shine_map
    if any(m.normal_map is not None for m in materials):
        made["normal_map"] = normal_map
    if any(any(m.emissive_factor) for m in materials):
        made["emissive"] = glow_map
    return made


def joint_material(materials: Sequence[Material], maps: Mapping[str, Tensor]) -> Material:
    """One material for all of these, with maps made as `joint_maps` says; alpha and sides are the freest of theirs."""
    shines, glows = "metallic_roughness" in maps, "emissive" in maps
    return Material(
        metallic_roughness=maps.get("metallic_roughness"),
        metallic=1.0 if shines else materials[0].metallic,
        roughness=1.0 if shines else materials[0].roughness,
        occlusion_in_red=shines and any(m.occlusion_in_red for m in materials),
        normal_map=maps.get("normal_map"),
        emissive=maps.get("emissive"),
        emissive_factor=(1.0, 1.0, 1.0) if glows else (0.0, 0.0, 0.0),
        alpha_mode=freest_alpha_mode(materials),
        double_sided=any(m.double_sided for m in materials),
        unlit=all(m.unlit for m in materials),
    )


def freest_alpha_mode(materials: Iterable[Material]) -> AlphaMode:
    """The mode in which all of them can be shown: BLEND before MASK before OPAQUE."""
    modes = {material.alpha_mode for material in materials}
    return "BLEND" if "BLEND" in modes else "MASK" if "MASK" in modes else "OPAQUE"


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """(H, W, C) at another height and width."""
    if tuple(image.shape[:2]) == (height, width):
        return image
    moved = image.movedim(-1, 0)[None]
    return F.interpolate(moved, size=(height, width), mode="bilinear", antialias=True)[0].movedim(0, -1)
