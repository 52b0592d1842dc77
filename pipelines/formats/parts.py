"""What mesh files are read into before one mesh is made of them: objects in float64, each with its material's look."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..data.material import Material
from ..data.mesh import FARTHEST

UNUSABLE = 1e100  # coordinates beyond this overflow where they are squared, before they could be scaled down


@dataclass(frozen=True)
class Look:
    """One material of a file. Parts that share a material share the object.

    Attributes:
        texture: (H, W, 3 or 4) float32 in [0, 1], sRGB, row 0 at the top, without the factor; None without one.
        factor: (4,) float32, linear, multiplies texture and vertex colours.
        material: the rest.
    """

    texture: np.ndarray | None = None
    factor: np.ndarray = field(default_factory=lambda: np.ones(4, dtype=np.float32))
    material: Material = field(default_factory=Material)


@dataclass(frozen=True)
class Part:
    """One object of a file, in the file's scene axes.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        look: its material.
        uvs: (V, 2) float64, origin at the top left of the texture, texture transforms applied; or None.
        colors: (V, 3 or 4) float32, linear; or None.
        normals: (V, 3) float32, unit length; or None.
        tangents: (V, 4) float32, unit length and handedness; or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    look: Look = field(default_factory=Look)
    uvs: np.ndarray | None = None
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None
    tangents: np.ndarray | None = None


@dataclass
class Contents:
    """What a reader found: the parts, and sentences about what it dropped, guessed or changed (no full stop)."""

    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds a sentence once."""
        if text not in self.notes:
            self.notes.append(text)


def refuse_distant(places: np.ndarray, most: float = UNUSABLE) -> None:
    """Refuses coordinates farther than `most` from the origin.

    Raises:
        ValueError: there are some.
    """
    farthest = max(-float(places.min(initial=0)), float(places.max(initial=0)))
    if farthest > most:
        raise ValueError(f"its vertices lie up to {farthest:.3g} from the origin, beyond {FARTHEST:g}: no object is so large")
