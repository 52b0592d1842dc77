"""What is kept on disk: meshes, cameras and fields. Everything is written beside its place first and then moved there whole."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from . import mesh_files
from .data.cameras import Cameras
from .data.field import Field
from .data.mesh import Mesh

CAMERA_NOTE = {"world": "right-handed, +Y up, the object's front along +Z", "camera": "OpenGL axes, looks along -Z"}


def safe_output_path(folder: Path | str, name: str, suffix: str) -> Path:
    """`folder`/`name``suffix`, where `name` may hold subfolders but cannot lead out of `folder`.

    Characters that some file systems refuse become underscores; a suffix that `name` already has is not doubled.

    Raises:
        ValueError: an empty or absolute name, or one with "..".
    """
    plain = name.strip().replace("\\", "/")
    if PurePosixPath(plain).is_absolute() or PureWindowsPath(name.strip()).anchor or ".." in plain.split("/"):
        raise ValueError(f"The file name {name!r} leads out of its folder; use a plain name such as lathe/mesh.")
    pieces = [re.sub(r'[<>:"|?*\x00-\x1f]', "_", piece).strip() for piece in plain.split("/") if piece not in ("", ".")]
    if not pieces or not pieces[-1].removesuffix(suffix):
        raise ValueError(f"The file name {name!r} is empty; use a plain name such as lathe/mesh.")
    return Path(folder).joinpath(*pieces[:-1], pieces[-1].removesuffix(suffix) + suffix)


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes files into one folder, made if missing, so that a failure leaves none of them half written. The last one appears last.

    Raises:
        ValueError: the folder cannot be made or written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".writing_", dir=folder))
        try:
            for name, data in contents.items():
                (workshop / name).write_bytes(data)
            for name in contents:
                os.replace(workshop / name, folder / name)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"The folder {folder} cannot be written to: {reason}. Choose another, or free its disk.") from error


def save_mesh(mesh: Mesh, path: Path | str) -> list[Path]:
    """Writes a .glb, or an .obj with its .mtl and .png. Returns the files written, the one asked for last.

    Vertex colours are kept beside a texture in GLB (they multiply); OBJ keeps them only without one.

    Raises:
        ValueError: another kind of file, a mesh without faces, or a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in mesh_files.WRITABLE:
        raise ValueError(f"A mesh is saved as one of {', '.join(mesh_files.WRITABLE)}, not as {path.name!r}.")
    if mesh.faces.shape[0] == 0:
        raise ValueError("Saving: the mesh has no faces.")
    # OBJ separates words by blanks, so its side files have none in their names.
    stem = re.sub(r"\s+", "_", path.stem)
    contents = {path.name: mesh_files.glb_bytes(mesh)} if suffix == ".glb" else mesh_files.obj_files(mesh, stem)
    if suffix == ".obj":
        contents[path.name] = contents.pop(f"{stem}.obj")
    write_files(path.parent, contents)
    return [path.parent / name for name in contents]


def load_mesh(path: Path | str) -> Mesh:
    """Reads a .glb, .gltf, .obj, .ply, .stl or .off as one mesh; see `mesh_files.read_mesh`."""
    return mesh_files.read_mesh(Path(path))


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


def save_field(field: Field, path: Path | str) -> None:
    """Writes a field as .safetensors, its settings in the metadata entry "lathe".

    Raises:
        ValueError: a kind of field that has no file format, another suffix, or a folder that cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"A field is saved as .safetensors, not as {path.name!r}.")
    if not hasattr(field, "state"):
        raise ValueError(f"A {type(field).__name__} cannot be saved; mesh it, or save the mesh instead.")
    tensors, settings = field.state()
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_files(path.parent, {path.name: save(copies, metadata={"lathe": json.dumps(settings)})})


def load_field(path: Path | str) -> Field:
    """Reads what `save_field` wrote.

    Raises:
        ValueError: no such file, a damaged one, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    from . import splat_mesh
    from .nets import distil_net, projected_field, triplane_field

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {}).get("lathe", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read as a field, it may be cut short or damaged: {error}") from error
    kinds: dict[str, Any] = {
        triplane_field.FORMAT: triplane_field.TriplaneField,
        projected_field.FORMAT: projected_field.ProjectedField,
        splat_mesh.FORMAT: splat_mesh.SplatField,
        distil_net.FORMAT: distil_net.DistilledField,
    }
    name = settings.get("format") if isinstance(settings, dict) else None
    if name not in kinds:
        raise ValueError(f"{path.name} holds no field: its format is {name!r}, expected one of {', '.join(kinds)}.")
    return kinds[name].from_state(tensors, settings)
