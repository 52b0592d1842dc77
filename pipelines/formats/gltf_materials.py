"""glTF 2.0 materials as `Look`s (Khronos glTF 2.0, section 3.9, and the extensions of `gltf_document.SUPPORTED`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data.material import Material
from .gltf_document import Gltf, natural
from .parts import Contents, Look
from .pictures import decode_picture
from .texture_wrap import CLAMP, MIRROR, REPEAT

_WRAPS = {10497: REPEAT, 33648: MIRROR, 33071: CLAMP}
_LOST = {  # of the extensions that change a surface's look, those that Material has no place for
    "KHR_materials_anisotropy": "anisotropy",
    "KHR_materials_clearcoat": "clear coat",
    "KHR_materials_diffuse_transmission": "diffuse transmission",
    "KHR_materials_dispersion": "dispersion",
    "KHR_materials_ior": "index of refraction",
    "KHR_materials_iridescence": "iridescence",
    "KHR_materials_sheen": "sheen",
    "KHR_materials_specular": "specular colour",
    "KHR_materials_transmission": "transmission",
    "KHR_materials_volume": "volume",
}


@dataclass(frozen=True)
class Placement:
    """How a texture lies on the surface: which TEXCOORD_n, its 2 x 3 matrix, and how it goes on outside the unit square."""

    uv_set: int
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    wrap: tuple[int, int]


@dataclass(frozen=True)
class Surface:
    """A material's look, and where its textures lie (None: it has no texture)."""

    look: Look
    placement: Placement | None


