"""What an MTL says of one material, as a look.

Kd is sRGB. Beside map_Kd it is left out, as Blender does: the format's text multiplies, but exporters write 0.8, 0.6 or 0 there
whatever the picture, so that multiplying darkens scans or turns them black. A Kd that is a tint of its own is named when left out.
Ka, Ks, Ns, Ni and illum belong to another model of light and have no place here. Pr, Pm, map_Pr, map_Pm, Ke, map_Ke and norm are
those of the PBR extension. A map_Bump that looks like a normal map is read as one; heights are left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..data.material import AlphaMode, Material
from ..ops.color import linear_to_srgb, srgb_to_linear
from .file_colors import alpha_of
from .mtl import Described, PictureOf, numbers
from .parts import Contents, Look

USED = ("map_kd", "map_d", "map_ke", "map_pr", "map_pm", "norm", "map_bump")
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def looks(name: str, described: Described, images: dict[str, np.ndarray], contents: Contents) -> tuple[Look, Look]:
    """The look with pictures, and the one without. `images` (H, W, 3 or 4) are those of `USED` that could be had."""
    return _Reader(name, described, images, contents).read()


class _Reader:
    def __init__(self, name: str, described: Described, images: dict[str, np.ndarray], contents: Contents) -> None:
        self.name, self.words, self.pictures, self.images, self.contents = name, described.words, described.pictures, images, contents

    def read(self) -> tuple[Look, Look]:
        self.say_what_is_unused()
        base, opacity = self.images.get("map_kd"), self.opacity()
        factor = np.append(self.color(), opacity).astype(np.float32)
        glow, strength = self.glow()
        plain = Material(
            metallic=self.share("pm", 0.0),
            roughness=self.share("pr", 1.0),
            emissive_factor=(0.0, 0.0, 0.0) if "map_ke" in self.images else glow,
            emissive_strength=strength,
            alpha_mode="BLEND" if opacity < 1 else "OPAQUE",
        )
        texture, alpha_mode = self.texture(base, factor[:3])
        shine = self.shine()
        normal, height = self.normal()
        material = replace(
            plain,
            metallic_roughness=_tensor(shine),
            metallic=1.0 if "map_pm" in self.images else plain.metallic,
            roughness=1.0 if "map_pr" in self.images else plain.roughness,
            normal_map=_tensor(normal),
            normal_scale=height,
            emissive=_tensor(self.images.get("map_ke")),
            emissive_factor=glow,
            alpha_mode="BLEND" if opacity < 1 else alpha_mode,
        )
        return Look(texture, factor if texture is None else np.array([1, 1, 1, opacity], np.float32), material), Look(None, factor, plain)

    def note(self, text: str) -> None:
        self.contents.note(f"material {self.name!r}: {text}")

    def say_what_is_unused(self) -> None:
        base = self.pictures.get("map_kd")
        again = {word for word, picture in self.pictures.items() if word == "map_ka" and base is not None and picture.file == base.file}
        unused = sorted(word for word in self.pictures if word not in USED and word not in again)
        if unused:
            self.contents.note(f"pictures of its materials are left out, Lathe has no place for them: {', '.join(unused)}")

    def color(self) -> np.ndarray:
        """Kd, linear (3,)."""
        color = self.triple("kd")
        if color is None:
            return np.ones(3, np.float32)
        if color.max() > 1:
            self.note("its colour Kd is above 1, so it is read as 0 to 255")
            color = color / 255
        if "map_kd" in self.images:
            if color.max() - color.min() > 1e-3:
                self.note("its picture map_Kd is its colour, the tint Kd beside it is left out")
        elif "map_kd" in self.pictures and not color.any():
            color = np.ones(3)  # black for the sake of a picture that is missing now
        return srgb_to_linear(torch.from_numpy(color.clip(0, 1).astype(np.float32))).numpy()

    def triple(self, word: str) -> np.ndarray | None:
        """Three numbers; one alone stands for grey."""
        if word not in self.words:
            return None
        given = numbers(self.words[word])
        if given is None or len(given) not in (1, 3):
            self.note(f"{word} is {self.words[word]!r}, not three numbers, and left out")
            return None
        return np.array(given * 3 if len(given) == 1 else given)

    def share(self, word: str, default: float) -> float:
        """The last word of a statement, from 0 to 1: `d -halo 0.5` has options before it."""
        if word not in self.words:
            return default
        given = numbers(" ".join(self.words[word].split()[-1:]))
        if not given or not 0 <= given[0] <= 1:
            self.note(f"{word} is {self.words[word]!r}, not a number from 0 to 1, and left out")
            return default
        return given[0]

    def opacity(self) -> float:
        """d, else 1 - Tr. What nobody could see is taken as a mistake: some exporters write Tr 1 or d 0 for the opaque."""
        opacity = self.share("d", 1.0) if "d" in self.words else 1.0 - self.share("tr", 0.0)
        if opacity == 0:
            self.note("it is fully transparent (d or Tr), which is read as opaque")
            return 1.0
        return opacity

    def texture(self, base: np.ndarray | None, color: np.ndarray) -> tuple[np.ndarray | None, AlphaMode]:
        """The texture with its alpha, from map_d or else its own, and how that counts."""
        mask = self.images.get("map_d")
        if mask is not None:
            alpha = _channel(mask, self.pictures["map_d"], "m" if mask.shape[2] == 4 and (mask[..., 3] < 1).any() else "l")
            if base is None:
                base = np.broadcast_to(linear_to_srgb(torch.from_numpy(color)).numpy(), (*alpha.shape, 3))
            base = np.concatenate([base[..., :3], _fitted(alpha, base)[..., None]], axis=2).astype(np.float32)
        return (None, "OPAQUE") if base is None else alpha_of(base, f"the picture of material {self.name!r}", self.contents)

    def shine(self) -> np.ndarray | None:
        """(H, W, 3) with roughness in green and metallic in blue; a picture stands without its number."""
        rough, metal = self.images.get("map_pr"), self.images.get("map_pm")
        size = max((image for image in (rough, metal) if image is not None), key=lambda image: image.shape[0], default=None)
        if size is None:
            return None
        packed = rough is not None and rough is metal and bool((np.ptp(rough[..., :3], axis=2) > 0.02).any())
        if packed:
            self.note("the one picture of map_Pr and map_Pm is read as glTF's, green roughness and blue metallic")
        shine = np.ones((*size.shape[:2], 3), np.float32)
        if rough is not None:
            shine[..., 1] = _fitted(_channel(rough, self.pictures["map_pr"], "g" if packed else "l"), size)
        if metal is not None:
            shine[..., 2] = _fitted(_channel(metal, self.pictures["map_pm"], "b" if packed else "l"), size)
        return shine

    def glow(self) -> tuple[tuple[float, float, float], float]:
        """Ke as a factor in [0, 1], linear, and a strength of at least 1; beside map_Ke black and grey stand for white."""
        given = self.triple("ke")
        glow = np.zeros(3) if given is None else given.clip(0)
        strength = max(1.0, float(glow.max()))
        if "map_ke" in self.images and glow.max() - glow.min() < 1e-6:
            return (1.0, 1.0, 1.0), strength
        red, green, blue = srgb_to_linear(torch.from_numpy(glow / strength)).tolist()
        return (red, green, blue), strength

    def normal(self) -> tuple[np.ndarray | None, float]:
        """The normal map and its scale (-bm)."""
        word = "norm" if "norm" in self.images else "map_bump"
        if "map_bump" in self.images and not (word == "map_bump" and _is_normal_map(self.images["map_bump"])):
            self.note("its heights (map_Bump) are left out, Lathe has normal maps only")
            self.images.pop("map_bump")
        elif word == "map_bump" and word in self.images:
            self.note("map_Bump looks like a normal map and is read as one")
        if word not in self.images:
            return None, 1.0
        scale = numbers(" ".join(self.pictures[word].options.get("-bm", [])))
        return self.images[word], scale[0] if scale else 1.0


def _is_normal_map(image: np.ndarray) -> bool:
    """Whether most of it points straight out, as tangent-space normals do."""
    red, green, blue = image[..., :3].reshape(-1, 3).mean(0).tolist()
    return abs(red - 0.5) < 0.15 and abs(green - 0.5) < 0.15 and blue > 0.7


def _channel(image: np.ndarray, picture: PictureOf, usual: str) -> np.ndarray:
    """(H, W), the channel that -imfchan names (r, g, b, m for alpha, l for luminance), else the usual one."""
    wanted = picture.options.get("-imfchan", [usual])[0].lower()
    if wanted == "m":
        return image[..., 3] if image.shape[2] == 4 else np.ones(image.shape[:2], np.float32)
    return image[..., "rgb".index(wanted)] if wanted in ("r", "g", "b") else image[..., :3] @ _LUMA


def _fitted(image: np.ndarray, to: np.ndarray) -> np.ndarray:
    """`image` (H, W) in the size of `to`."""
    if image.shape == to.shape[:2]:
        return image
    stacked = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(stacked, size=to.shape[:2], mode="bilinear")[0, 0].numpy()


def _tensor(image: np.ndarray | None) -> torch.Tensor | None:
    return None if image is None else torch.from_numpy(np.ascontiguousarray(image[..., :3], dtype=np.float32))
