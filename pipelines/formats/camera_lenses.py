"""The lenses of a transforms.json: pinholes are read, all else is refused with what to do about it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from .camera_poses import place_of
from .json_numbers import kind_of, number, readable

log = logging.getLogger(__name__)

# The names of COLMAP and nerfstudio. The lower ones are pinholes as long as their coefficients are 0.
PINHOLES = {"PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "PERSP"}
WITH_COEFFICIENTS = {"OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL"}
MODEL_KEYS = ("camera_model", "camera_type")
COEFFICIENTS = (*(f"k{i}" for i in range(1, 7)), "p1", "p2", *(f"s{i}" for i in range(1, 5)))
COEFFICIENT_LISTS = ("distortion_params", "distortion", "distortion_coefficients")
NO_DISTORTION = 1e-4
FISHEYES = ("is_fisheye", "fisheye")
PANORAMAS = ("equirectangular", "is_equirectangular", "latlong", "panorama", "is_panorama")
ORTHOGRAPHIC = ("orthographic", "is_orthographic")
FTHETA = "ftheta_p0"
SIDES = ("w", "h")
FOCAL = (("fl_x", "camera_angle_x"), ("fl_y", "camera_angle_y"))
CENTRES = ("cx", "cy")
KEYS = {
    *MODEL_KEYS, *COEFFICIENTS, *COEFFICIENT_LISTS, *FISHEYES, *PANORAMAS, *ORTHOGRAPHIC, FTHETA, *SIDES, *FOCAL[0], *FOCAL[1], *CENTRES,
}  # fmt: skip
AGREE = 0.02
LEAST_ANGLE = 1e-6

UNDISTORT = "undistort the images first (COLMAP's image_undistorter does, for fisheyes too) and use the cameras it writes"
FLATTEN = (
    "cut pinhole pictures out of the panoramas first (nerfstudio's ns-process-data does with --camera-type equirectangular) and use their "
    "cameras"
)


def read_lenses(tree: dict[str, Any], frames: Sequence[dict[str, Any]], file: str) -> list[list[float]]:
    """fx, fy, cx, cy of each frame, as fractions of its picture; what a frame does not say, the file says for all.

    Where a frame and the file, or a focal length and an angle, speak of the same, the frame and the focal length count; the log says
    where they disagree. Without w and h a lens of one angle is of square pictures, which the log says too.

    Raises:
        ValueError: no pinhole, distortion, no focal length, an angle that is none, sizes that are missing or not above 0.
    """
    shared: list[float] | None = None
    lenses, quarrels, guesses = [], 0, 0
    for index, frame in enumerate(frames):
        own = not KEYS.isdisjoint(frame)
        if own or shared is None:
            place = place_of(file, index, frame)
            lens, agrees, guessed = _lens(tree, frame, place if own else file)
            quarrels, guesses = quarrels + (not agrees), guesses + guessed
            shared = shared if own else lens
        else:
            lens = shared
        lenses.append(lens)
    if quarrels:
        log.warning(
            "Lathe: %s gives both focal lengths in pixels (fl_x, fl_y) and angles (camera_angle_x, camera_angle_y), and they disagree; the "
            "focal lengths are used. Check w and h.", file,
        )  # fmt: skip
    if guesses:
        log.warning("Lathe: %s does not give the size of its pictures, so they are taken as square. Where they are not, add w and h.", file)
    return lenses


def _lens(tree: dict[str, Any], frame: dict[str, Any], place: str) -> tuple[list[float], bool, bool]:
    """A frame's lens; whether pixels and angles agree in it; whether the picture's proportions are a guess."""
    both = {**tree, **frame}
    _check_pinhole(both, place)
    sides = [_above_0(both, key, place) for key in SIDES]
    aspect = sides[0] / sides[1] if sides[0] and sides[1] else 1.0
    focal: list[float | None] = []
    agrees = True
    for axis, side in enumerate(sides):
        share, agree = _focal(tree, frame, axis, side, place)
        focal.append(share)
        agrees &= agree
    fx, fy = focal
    guessed = (fx is None or fy is None) and not (sides[0] and sides[1])
    pixels = next((key for key, _ in FOCAL if key in both), None)
    if guessed and pixels:
        raise ValueError(f"{place} gives {pixels} in pixels but not the images' w and h: add them.")
    if fx is None and fy is None:
        raise ValueError(
            f"{place} gives no lens (fl_x with w and h, or camera_angle_x): this is not a transforms.json as NeRF tools write it."
        )
    if fx is None:
        fx = (fy or 0.0) / aspect
    if fy is None:
        fy = fx * aspect
    centre = []
    for key, name, side in zip(CENTRES, SIDES, sides, strict=True):
        if key not in both:
            centre.append(0.5)
        elif not side:
            raise ValueError(f"{place} gives {key} in pixels but not the images' {name}: add it, or leave {key} out.")
        else:
            centre.append(number(both[key], key, place) / side)
    return [fx, fy, *centre], agrees, guessed


def _focal(tree: dict[str, Any], frame: dict[str, Any], axis: int, side: float | None, place: str) -> tuple[float | None, bool]:
    """The focal length as a share of the picture's side, None where neither level tells; and whether pixels and angle agree."""
    for level in (frame, tree):
        pixels_key, angle_key = FOCAL[axis]
        pixels, angle = _above_0(level, pixels_key, place), _angle(level, angle_key, place)
        if pixels and side:
            return pixels / side, angle is None or abs(angle * side / pixels - 1) < AGREE
        if angle is not None:
            return angle, True
    return None, True


