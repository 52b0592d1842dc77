"""Cameras in files: transforms.json, the layout of NeRF and instant-ngp."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from ..data.cameras import Cameras
from ..disk.atomic import write_files

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

    Raises:
        ValueError: no such file, not this layout, lens distortion, or poses that are not rigid.
    """
    path = Path(path)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        frames = tree["frames"]
        poses = [_pose(frame["transform_matrix"]) for frame in frames]
        lenses = [_lens({**tree, **frame}, path) for frame in frames]
    except OSError as error:
        raise ValueError(f"The camera file {path} cannot be read: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path.name} is not a transforms.json: {type(error).__name__}: {error}.") from error
    if not frames:
        raise ValueError(f"{path.name} holds no frames.")
    names = tuple(str(frame.get("file_path", f"view {i}")) for i, frame in enumerate(frames))
    return Cameras(torch.stack(poses), torch.tensor(lenses, dtype=torch.float32), names)


def _pose(rows: Any) -> torch.Tensor:
    matrix = torch.tensor(rows, dtype=torch.float64)
    if tuple(matrix.shape) == (3, 4):
        matrix = torch.cat([matrix, torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)])
    if tuple(matrix.shape) != (4, 4):
        raise TypeError(f"a transform_matrix has shape {tuple(matrix.shape)}, not (4, 4)")
    return matrix.float()


def _lens(frame: dict[str, Any], path: Path) -> list[float]:
    """fx, fy, cx, cy as fractions of the image."""
    if any(abs(float(frame.get(key, 0))) > 1e-4 for key in ("k1", "k2", "k3", "k4", "p1", "p2")):
        raise ValueError(f"{path.name} has lens distortion (k1, k2, p1, ...), which is not supported: undistort the images first.")
    w, h = float(frame.get("w", 0)), float(frame.get("h", 0))
    aspect = w / h if w > 0 and h > 0 else 1.0
    if "fl_x" in frame:
        if w <= 0 or h <= 0:
            raise ValueError(f"{path.name} gives fl_x in pixels but not the images' w and h.")
        fx = float(frame["fl_x"]) / w
        fy = float(frame["fl_y"]) / h if "fl_y" in frame else fx * aspect
    else:
        fx = 0.5 / math.tan(float(frame["camera_angle_x"]) / 2)
        fy = 0.5 / math.tan(float(frame["camera_angle_y"]) / 2) if "camera_angle_y" in frame else fx * aspect
    cx = float(frame["cx"]) / w if w > 0 and "cx" in frame else 0.5
    cy = float(frame["cy"]) / h if h > 0 and "cy" in frame else 0.5
    return [fx, fy, cx, cy]
