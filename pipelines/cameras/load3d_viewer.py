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

from ..data.cameras import Cameras
from ..ops import camera_math

VIEWER_FOV = 35.0
VIEWER_SIZE = 5.0


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
    scales = _xyz(model_info.get("scale"), 1.0)
    if not (scales > 0).all() or float(scales.max() / scales.min()) > 1.0001:
        raise ValueError(f"The viewer scales the model unevenly ({scales.tolist()}): use one scale for all axes there.")
    quaternion = model_info.get("quaternion")
    rotation = torch.eye(3, dtype=torch.float64) if quaternion is None else _rotation(quaternion)
    return ViewerFrame(float(scales.mean()), rotation, _xyz(model_info.get("position"), 0.0))


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


def from_load3d(info: Mapping[str, Any], frame: ViewerFrame, aspect: float = 1.0) -> Cameras:
    """One posed camera from a LOAD3D_CAMERA dict.

    Args:
        info: `position`, `target`, `zoom`, `cameraType`; where present, `fov` (vertical, degrees) and `quaternion` count too.
        frame: where the viewer shows the model.
        aspect: width / height of the images this camera is for.

    Raises:
        ValueError: an orthographic camera, or a dict without a usable position.
    """
    if str(info.get("cameraType", "perspective")).lower().startswith("ortho"):
        raise ValueError("The viewer's camera is orthographic; Lathe's cameras are pinholes. Switch the viewer to perspective.")
    if not isinstance(info.get("position"), Mapping):
        raise ValueError("This LOAD3D_CAMERA has no position: move the viewer's camera once, so that it is stored.")
    eye, target = _xyz(info["position"], 0.0), _xyz(info.get("target"), 0.0)
    if info.get("quaternion") is not None:
        rotation = _rotation(info["quaternion"])
    elif float((eye - target).norm()) > 1e-9:
        rotation = camera_math.look_at(eye[None], target)[0, :3, :3].double()
    else:
        raise ValueError("The camera's position and target are the same point.")
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = frame.rotation.T @ rotation
    c2w[:3, 3] = frame.rotation.T @ (eye - frame.offset) / frame.scale
    fov, zoom = float(info.get("fov") or VIEWER_FOV), float(info.get("zoom") or 1.0)
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


def _xyz(value: Mapping[str, Any] | None, default: float) -> Tensor:
    value = value or {}
    return torch.tensor([float(value.get(axis, default)) for axis in "xyz"], dtype=torch.float64)


def _dict(point: Tensor) -> dict[str, float]:
    return {axis: float(number) for axis, number in zip("xyz", point, strict=True)}


def _rotation(quaternion: Mapping[str, Any]) -> Tensor:
    x, y, z, w = (float(quaternion.get(axis, 0.0)) for axis in "xyzw")
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