def _above_0(level: dict[str, Any], key: str, place: str) -> float | None:
    if key not in level:
        return None
    value = number(level[key], key, place)
    if value <= 0:
        raise ValueError(f"{place}: {key} is {value:g}; it must be above 0.")
    return value


def _angle(level: dict[str, Any], key: str, place: str) -> float | None:
    """The focal length that belongs to a field of view, as a share of the picture's side."""
    if key not in level:
        return None
    value = number(level[key], key, place)
    if not LEAST_ANGLE < value < math.pi - LEAST_ANGLE:
        degrees = f"; if that is in degrees, write {math.radians(value):.6g}" if 3.2 < value < 180 else ""
        raise ValueError(f"{place}: {key} is {value:g}; a field of view in radians lies between 0 and 3.14{degrees}.")
    return 0.5 / math.tan(value / 2)


def _check_pinhole(lens: dict[str, Any], place: str) -> None:
    """Refuses what is no pinhole, by its name, its flags or its coefficients."""
    for key in MODEL_KEYS:
        name = lens.get(key)
        if name is None:
            continue
        if not isinstance(name, str):
            raise ValueError(f"{place}: {key} is {kind_of(name)}, where a name such as PINHOLE is expected.")
        plain = name.strip().upper().replace("-", "_").replace(" ", "_")
        if plain not in PINHOLES | WITH_COEFFICIENTS:
            raise ValueError(
                f"{place}: {key} is {readable(name)[:40]}, which is not supported: cameras must be pinholes; {_remedy(plain)}."
            )
    for keys, kind in ((FISHEYES, "FISHEYE"), (PANORAMAS, "EQUIRECTANGULAR"), (ORTHOGRAPHIC, "ORTHOGRAPHIC")):
        for key in keys:
            if _is_set(lens.get(key)):
                raise ValueError(f"{place}: {key} is set, which is not supported: cameras must be pinholes; {_remedy(kind)}.")
    if lens.get(FTHETA) is not None:
        raise ValueError(f"{place} has an f-theta lens ({FTHETA}, ...), which is not supported: cameras must be pinholes; {UNDISTORT}.")
    coefficients = {key: number(lens[key], key, place) for key in COEFFICIENTS if lens.get(key) is not None}
    for key in COEFFICIENT_LISTS:
        values = lens.get(key)
        if isinstance(values, list):
            coefficients |= {f"{key}[{i}]": number(value, key, place) for i, value in enumerate(values)}
        elif values is not None:
            coefficients[key] = number(values, key, place)
    bent = [key for key, value in coefficients.items() if abs(value) > NO_DISTORTION]
    if bent:
        raise ValueError(f"{place} has lens distortion ({', '.join(bent[:6])}), which is not supported: {UNDISTORT}.")


def _is_set(flag: Any) -> bool:
    return flag.strip().lower() not in ("", "0", "false", "no") if isinstance(flag, str) else bool(flag)


def _remedy(model: str) -> str:
    if any(word in model for word in ("EQUIRECT", "SPHERIC", "PANORAM", "LATLONG", "360", "VR180", "OMNI")):
        return FLATTEN
    if "ORTHO" in model:
        return "use pictures of a perspective camera"
    return UNDISTORT
