"""One object as the benchmarks see it: the pictures that go in, true views, and the views a result is judged on.

The protocol is InstantMesh section 4: an orbit at elevations 30, 0 and -30 on white, objects in [-1, 1]^3, 16k surface points. Library
objects are rendered as the training set is (textured, with its mild light fixed in the world); other meshes with their own colours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pipelines.cameras.orbits import posed_cameras
from ..pipelines.cameras.presets import preset_cameras
from ..pipelines.data.cameras import Cameras
from ..pipelines.data.mesh import Mesh
from ..pipelines.meshes.clean import fit_to_cube
from ..pipelines.ops import mesh_sampling

QUERY_SIZE, ORBIT_SIZE = 320, 128
SURFACE_POINTS = 16_000
SIX_VIEWS, ORBIT = "zero123plus_v1.2", "instantmesh_orbit"
TURNTABLE_SIZE, TURNTABLE_RINGS, HELD_OUT_ELEVATIONS = 256, (-10.0, 30.0), (10.0, 45.0)
LEAST_ANGLE = 10.0  # degrees between a held-out view and any that went in
QUERY_VIEW = 32  # of the data set's cameras: azimuth 0, an elevation in -10..40 that depends on the object's name alone


@dataclass(frozen=True)
class Views:
    """Pictures (V, 3, S, S) on white, masks (V, 1, S, S) with 1 = object, and their cameras."""

    images: Tensor
    masks: Tensor
    cameras: Cameras

    def resized(self, size: int) -> Views:
        """The same views at another size, by area averaging."""
        if size == self.images.shape[-1]:
            return self
        images, masks = (torch.nn.functional.interpolate(t, size=(size, size), mode="area") for t in (self.images, self.masks))
        return Views(images, masks, self.cameras)


@dataclass(frozen=True)
class Scene:
    """One object.

    Attributes:
        key: its name.
        surface: (16000, 3) points of the true surface, uniform by area.
        query: one view, in front of the object (azimuth 0).
        six: the views Zero123++ v1.2 would make of it.
        orbit: the 21 views that reconstructions are judged on, 128 px.
    """

    key: str
    surface: Tensor
    query: Views
    six: Views
    orbit: Views

    @property
    def query_elevation(self) -> float:
        """Degrees above the horizon from which the query is seen."""
        eye = self.query.cameras.c2w[0, :3, 3]
        return float(torch.rad2deg(torch.asin(eye[1] / eye.norm())))


@dataclass(frozen=True)
class Turntable:
    """One object filmed all around.

    Attributes:
        key: its name.
        surface: (16000, 3) points of the true surface, uniform by area.
        inputs: 16 views, two rings of 8.
        held_out: 8 views that no method sees.
    """

    key: str
    surface: Tensor
    inputs: Views
    held_out: Views


def turntable_cameras() -> tuple[Cameras, Cameras]:
    """The 16 cameras that go in and the 8 held out, at the training views' radius and field of view.

    In: a ring of 8 at elevation -10 (azimuths 0, 45, ...) and one at 30 (azimuths 22.5, 67.5, ...), as somebody who turns an object in
    front of a camera twice. Held out: azimuths 11.25, 56.25, ..., between the rings (elevation 10) and above both (45) in turn.

    Raises:
        ValueError: a held-out view lies within 10 degrees of one that goes in.
    """
    from ..training.render_dataset import FOV, RADIUS

    steps = [45.0 * step for step in range(8)]
    low, high = TURNTABLE_RINGS
    inputs = posed_cameras(steps + [a + 22.5 for a in steps], [low] * 8 + [high] * 8, RADIUS, FOV)
    held_out = posed_cameras([a + 11.25 for a in steps], [HELD_OUT_ELEVATIONS[step % 2] for step in range(8)], RADIUS, FOV)
    nearest = float(angles_between(inputs, held_out).min())
    if nearest < LEAST_ANGLE:
        raise ValueError(f"A held-out view lies {nearest:.1f} degrees from one that goes in; at least {LEAST_ANGLE:g} are needed.")
    return inputs, held_out


def angles_between(first: Cameras, second: Cameras) -> Tensor:
    """(V1, V2) angles in degrees between the directions from the origin to the cameras."""
    a, b = (torch.nn.functional.normalize(c.c2w[:, :3, 3].double(), dim=1) for c in (first, second))
    return torch.rad2deg(torch.acos((a @ b.T).clamp(-1, 1)))


def chosen_keys(arguments: argparse.Namespace) -> list[str]:
    """Names of the objects that `common.add_object_arguments` selected: bench objects, all test objects, or files."""
    from ..training.objects import split

    if arguments.meshes is not None:
        keys = sorted(str(p) for p in Path(arguments.meshes).iterdir() if p.suffix.lower() in (".glb", ".obj"))
        if not keys:
            raise ValueError(f"{arguments.meshes} holds no .glb and no .obj file.")
        return keys
    return split("test" if arguments.all else "bench")


def load_scene(arguments: argparse.Namespace, key: str, size: int) -> Scene:
    """The scene of one object; `size` is the side in pixels of its six views."""
    from ..training.render_dataset import dataset_cameras

    cameras = [dataset_cameras(key).select([QUERY_VIEW]), preset_cameras(SIX_VIEWS), preset_cameras(ORBIT)]
    return Scene(*_rendered(arguments, key, cameras, [QUERY_SIZE, size, ORBIT_SIZE]))


def load_turntable(arguments: argparse.Namespace, key: str) -> Turntable:
    """The turntable of one object, 256 px."""
    return Turntable(*_rendered(arguments, key, list(turntable_cameras()), [TURNTABLE_SIZE] * 2))


def load_views(arguments: argparse.Namespace, key: str, cameras: list[Cameras], size: int) -> list[Views]:
    """The views of one object from each set of cameras."""
    return list(_rendered(arguments, key, cameras, [size] * len(cameras))[2:])


def load_depths(arguments: argparse.Namespace, key: str, cameras: Cameras, size: int) -> Tensor:
    """z-depths (V, 1, S, S) of one object, 0 on the background."""
    if arguments.meshes is not None:
        from ..pipelines.rendering.mesh import render_mesh

        return render_mesh(fit_to_cube(_load_mesh(Path(key))), cameras, size, size).depths
    from ..training.objects import load_object
    from ..training.render_dataset import render_object

    return torch.from_numpy(render_object(load_object(arguments.objects, key), cameras, size).depth)[:, None]


def _rendered(arguments: argparse.Namespace, key: str, cameras: list[Cameras], sizes: list[int]) -> tuple[Any, ...]:
    """The object's name, points of its surface, and its views from each set of cameras."""
    if arguments.meshes is not None:
        mesh = fit_to_cube(_load_mesh(Path(key)))
        views = [_render_own(mesh, c, s) for c, s in zip(cameras, sizes, strict=True)]
        key = Path(key).stem
    else:
        from ..training.objects import load_object

        obj = load_object(arguments.objects, key)
        mesh = Mesh(torch.from_numpy(obj.vertices), torch.from_numpy(obj.faces).long())
        views = [_render_library(obj, c, s) for c, s in zip(cameras, sizes, strict=True)]
    return key, mesh_sampling.sample_surface(mesh, SURFACE_POINTS, seed=0), *views


def _render_library(obj: object, cameras: Cameras, size: int) -> Views:
    from ..training.render_dataset import render_object

    rgba = torch.from_numpy(render_object(obj, cameras, size).rgba).permute(0, 3, 1, 2).float() / 255  # type: ignore[arg-type]
    masks = rgba[:, 3:].contiguous()
    return Views(rgba[:, :3] * masks + (1 - masks), masks, cameras)


def _render_own(mesh: Mesh, cameras: Cameras, size: int) -> Views:
    from ..pipelines.rendering.mesh import render_mesh

    rendered = render_mesh(mesh, cameras, size, size, supersample=2)
    return Views(rendered.images, rendered.masks, cameras)


def _load_mesh(path: Path) -> Mesh:
    from ..pipelines.formats.meshes import load_mesh

    return load_mesh(path)
