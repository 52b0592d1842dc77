"""The camera of ComfyUI's 3D viewer (LOAD3D_CAMERA), to and from `Cameras`.

What the viewer does, read in comfyui_frontend_package's `extensions/core/load3d`:
- Up to frontend 1.32 (ComfyUI 0.3.75), `SceneModelManager.setupModel` scales every model so that its longest side is 5 and
  sets it on the floor: the box's centre goes to x = z = 0, its lowest point to y = 0. In 1.45 a model keeps its own coordinates
  until the user presses "fit to viewer", which does the same.
- `CameraManager` starts with a vertical field of view of 35 degrees. Old cameras' dict is `position`, `target`, `zoom`, `cameraType`;
  newer ones add `quaternion`, `fov`, `aspect`, `near`, `far`, `frustum`. Setting a camera reads only the first four, so a camera
  is written with the viewer's 35 degrees and its lens goes into `zoom`, which multiplies the focal length everywhere (viewer, core's
  Render nodes).
Axes are three.js's, which are Lathe's: right-handed, +Y up, cameras look along -Z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.cameras import LARGEST, Cameras
from ..ops import camera_math

VIEWER_FOV = 35.0
VIEWER_SIZE = 5.0
LEAST_FOV = 1e-4  # degrees


@dataclass(frozen=True)
class ViewerFrame:
    """Where a viewer shows a model: a world point p appears at `scale * rotation @ p + offset`."""

    scale: float
    rotation: Tensor
    offset: Tensor


def own_space() -> ViewerFrame:
    """The frame of a viewer that leaves the model in its own coordinates."""
    return ViewerFrame(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


def fitted(lower: Tensor, upper: Tensor) -> ViewerFrame:
    """The frame of a viewer that fits the model: longest side 5, on the floor, centred over the origin.

    Args:
        lower, upper: (3,) corners of the model's bounding box.

    Raises:
        ValueError: the box has no size.
    """
    lower, upper = lower.double(), upper.double()
    longest = float((upper - lower).max())
    if not (math.isfinite(longest) and longest > 0):
        raise ValueError("The mesh has no size, so the viewer's scale is unknown: wire the mesh that the viewer shows.")
    scale = VIEWER_SIZE / longest
    centre = (lower + upper) / 2
    offset = -scale * torch.stack([centre[0], lower[1], centre[2]])
    return ViewerFrame(scale, torch.eye(3, dtype=torch.float64), offset)


def moved(model_info: Mapping[str, Any]) -> ViewerFrame:
    """The frame of a newer viewer's LOAD3D_MODEL_INFO entry: `position`, `quaternion` (x, y, z, w) and `scale` of the model.

    Raises:
        ValueError: a scale that differs between axes or is not positive (no pinhole camera sees such a model).
    """
    if not isinstance(model_info, Mapping):
        raise ValueError(f"model_3d_info holds a {type(model_info).__name__}, where the place of a model in the viewer is expected.")
    scales = _optional(model_info, "scale", 1.0)
    if not (scales > 0).all() or float(scales.max() / scales.min()) > 1.0001:
        raise ValueError(f"The viewer scales the model unevenly ({scales.tolist()}): use one scale for all axes there.")
    quaternion = model_info.get("quaternion")
    rotation = torch.eye(3, dtype=torch.float64) if quaternion is None else _rotation(quaternion)
    return ViewerFrame(float(scales.mean()), rotation, _optional(model_info, "position", 0.0))


def choose_frame(
    *, newer_viewer: bool, bounds: tuple[Tensor, Tensor] | None, model_info: Sequence[Mapping[str, Any]] | None = None
) -> ViewerFrame:
    """The frame a viewer used: what it reports of the model, else the rule of its age (see the module's text).

    Raises:
        ValueError: an old viewer, which fits the model, and no bounds of that model.
    """
    if model_info:
        return moved(model_info[0])
    if newer_viewer:
        return own_space()
    if bounds is None:
        raise ValueError("This viewer scales the model to its own size and sets it on the floor: wire the mesh it shows, to undo that.")
    return fitted(*bounds)


def camera_list(value: Any) -> list[Mapping[str, Any]]:
    """The cameras that arrived at a LOAD3D_CAMERA socket: one dict, or a list of them as core's Batch Cameras gives.

    Raises:
        ValueError: nothing, an empty list, or an entry that is no camera; the message says which.
    """
    if value is None:
        raise ValueError("camera_info is empty: move the viewer's camera once, so that it is stored, or wire another camera.")
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"camera_info is a {type(value).__name__}, where a camera or a list of cameras is expected.")
    if not value:
        raise ValueError("camera_info is an empty list: it must hold at least one camera.")
    for index, entry in enumerate(value):
        if not isinstance(entry, Mapping):
            what = "empty" if entry is None else f"a {type(entry).__name__}"
            raise ValueError(f"camera_info: camera {index} of {len(value)} is {what}, where a camera of the 3D viewer is expected.")
    return list(value)


def cameras_from_load3d(infos: Sequence[Mapping[str, Any]], frames: Sequence[ViewerFrame], aspect: float = 1.0) -> Cameras:
    """The cameras of a list, in its order, named by their own `name` or by their place in the list; see `from_load3d`.

    Args:
        infos: V cameras of `camera_list`.  frames: V frames, where the viewer of each shows the model.
    """
    if len(infos) == 1:
        return from_load3d(infos[0], frames[0], aspect)
    posed = []
    for index, (info, frame) in enumerate(zip(infos, frames, strict=True)):
        try:
            posed.append(from_load3d(info, frame, aspect))
        except ValueError as error:
            raise ValueError(f"camera_info, camera {index} of {len(infos)}: {error}") from error
    names = tuple(str(info.get("name") or f"viewer {index}") for index, info in enumerate(infos))
    return Cameras(torch.cat([one.c2w for one in posed]), torch.cat([one.K for one in posed]), names)


def from_load3d(info: Mapping[str, Any], frame: ViewerFrame, aspect: float = 1.0) -> Cameras:
    """One posed camera from a LOAD3D_CAMERA dict.

    Args:
        info: `position`, `target`, `zoom`, `cameraType`; where present, `fov` (vertical, degrees) and `quaternion` count too.
        frame: where the viewer shows the model.
        aspect: width / height of the images this camera is for.

    Raises:
        ValueError: an orthographic camera, keys that are missing, or numbers that no camera has.
    """
    if str(info.get("cameraType", "perspective")).lower().startswith("ortho"):
        raise ValueError("The viewer's camera is orthographic; Lathe's cameras are pinholes. Switch the viewer to perspective.")
    if not isinstance(info.get("position"), Mapping):
        raise ValueError("This LOAD3D_CAMERA has no position: move the viewer's camera once, so that it is stored.")
    eye, quaternion = _numbers(info["position"], "xyz", "position"), info.get("quaternion")
    if quaternion is not None:
        rotation = _rotation(quaternion)
    elif info.get("target") is None:
        raise ValueError("This LOAD3D_CAMERA has neither a target nor a quaternion, so which way it looks is unknown.")
    else:
        target = _numbers(info["target"], "xyz", "target")
        if float((eye - target).norm()) <= 1e-9:
            raise ValueError("The camera's position and target are the same point.")
        rotation = camera_math.look_at(eye[None], target)[0, :3, :3].double()
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = frame.rotation.T @ rotation
    c2w[:3, 3] = frame.rotation.T @ (eye - frame.offset) / frame.scale
    given = {name: info.get(name) for name in ("fov", "zoom")}
    fov = VIEWER_FOV if given["fov"] is None else _number(given["fov"], "fov")
    zoom = 1.0 if given["zoom"] is None else _number(given["zoom"], "zoom")
    if not LEAST_FOV < fov < 180 or zoom <= 0:
        raise ValueError(f"A camera has a fov between 0 and 180 degrees and a zoom above 0, not {fov:g} and {zoom:g}.")
    focal = camera_math.focal_from_fov(fov) * zoom
    K = torch.tensor([[focal / aspect, focal, 0.5, 0.5]], dtype=torch.float32)
    return Cameras(c2w[None].float(), K, ("viewer",))


def to_load3d(
    cameras: Cameras, view: int, frame: ViewerFrame, centre: Tensor | None = None, *, newer_viewer: bool = True
) -> dict[str, Any]:
    """One view of (V, 4, 4) cameras as a LOAD3D_CAMERA dict.

    For an old viewer it has the four keys such a viewer writes itself, so that readers who tell viewers apart by their keys
    (as `Cameras From 3D Viewer` does) take it for what it is.

    The viewer orbits around `target`, which is set to the point of the optical axis nearest to `centre` (world; the origin
    where None). A viewer holds +Y up, so roll shows only where the reader takes `quaternion`.

    Raises:
        ValueError: a principal point off the centre, which the viewer has no key for.
    """
    c2w, K = cameras.c2w[view].double(), cameras.K[view].double()
    if float((K[2:] - 0.5).abs().max()) > 1e-4:
        raise ValueError("The viewer's camera has its optical centre in the middle of the image; this camera has not.")
    rotation = frame.rotation @ c2w[:3, :3]
    eye = frame.scale * frame.rotation @ c2w[:3, 3] + frame.offset
    middle = frame.scale * frame.rotation @ (torch.zeros(3, dtype=torch.float64) if centre is None else centre.double()) + frame.offset
    forward = -rotation[:, 2]
    ahead = float((middle - eye) @ forward)
    distance = ahead if ahead > 1e-6 else max(float((middle - eye).norm()), 1.0)
    info: dict[str, Any] = {
        "position": _dict(eye),
        "target": _dict(eye + distance * forward),
        "zoom": float(K[1]) / camera_math.focal_from_fov(VIEWER_FOV),
        "cameraType": "perspective",
    }
    if not newer_viewer:
        return info
    return info | {
        "quaternion": _quaternion(rotation),
        "fov": VIEWER_FOV,
        "aspect": float(K[1] / K[0]),
        "near": 0.01,
        "far": 10000.0,
        "frustum": {"left": -5.0, "right": 5.0, "top": 5.0, "bottom": -5.0},
    }


def _optional(model_info: Mapping[str, Any], key: str, default: float) -> Tensor:
    value = model_info.get(key)
    return torch.full((3,), default, dtype=torch.float64) if value is None else _numbers(value, "xyz", key)


def _numbers(value: Any, axes: str, name: str) -> Tensor:
    if not isinstance(value, Mapping) or any(axis not in value for axis in axes):
        raise ValueError(f"The {name} that the viewer gives is incomplete: {', '.join(axes)} are expected.")
    return torch.tensor([_number(value[axis], f"{name}.{axis}") for axis in axes], dtype=torch.float64)


def _number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise ValueError(f"The {name} that the viewer gives is {str(value)[:40]}, where a finite number is expected.")
    return number


def _dict(point: Tensor) -> dict[str, float]:
    return {axis: float(number) for axis, number in zip("xyz", point, strict=True)}


def _rotation(quaternion: Any) -> Tensor:
    x, y, z, w = _numbers(quaternion, "xyzw", "quaternion").tolist()
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if norm < 1e-9:
        raise ValueError("A quaternion of this viewer is all zeros.")
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def _quaternion(rotation: Tensor) -> dict[str, float]:
    """Unit quaternion of a rotation matrix: the eigenvector of Bar-Itzhack's 4x4 matrix (2000) with the largest eigenvalue."""
    m = rotation
    k = torch.stack(
        [
            torch.stack([m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]]),
            torch.stack([m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]]),
            torch.stack([m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]]),
            torch.stack([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]]),
        ]
    )
    q = torch.linalg.eigh(k / 3).eigenvectors[:, -1]
    q = q if q[3] >= 0 else -q
    return {axis: float(number) for axis, number in zip("xyzw", q, strict=True)}