class Materials:
    """The materials of one file, read once each."""

    def __init__(self, gltf: Gltf, contents: Contents) -> None:
        self._gltf, self._contents = gltf, contents
        self._surfaces: dict[int | None, Surface] = {None: Surface(Look(), None)}
        self._pictures: dict[int, np.ndarray | None] = {}

    def surface(self, index: Any) -> Surface:
        """Material `index`; None is glTF's default material, white and matt in Lathe as core writes it."""
        if index not in self._surfaces:
            self._surfaces[index] = self._read(self._gltf.item("materials", index), natural(index, "material"))
        return self._surfaces[index]

    def _read(self, tree: dict[str, Any], index: int) -> Surface:
        name = f"material {tree.get('name') or index!r}"
        extensions = tree.get("extensions") or {}
        for extension in extensions:
            if extension in _LOST:
                self._contents.note(f"{name}: {_LOST[extension]} is left out ({extension})")
        shine = tree.get("pbrMetallicRoughness") or {}
        metallic, roughness = number(shine.get("metallicFactor", 1.0)), number(shine.get("roughnessFactor", 1.0))
        factor, base = numbers(shine.get("baseColorFactor", [1, 1, 1, 1]), 4), shine.get("baseColorTexture")
        older = extensions.get("KHR_materials_pbrSpecularGlossiness")
        if older is not None:
            factor, base = numbers(older.get("diffuseFactor", [1, 1, 1, 1]), 4), older.get("diffuseTexture")
            metallic, roughness = 0.0, 1.0 - number(older.get("glossinessFactor", 1.0))
            self._contents.note(f"{name}: of its specular colour and glossiness only the factor of glossiness is kept, as roughness")
            shine = {}
        infos = {
            "base colour": base,
            "normal": tree.get("normalTexture"),
            "metallic-roughness": shine.get("metallicRoughnessTexture"),
            "emissive": tree.get("emissiveTexture"),
            "occlusion": tree.get("occlusionTexture"),
        }
        images, placement = self._images(infos, name)
        alpha_mode = tree.get("alphaMode", "OPAQUE")
        if alpha_mode not in ("OPAQUE", "MASK", "BLEND"):
            self._contents.note(f"{name}: alpha mode {alpha_mode!r} is unknown and read as OPAQUE")
            alpha_mode = "OPAQUE"
        texture = images.get("base colour")
        if alpha_mode == "OPAQUE":
            factor[3] = 1.0
            texture = None if texture is None else texture[..., :3]
        shine_map, occlusion_in_red = _shine_map(images.get("metallic-roughness"), images.get("occlusion"))
        glow = extensions.get("KHR_materials_emissive_strength") or {}
        emissive = images.get("emissive")
        material = Material(
            metallic_roughness=shine_map,
            metallic=metallic,
            roughness=roughness,
            occlusion_in_red=occlusion_in_red,
            occlusion_strength=number((tree.get("occlusionTexture") or {}).get("strength", 1.0)),
            normal_map=_tensor(images.get("normal")),
            normal_scale=number((tree.get("normalTexture") or {}).get("scale", 1.0)),
            emissive=_tensor(emissive),
            emissive_factor=tuple(numbers(tree.get("emissiveFactor", [0, 0, 0]), 3).tolist()),  # type: ignore[arg-type]
            emissive_strength=number(glow.get("emissiveStrength", 1.0)),
            alpha_mode=alpha_mode,
            alpha_cutoff=number(tree.get("alphaCutoff", 0.5)),
            double_sided=bool(tree.get("doubleSided", False)),
            unlit="KHR_materials_unlit" in extensions,
        )
        look = Look(texture, factor.astype(np.float32), material)
        return Surface(self._glowing_as_colored(look, name), placement)

    def _glowing_as_colored(self, look: Look, name: str) -> Look:
        """A black surface that only glows, as unlit scans are often saved, shows its glow as colour."""
        glow = np.asarray(look.material.emissive_factor, np.float32)
        black = not look.factor[:3].any() or (look.texture is not None and not look.texture[..., :3].any())
        if not black or not glow.any():
            return look
        self._contents.note(f"{name} is black and only glows: what it emits is taken as its colour, unlit")
        texture = None if look.material.emissive is None else look.material.emissive.numpy()
        if texture is not None and look.texture is not None and look.texture.shape[2] == 4 and look.texture.shape[:2] == texture.shape[:2]:
            texture = np.concatenate([texture, look.texture[..., 3:]], axis=2)
        shown = replace(look.material, emissive=None, emissive_factor=(0.0, 0.0, 0.0), emissive_strength=1.0, unlit=True)
        return Look(texture, np.append(glow, look.factor[3]).astype(np.float32), shown)

    def _images(self, infos: dict[str, Any], name: str) -> tuple[dict[str, np.ndarray], Placement | None]:
        """The decoded textures of one material, and where they lie; those that lie elsewhere than the first are left out."""
        images: dict[str, np.ndarray] = {}
        placement: Placement | None = None
        for role, info in infos.items():
            if info is None:
                continue
            own = self._placement(info)
            if placement is not None and own != placement:
                self._contents.note(f"{name}: its {role} texture is left out, its UVs differ from those of the textures before")
                continue
            picture = self._picture(info.get("index"), f"the {role} texture of {name}")
            if picture is not None:
                images[role], placement = picture, own
        return images, placement

    def _placement(self, info: dict[str, Any]) -> Placement:
        shift = (info.get("extensions") or {}).get("KHR_texture_transform") or {}
        uv_set = natural(shift.get("texCoord", info.get("texCoord", 0)), "texCoord")
        (x, y), (sx, sy) = numbers(shift.get("offset", [0, 0]), 2).tolist(), numbers(shift.get("scale", [1, 1]), 2).tolist()
        cos, sin = math.cos(number(shift.get("rotation", 0.0))), math.sin(number(shift.get("rotation", 0.0)))
        texture = self._gltf.item("textures", info.get("index"))
        sampler = {} if texture.get("sampler") is None else self._gltf.item("samplers", texture["sampler"])
        wrap = tuple(_WRAPS.get(sampler.get(side, 10497), REPEAT) for side in ("wrapS", "wrapT"))
        return Placement(uv_set, ((cos * sx, sin * sy, x), (-sin * sx, cos * sy, y)), (wrap[0], wrap[1]))

    def _picture(self, index: Any, name: str) -> np.ndarray | None:
        """(H, W, 3 or 4) of a texture; None, with a note, where it cannot be had."""
        texture = self._gltf.item("textures", index)
        extensions = texture.get("extensions") or {}
        modern = [extensions[key].get("source") for key in ("EXT_texture_webp", "EXT_texture_avif") if key in extensions]
        foreign = [key for key in ("KHR_texture_basisu", "MSFT_texture_dds") if key in extensions]
        source = next((s for s in [*modern, texture.get("source")] if s is not None), None)
        if source is None:
            self._contents.note(f"{name} is left out, it is of a kind that is not read ({', '.join(foreign) or 'it names no picture'})")
            return None
        if source not in self._pictures:
            try:
                self._pictures[source] = decode_picture(self._bytes(self._gltf.item("images", source)), "its picture")
            except ValueError as error:
                self._pictures[source] = None
                self._contents.note(f"{name} is left out: {error}")
        return self._pictures[source]

    def _bytes(self, image: dict[str, Any]) -> bytes:
        return bytes(self._gltf.view(image["bufferView"])[0]) if "bufferView" in image else self._gltf.resource(image.get("uri"))


def _shine_map(shine: np.ndarray | None, occlusion: np.ndarray | None) -> tuple[torch.Tensor | None, bool]:
    """Metallic-roughness with the occlusion in its red channel, and whether there is any."""
    if occlusion is None:
        return _tensor(shine), False
    if shine is None:
        shine = np.ones_like(occlusion)
    red = torch.from_numpy(np.ascontiguousarray(occlusion[..., :1]))
    if occlusion.shape[:2] != shine.shape[:2]:
        red = torch.nn.functional.interpolate(red.movedim(-1, 0)[None], size=shine.shape[:2], mode="bilinear")[0].movedim(0, -1)
    return torch.cat([red, torch.from_numpy(np.ascontiguousarray(shine[..., 1:3]))], dim=2), True


def _tensor(image: np.ndarray | None) -> torch.Tensor | None:
    return None if image is None else torch.from_numpy(np.ascontiguousarray(image[..., :3]))


def number(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"it has {value!r} where a number is expected")
    return float(value)


def numbers(value: Any, count: int) -> np.ndarray:
    """(count,) float64.

    Raises:
        ValueError: another length, or what is no number.
    """
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"it has {value!r} where {count} numbers are expected")
    return np.array([number(v) for v in value])
