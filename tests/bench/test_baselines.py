"""The baselines on a ball whose views are known, and the views of a bench object."""

import argparse

import numpy as np
import pytest
import torch
from lathe.bench import baselines, common, scenes
from lathe.pipelines import metrics
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops import camera_math, mesh_sampling
from lathe.pipelines.rendering.mesh import render_mesh

RADIUS = 0.6


def ball_views(cameras, size=96):
    """A ball, red where x > 0 and blue elsewhere, ray traced."""
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, size, size)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    along = -(origins * unit).sum(-1, keepdim=True)
    offset = ((origins + along * unit) ** 2).sum(-1, keepdim=True)
    masks = (offset < RADIUS**2).float().permute(0, 3, 1, 2)
    hit = origins + (along - (RADIUS**2 - offset).clamp_min(0).sqrt()) * unit
    red = (hit[..., 0] > 0).float()[:, None]
    return torch.cat([red, torch.zeros_like(red), 1 - red], dim=1) * masks + (1 - masks), masks


def volume_inside(mesh):
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def closed(mesh):
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    forward, backward = ({*map(tuple, e.tolist())} for e in (edges, edges.flip(1)))
    return forward == backward


def test_hull_of_a_ball():
    cameras = preset_cameras("zero123plus_v1.2")
    images, masks = ball_views(cameras)
    mesh = baselines.visual_hull_mesh(images, masks, cameras, 48)
    ball = 4 / 3 * np.pi * RADIUS**3
    assert closed(mesh) and ball < volume_inside(mesh) < 1.25 * ball  # outward faces, a hull is never smaller
    right, left = mesh.vertices[:, 0] > 0.15, mesh.vertices[:, 0] < -0.15
    colors = mesh.vertex_colors
    assert float(colors[right].mean(0)[0]) > 0.95 and float(colors[right].mean(0)[2]) < 0.05
    assert float(colors[left].mean(0)[2]) > 0.95 and float(colors[left].mean(0)[0]) < 0.05


def test_colors_come_from_the_views_that_see_a_place():
    """Two plates one behind the other: the rear one must not take the front one's colour."""
    square = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    vertices = torch.cat([square + torch.tensor([0, 0, 0.3]), (square + torch.tensor([0, 0, -0.3])) * torch.tensor([-1.0, 1, 1])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    colors = torch.tensor([[1.0, 0, 0]] * 4 + [[0, 0, 1.0]] * 4)
    mesh = Mesh(vertices, faces, vertex_colors=colors)
    cameras = posed_cameras([0, 180], [0, 0], 4.0, 30.0)
    views = render_mesh(mesh, cameras, 64, 64)
    got = baselines.visible_colors(mesh, views.images, views.masks, cameras, tolerance=0.05)
    torch.testing.assert_close(got, colors, atol=0.02, rtol=0)


def test_extrusion_keeps_the_silhouette_and_its_colors():
    camera = posed_cameras([0], [0], 4.0, 30.0)
    images, masks = ball_views(camera)
    mesh = baselines.extrusion_mesh(images[0], masks[0], camera, depth_share=0.5, resolution=48)
    thickness = 0.5 * float(masks.mean().sqrt()) * 4 / float(camera.K[0, 0])
    depth = float(mesh.vertices[:, 2].max() - mesh.vertices[:, 2].min())
    assert closed(mesh) and volume_inside(mesh) > 0
    assert depth == pytest.approx(thickness, abs=2 / 48)
    again = render_mesh(mesh, camera, 96, 96)
    assert float(((again.masks > 0.5) != (masks > 0.5)).float().mean()) < 0.02
    # red on the picture's right from front to back
    assert float(mesh.vertex_colors[mesh.vertices[:, 0] > 0.15][:, 0].min()) > 0.8


def test_extrusion_and_hull_say_what_is_wrong():
    cameras = preset_cameras("zero123plus_v1.2")
    images, masks = ball_views(cameras)
    with pytest.raises(ValueError, match="empty"):
        baselines.extrusion_mesh(images[0], masks[0] * 0, cameras.select([0]))
    with pytest.raises(ValueError, match="no point of space"):
        baselines.visual_hull_mesh(images, masks * 0, cameras, 16)


def test_mean_shape_is_a_coloured_solid_in_the_cube():
    mesh = baselines.mean_shape_mesh()
    assert closed(mesh) and 0.05 < volume_inside(mesh) < 2
    assert float(mesh.vertices.norm(dim=1).max()) < 1.0
    assert mesh.vertex_colors is not None and 0.1 < float(mesh.vertex_colors.mean()) < 0.9


def test_scene_of_a_bench_object():
    arguments = argparse.Namespace(objects=common.BENCH_OBJECTS, meshes=None, all=False)
    keys = scenes.chosen_keys(arguments)
    assert len(keys) == 8
    scene = scenes.load_scene(arguments, "scopia/vase3", 64)
    assert scene.surface.shape == (16_000, 3) and 0.85 < float(scene.surface.norm(dim=1).max()) <= 0.951
    assert scene.query.images.shape == (1, 3, 320, 320) and scene.six.images.shape == (6, 3, 64, 64)
    assert scene.orbit.images.shape == (21, 3, 128, 128)
    elevation = torch.rad2deg(torch.asin(scene.orbit.cameras.c2w[:, 1, 3] / 4))
    assert sorted(elevation.round().int().tolist()) == [-30] * 7 + [0] * 7 + [30] * 7
    # the surface projects into the silhouettes
    uv, _ = camera_math.project(scene.surface, scene.orbit.cameras.c2w, scene.orbit.cameras.K)
    covered = torch.nn.functional.grid_sample(scene.orbit.masks, uv[:, None] * 2 - 1, align_corners=False)
    assert float((covered > 0.1).float().mean()) > 0.99
    # white behind the object
    assert torch.equal(scene.orbit.images[:, :, 0, 0], torch.ones(21, 3))
    hull = baselines.visual_hull_mesh(scene.six.images, scene.six.masks, scene.six.cameras, 48)
    assert metrics.surface_scores(mesh_sampling.sample_surface(hull, 4096, 0), scene.surface)["fscore_0.1"] > 0.8
