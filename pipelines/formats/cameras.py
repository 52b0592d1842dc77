"""Cameras in files: transforms.json, the layout of NeRF and instant-ngp."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ..data.cameras import Cameras
from ..disk.atomic import write_files
from ..disk.json_files import read_json
from .camera_lenses import read_lenses
from .camera_poses import read_poses
from .json_numbers import kind_of, readable

log = logging.getLogger(__name__)

CAMERA_NOTE = {"world": "right-handed, +Y up, the object's front along +Z", "camera": "OpenGL axes, looks along -Z"}


def save_cameras(cameras: Cameras, path: Path | str, *, width: int | None = None, height: int = 1024) -> None:
    """Writes a transforms.json (the layout of NeRF and instant-ngp): camera-to-world matrices as they are, +Y up.

    Args:
        cameras: V cameras of one asset.
        width, height: pixels of the images they belong to; by default 1024 high, as wide as square pixels ask for.

    Raises:
        ValueError: cameras of several assets, or a folder that cannot be written.
    """
    if cameras.n_assets is not None:
        raise ValueError(f"A camera file holds the cameras of one asset, not those of {cameras.n_assets}: use cameras.of_asset(index).")
    path = Path(path)
    frames: list[dict[str, Any]] = []
    for pose, lens, name in zip(cameras.c2w.tolist(), cameras.K.tolist(), cameras.names, strict=True):
        fx, fy, cx, cy = lens
        w, h = width or max(1, round(height * fy / fx)), height
        frame = {"fl_x": fx * w, "fl_y": fy * h, "cx": cx * w, "cy": cy * h, "w": w, "h": h}
        frame |= {"camera_angle_x": 2 * math.atan(0.5 / fx), "camera_angle_y": 2 * math.atan(0.5 / fy)}
        frames.append({"file_path": name, "transform_matrix": pose, **frame})
    shared = {key: value for key, value in frames[0].items() if key not in ("file_path", "transform_matrix")} if frames else {}
    shared = {key: value for key, value in shared.items() if all(frame[key] == value for frame in frames)}
    frames = [{key: value for key, value in frame.items() if key not in shared} for frame in frames]
    tree = {"lathe": CAMERA_NOTE, **shared, "frames": frames}
    write_files(path.parent, {path.name: (json.dumps(tree, indent=1) + "\n").encode()})


def load_cameras(path: Path | str) -> Cameras:
    """Reads a transforms.json in the file's own world axes: per frame or for all, fl_x and w, or camera_angle_x.

    Only these, the poses and the names are used: what other programs add for themselves (applied_transform, aabb_scale, offset, ...)
    changes no pose. Each error names the file, and the frame where it is one frame's.

    Raises:
        ValueError: no such file, not this layout, no pinholes, lens distortion, or poses that are not a turn and a place.
    """
    path = Path(path)
    tree = read_json(path, "It is not a transforms.json; save the cameras as one, in UTF-8.")
    frames = tree.get("frames") if isinstance(tree, dict) else None
    if not isinstance(frames, list):
        what = f"its frames are {kind_of(frames)}" if frames is not None else "it has no frames"
        raise ValueError(f"{path.name} is not a transforms.json: {what}, where a list of objects is expected.")
    if not frames:
        raise ValueError(f"{path.name} holds no frames.")
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ValueError(f"{path.name} is not a transforms.json: frame {index} is {kind_of(frame)}, where an object is expected.")
    lenses = read_lenses(tree, frames, path.name)
    poses = read_poses(frames, path.name)
    names = tuple(_name(frame.get("file_path"), index, path.name) for index, frame in enumerate(frames))
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        log.warning(
            "Lathe: %s names %d of its pictures more than once (%s, ...). Cameras and pictures are matched by their order.",
            path.name, len(repeated), repeated[0][:60],
        )  # fmt: skip
    try:
        return Cameras(poses, torch.tensor(lenses, dtype=torch.float32), names)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used. {error}") from error


def _name(file_path: Any, index: int, file: str) -> str:
    if file_path is None:
        return f"view {index}"
    if not isinstance(file_path, (str, int, float)):
        raise ValueError(f"{file}, frame {index}: file_path is {kind_of(file_path)}, where a text is expected.")
    return readable(str(file_path))
