"""How a surface answers light, beside its base colour: the metallic-roughness material of glTF 2.0 (section 3.9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]


@dataclass(frozen=True)
class Material:
    """One material. Its maps use the mesh's uvs; the factors multiply them, or stand alone where a map is None.

    Attributes:
        metallic_roughness: (H, W, 3) linear: green roughness, blue metallic; red ambient occlusion where `occlusion_in_red`.
        metallic, roughness: in [0, 1].
        occlusion_strength: how much of the occlusion counts, in [0, 1].
        normal_map: (H, W, 3) normals in tangent space, n = 2 * value - 1, +Y up.
        normal_scale: multiplies their x and y.
        emissive: (H, W, 3) sRGB.
        emissive_factor: linear; a map alone needs (1, 1, 1).
        emissive_strength: multiplies it further (KHR_materials_emissive_strength).
        alpha_mode: OPAQUE ignores the fourth channel of texture and vertex colours, MASK cuts out where it is below `alpha_cutoff`,
            BLEND mixes.
        double_sided: whether faces show from behind.
        unlit: base colour alone, without light (KHR_materials_unlit).

    Raises:
        ValueError: a map of another shape, a number or a map that is not finite, an unknown alpha mode.
    """

    metallic_roughness: Tensor | None = None
    metallic: float = 0.0
    roughness: float = 1.0
    occlusion_in_red: bool = False
    occlusion_strength: float = 1.0
    normal_map: Tensor | None = None
    normal_scale: float = 1.0
    emissive: Tensor | None = None
    emissive_factor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    emissive_strength: float = 1.0
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = False
    unlit: bool = False

    def __post_init__(self) -> None:
        for name, image in self.maps().items():
            if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"Material: {name} must have shape (H, W, 3), not {tuple(image.shape)}.")
            if not bool(torch.isfinite(image).all()):
                raise ValueError(f"Material: {name} holds NaN or infinite numbers.")
        numbers = (self.metallic, self.roughness, self.occlusion_strength, self.normal_scale, *self.emissive_factor)
        if not bool(torch.isfinite(torch.tensor([*numbers, self.emissive_strength, self.alpha_cutoff])).all()):
            raise ValueError("Material: a factor is NaN or infinite.")
        if self.alpha_mode not in ("OPAQUE", "MASK", "BLEND"):
            raise ValueError(f"Material: the alpha mode must be OPAQUE, MASK or BLEND, not {self.alpha_mode!r}.")

    def maps(self) -> dict[str, Tensor]:
        """The maps it has, by field name: those that go when uvs go."""
        named = {"metallic_roughness": self.metallic_roughness, "normal_map": self.normal_map, "emissive": self.emissive}
        return {name: image for name, image in named.items() if image is not None}

    def without_maps(self) -> Material:
        """The factors alone, for a mesh without uvs."""
        return replace(self, metallic_roughness=None, occlusion_in_red=False, normal_map=None, emissive=None)
