"""glTF 2.0 materials as `Look`s (Khronos glTF 2.0, section 3.9, and the extensions of `gltf_document.SUPPORTED`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data.material import Material
from ..data.progress import Tick, no_tick
from .gltf_document import Gltf, natural, shown
from .gltf_layouts import Placed, Placement, User, one_layout
from .parts import Contents, Look
from .pictures import decode_picture
from .texture_wrap import CLAMP, MIRROR, REPEAT

_BLACK = 0.04  # of white; the darkest that a compressed picture makes of black
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
class Surface:
    """A material on the parts that use it.

    Attributes:
        look: what it looks like.
        placement: where its textures lie; None: it has none.
        name: as messages name it.
        glows: what it emits was taken as its colour, which vertex colours do not multiply.
        turned: its normal map was brought to other uvs, which the file's tangents do not fit.
    """

    look: Look
    placement: Placement | None
    name: str = ""
    glows: bool = False
    turned: bool = False


class Materials:
    """The materials of one file; a picture that several use is read once."""

    def __init__(self, gltf: Gltf, contents: Contents, tick: Tick = no_tick) -> None:
        self._gltf, self._contents, self._tick = gltf, contents, tick
        self._pictures: dict[int, np.ndarray | None] = {}

    def surface(self, index: Any, users: list[User]) -> Surface:
        """Material `index` on all parts that use it; None is glTF's default material, white and matt in Lathe as core writes it."""
        if index is None:
            return Surface(Look(), None)
        return self._read(self._gltf.item("materials", index), natural(index, "material"), users)

    def _read(self, tree: dict[str, Any], index: int, users: list[User]) -> Surface:
        name = f"material {shown(tree.get('name') or index)}"
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
        images, placement, turned = self._images(infos, name, users)
        alpha_mode = tree.get("alphaMode", "OPAQUE")
        if alpha_mode not in ("OPAQUE", "MASK", "BLEND"):
            self._contents.note(f"{name}: alpha mode {shown(alpha_mode)} is unknown and read as OPAQUE")
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
        colored = self._glowing_as_colored(look, name)
        return Surface(colored, placement, name, glows=colored is not look, turned=turned)

    def _glowing_as_colored(self, look: Look, name: str) -> Look:
        """A black surface that only glows, as unlit scans are often saved, shows its glow as colour.

        One that is shaped or shines otherwise, or glows in places only, such as a switched-off screen with its lamp, stays as it is.
        """
        glow = np.asarray(look.material.emissive_factor, np.float32)
        black = not look.factor[:3].any() or (look.texture is not None and not look.texture[..., :3].any())
        lit = None if look.material.emissive is None else look.material.emissive.amax(dim=2) > _BLACK
        if not black or not glow.any() or (lit is not None and not bool(lit.any())):
            return look
        if look.material.maps().keys() - {"emissive"} or (lit is not None and float(lit.float().mean()) <= 0.5):
            self._contents.note(f"{name} is black and glows; the glow is kept, but Render Views shows the base colour only, black")
            return look
        self._contents.note(f"{name} is black and only glows: what it emits is taken as its colour, unlit")
        texture = None if look.material.emissive is None else look.material.emissive.numpy()
        if texture is not None and look.texture is not None and look.texture.shape[2] == 4 and look.texture.shape[:2] == texture.shape[:2]:
            texture = np.concatenate([texture, look.texture[..., 3:]], axis=2)
        unlit = replace(look.material, emissive=None, emissive_factor=(0.0, 0.0, 0.0), emissive_strength=1.0, unlit=True)
        return Look(texture, np.append(glow, look.factor[3]).astype(np.float32), unlit)

    def _images(self, infos: dict[str, Any], name: str, users: list[User]) -> tuple[dict[str, np.ndarray], Placement | None, bool]:
        """The decoded textures of one material, where they lie, and whether the normal map was brought there from other uvs.

        Those that lie elsewhere than the first are resampled, or left out where no layout serves for all.
        """
        found: Placed = {}
        for role, info in infos.items():
            if info is None:
                continue
            own = self._placement(info)
            alike = next((p for _, p in found.values() if (p.uv_set, p.matrix) == (own.uv_set, own.matrix)), own)
            if alike.wrap != own.wrap:
                self._contents.note(f"{name}: its {role} texture repeats otherwise than the textures before, and is read as they are")
            picture = self._picture(info.get("index"), f"the {role} texture of {name}")
            if picture is not None:
                found[role] = picture, alike
        first = next((placement for _, placement in found.values()), None)
        kept = {role: picture for role, (picture, placement) in found.items() if placement == first}
        if len(kept) == len(found):
            return kept, first, False
        made = one_layout(found, users, self._contents, self._tick)
        if made is None:
            for role in (role for role in found if role not in kept):
                self._contents.note(f"{name}: its {role} texture is left out, its UVs differ from those of the textures before")
            return kept, first, False
        coarser = ", coarser than they were" if made.coarser else ""
        self._contents.note(f"{name}: its textures lie on different UVs; they were resampled to one layout at {made.size} pixels{coarser}")
        there = (made.placement.uv_set, made.placement.matrix)
        turned = "normal" in found and (found["normal"][1].uv_set, found["normal"][1].matrix) != there
        return made.images, made.placement, turned

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
        raise ValueError(f"it has {shown(value)} where a number is expected")
    return float(value)


def numbers(value: Any, count: int) -> np.ndarray:
    """(count,) float64.

    Raises:
        ValueError: another length, or what is no number.
    """
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"it has {shown(value)} where {count} numbers are expected")
    return np.array([number(v) for v in value])
