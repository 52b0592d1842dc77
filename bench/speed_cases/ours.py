"""Our code and the obvious form of it, timed the same way. Each case prepares its inputs and yields a function to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...pipelines.data.field import Field
from ...pipelines.data.mesh import Mesh
from ...pipelines.meshes.extract import field_to_mesh
from ...pipelines.nets.attention import explicit_attention, torch_attention
from ...pipelines.nets.triplane_field import TriplaneField, activate_color, sample_planes
from ...pipelines.ops.color import srgb_to_linear
from ...pipelines.ops.coordinate_frames.instantmesh import from_triplane
from ...pipelines.ops.flexicubes import flexicubes, grid_cubes, regular_grid
from ...pipelines.reconstruction.lrm import LRM
from ...pipelines.reconstruction.lrm import reconstruct as lathe_reconstruct
from ..parity_checks import instantmesh
from ..parity_checks.goldens import seeded
from . import obvious_flexicubes

Timed = Callable[[], dict[str, Any]]
"""Runs once; gives numbers by which the outputs of two forms can be told equal, and the seconds of its parts if it has any."""


def flexicubes_inputs(resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Moved grid corners, the sdf of a sphere, and random weights, of `resolution` cubes an edge."""
    draws = torch.Generator().manual_seed(0)
    grid = regular_grid(resolution)
    sdf = (grid - torch.tensor([0.013, -0.007, 0.021])).norm(dim=1) - 0.35
    corners = grid + torch.tanh(torch.randn(grid.shape, generator=draws)) / (4 * resolution)
    return corners, sdf, torch.randn(resolution**3, 21, generator=draws)


def mesh_numbers(vertices: Tensor, faces: Tensor) -> dict[str, Any]:
    """Counts and a sum that does not depend on order."""
    return {"vertices": len(vertices), "faces": len(faces), "sum": float(vertices.double().abs().sum())}


def flexicubes_ours(resolution: int) -> Timed:
    """The fast form."""
    corners, sdf, weights = flexicubes_inputs(resolution)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            surface = flexicubes(corners, sdf, resolution, weights)
        return mesh_numbers(surface.vertices, surface.faces)

    return run


def flexicubes_obvious(resolution: int) -> Timed:
    """Every cube, as the equations say."""
    corners, sdf, weights = flexicubes_inputs(resolution)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            return mesh_numbers(*obvious_flexicubes.flexicubes(corners, sdf, resolution, weights))

    return run


def lrm_inputs(variant: str) -> tuple[LRM, Tensor]:
    """A published size with the deterministic weights, and six pictures."""
    return LRM(instantmesh.build(variant), variant), seeded().seeded_input("images6", (6, 3, 320, 320), "uniform")


def lrm_ours(variant: str) -> Timed:
    """Six views to a mesh with vertex colours, as the nodes run it."""
    from ...pipelines.cameras.presets import preset_cameras

    lrm, images = lrm_inputs(variant)
    cameras = preset_cameras("zero123plus_v1.2")

    def run() -> dict[str, Any]:
        start = time.perf_counter()
        (field,) = lathe_reconstruct(lrm, images, None, cameras)
        between = time.perf_counter()
        mesh = field_to_mesh(field)
        parts = {"planes": between - start, "mesh": time.perf_counter() - between}
        return {**mesh_numbers(mesh.vertices, mesh.faces), "parts": parts}

    return run


def lrm_obvious(variant: str) -> Timed:
    """The same with the attention matrix spelled out, and each cube's corner features gathered for the weights."""
    from ...pipelines.cameras.presets import preset_cameras

    lrm, images = lrm_inputs(variant)
    cameras = preset_cameras("zero123plus_v1.2")

    def run() -> dict[str, Any]:
        with torch.no_grad():
            start = time.perf_counter()
            (field,) = lathe_reconstruct(lrm, images, None, cameras, attention=explicit_attention)
            between = time.perf_counter()
            assert isinstance(field, TriplaneField)
            mesh = _obvious_mesh(field)
            parts = {"planes": between - start, "mesh": time.perf_counter() - between}
        return {**mesh_numbers(*mesh), "parts": parts}

    return run


def _obvious_mesh(field: TriplaneField) -> tuple[Tensor, Tensor]:
    resolution, decoder = field.grid_res, field.decoder
    vertices = regular_grid(resolution, field.grid_scale)
    features = sample_planes(field.planes[None], vertices[None])[0]
    sdf = decoder.net_sdf(features)[:, 0]
    moved = vertices + torch.tanh(decoder.net_deformation(features)) / (4 * resolution)
    cubes = grid_cubes(resolution).split(1 << 16)
    weights = torch.cat([0.1 * decoder.net_weight(features[part].flatten(1)) for part in cubes])
    points, faces = obvious_flexicubes.flexicubes(moved, sdf, resolution, weights)
    colors = activate_color(decoder.net_rgb(sample_planes(field.planes[None], points[None]))[0])
    assert len(colors) == len(points)
    return from_triplane(points), faces


def image_to_mesh_inputs() -> tuple[Any, LRM, Any]:
    """The bundled mini models and a picture of a bench object."""
    import argparse

    from .. import common, reconstruct, scenes

    arguments = argparse.Namespace(objects=common.BENCH_OBJECTS, meshes=None, all=False)
    scene = scenes.load_scene(arguments, scenes.chosen_keys(arguments)[0], 64)
    return reconstruct.load_view_model(None), reconstruct.load_lrm(None), scene.query


def image_to_mesh(obvious: bool) -> Timed:
    """One picture to a textured mesh of at most 20000 faces; the obvious form spells out attention and visits every cube."""
    from ...pipelines.meshes.bake_texture import bake_from_field
    from ...pipelines.meshes.clean import clean
    from ...pipelines.meshes.simplify import simplify
    from ...pipelines.meshes.unwrap import unwrap
    from ...pipelines.view_generation.sampling import generate_views
    from .. import reconstruct

    view_model, lrm, query = image_to_mesh_inputs()
    attention = explicit_attention if obvious else torch_attention

    def run() -> dict[str, Any]:
        clock = Clock()
        image, mask = reconstruct.prepared(view_model, query)
        images = generate_views(view_model, image, mask, seed=0, attention=attention)
        clock.lap("views")
        views = reconstruct.with_picture(view_model, reconstruct.posed_views(view_model, images), query, elevation=15.0)
        clock.lap("masks, picture's camera")
        (field,) = lathe_reconstruct(lrm, views.images, views.masks, views.cameras, attention=attention)
        clock.lap("reconstruction")
        mesh = _dense_mesh(field) if obvious else field_to_mesh(field)
        clock.lap("mesh")
        numbers = mesh_numbers(mesh.vertices, mesh.faces)
        mesh = unwrap(simplify(clean(mesh), 20_000))
        clock.lap("clean, simplify, unwrap")
        bake_from_field(mesh, field, 1024)
        clock.lap("texture")
        return {**numbers, "parts": clock.parts}

    return run


def _dense_mesh(field: Field) -> Mesh:
    with torch.no_grad():
        grid = field.flexi_grid()
        assert grid is not None and grid.deformation is not None and grid.weights is not None
        corners = grid.vertices + grid.deformation
        vertices, faces = obvious_flexicubes.flexicubes(corners, grid.sdf, grid.resolution, grid.weights)
        return Mesh(vertices, faces, vertex_colors=srgb_to_linear(field.color(vertices).clamp(0, 1)))


class Clock:
    """Seconds of the parts of a run."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends the part called `name`."""
        now = time.perf_counter()
        self.parts[name] = now - self._last
        self._last = now
