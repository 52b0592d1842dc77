"""One object as the benchmarks see it: the picture that goes in, its six true views, and the 21-view orbit it is judged on.

The protocol is InstantMesh section 4: an orbit at elevations 30, 0 and -30 on white, objects in [-1, 1]^3, 16k surface points. Library
objects are rendered as the training set is (textured, with its mild light fixed in the world); other meshes with their own colours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..pipelines import metrics
from ..pipelines.cameras import preset_cameras
from ..pipelines.data.cameras import Cameras
from ..pipelines.data.mesh import Mesh
from ..pipelines.meshing import fit_to_cube

QUERY_SIZE, ORBIT_SIZE = 320, 128
SURFACE_POINTS = 16_000
SIX_VIEWS, ORBIT = "zero123plus_v1.2", "instantmesh_orbit"
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
    sizes = [QUERY_SIZE, size, ORBIT_SIZE]
    if arguments.meshes is not None:
        mesh = fit_to_cube(_load_mesh(Path(key)))
        views = [_render_own(mesh, c, s) for c, s in zip(cameras, sizes, strict=True)]
        key = Path(key).stem
    else:
        from ..training.objects import load_object

        obj = load_object(arguments.objects, key)
        mesh = Mesh(torch.from_numpy(obj.vertices), torch.from_numpy(obj.faces).long())
        views = [_render_library(obj, c, s) for c, s in zip(cameras, sizes, strict=True)]
    return Scene(key, metrics.sample_surface(mesh, SURFACE_POINTS, seed=0), *views)


def _render_library(obj: object, cameras: Cameras, size: int) -> Views:
    from ..training.render_dataset import render_object

    rgba = torch.from_numpy(render_object(obj, cameras, size).rgba).permute(0, 3, 1, 2).float() / 255  # type: ignore[arg-type]
    masks = rgba[:, 3:].contiguous()
    return Views(rgba[:, :3] * masks + (1 - masks), masks, cameras)


def _render_own(mesh: Mesh, cameras: Cameras, size: int) -> Views:
    from ..pipelines.rendering import render_mesh

    rendered = render_mesh(mesh, cameras, size, size, supersample=2)
    return Views(rendered.images, rendered.masks, cameras)


def _load_mesh(path: Path) -> Mesh:
    from ..pipelines.files import load_mesh

    return load_mesh(path)
