"""Rendering meshes and fields: colours, masks, depth and normals against what geometry says they must be."""

from __future__ import annotations

import math

import pytest
import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops import camera_math
from lathe.pipelines.rendering.field import render_field
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.rendering.views import RenderedViews
from torch import Tensor

RADIUS = 0.7


def cameras(*poses: tuple[float, float], center: tuple[float, float] = (0.5, 0.5)) -> Cameras:
    azimuths, elevations = torch.tensor(poses).T
    K = camera_math.intrinsics(30, len(poses))
    K[:, 2:] = torch.tensor(center)
    return Cameras(camera_math.orbit(azimuths, elevations, 4.0), K, tuple(f"{a}/{e}" for a, e in poses))


def square(size: float = 0.5, color: tuple[float, float, float] | None = None, z: float = 0.0) -> Mesh:
    """A square in the plane z, facing the front, its texture coordinates upright."""
    vertices = torch.tensor([[-size, -size, z], [size, -size, z], [size, size, z], [-size, size, z]])
    uvs = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    colors = None if color is None else torch.tensor([color]).expand(4, 3).clone()
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), uvs, None, colors)


def sphere(n: int = 48) -> Mesh:
    """A sphere of radius RADIUS cut open along a seam, as unwrapped meshes are."""
    polar, around = torch.meshgrid(torch.linspace(0, math.pi, n + 1), torch.linspace(0, 2 * math.pi, 2 * n + 1), indexing="ij")
    around = torch.where(around == around.max(), torch.zeros_like(around), around)
    vertices = RADIUS * torch.stack([polar.sin() * around.sin(), polar.cos(), polar.sin() * around.cos()], dim=-1).reshape(-1, 3)
    row, column = torch.meshgrid(torch.arange(n), torch.arange(2 * n), indexing="ij")
    i = (row * (2 * n + 1) + column).flatten()
    j, k, m = i + 1, i + 2 * n + 1, i + 2 * n + 2
    return Mesh(vertices, torch.cat([torch.stack([i, k, j], -1), torch.stack([j, k, m], -1)]))


class Ball:
    """An analytic sphere as a field of either kind, its colour the position."""

    level, bound = 10.0, 1.0

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def geometry(self, points: Tensor) -> Tensor:
        sdf = points.norm(dim=-1) - RADIUS
        return sdf if self.kind == "sdf" else torch.sigmoid(-400 * sdf) * 400

    def color(self, points: Tensor) -> Tensor:
        return points * 0.5 + 0.5

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: object = None) -> None:
        return None

    def to(self, device: torch.device | str) -> Ball:
        return self


def check_sphere(views: RenderedViews, seen_by: Cameras, size: int, depth_tolerance: float, normal_tolerance: float) -> None:
    """Mask, depth and camera-space normals of a sphere, pixel by pixel, away from its outline."""
    origins, directions = camera_math.rays(seen_by.c2w, seen_by.K, size, size)
    a, b = (directions**2).sum(-1), (origins * directions).sum(-1)
    gap = b**2 - a * ((origins**2).sum(-1) - RADIUS**2)
    scale = (a * RADIUS) ** 2
    inside, outside = gap > 0.1 * scale, gap < -0.1 * scale
    assert inside.sum() > 0.2 * inside.numel()
    assert bool((views.masks[:, 0][inside] > 0.98).all()) and bool((views.masks[:, 0][outside] < 0.02).all())
    depth = (-b - gap.clamp(min=0).sqrt()) / a
    assert float((views.depths[:, 0] - depth)[inside].abs().max()) < depth_tolerance
    assert float(views.depths[:, 0][outside].abs().max()) == 0
    normals = torch.einsum("vij,vhwi->vhwj", seen_by.c2w[:, :3, :3], (origins + depth[..., None] * directions) / RADIUS)
    assert float((views.normals.permute(0, 2, 3, 1) - normals)[inside].abs().max()) < normal_tolerance
    assert float(views.normals.permute(0, 2, 3, 1)[outside].abs().max()) == 0
    lengths = views.normals.norm(dim=1)[views.depths[:, 0] > 0]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


THREE = cameras((0, 0), (75, 30), (200, -50), center=(0.45, 0.56))


@pytest.mark.parametrize("supersample", [1, 2])
def test_mesh_of_a_sphere(supersample: int) -> None:
    views = render_mesh(sphere(), THREE, 64, 64, supersample=supersample)
    assert views.images.shape == (3, 3, 64, 64) and views.masks.shape == views.depths.shape == (3, 1, 64, 64)
    check_sphere(views, THREE, 64, 0.01, 0.03)
    soft = (views.masks > 0.02) & (views.masks < 0.98)
    assert 60 < soft[0].sum() < 250
    assert float(views.images.min()) >= 0.69 and float(views.images.max()) <= 1


@pytest.mark.parametrize("kind", ["sdf", "density"])
def test_field_of_a_sphere(kind: str) -> None:
    views = render_field(Ball(kind), THREE, 48, 48, background=(0.0, 0.0, 0.0))
    check_sphere(views, THREE, 48, 1e-3 if kind == "sdf" else 0.02, 0.02)
    origins, directions = camera_math.rays(THREE.c2w, THREE.K, 48, 48)
    hit = origins + views.depths[:, 0, :, :, None] * directions
    core = views.normals[:, 2] > 0.5
    error = views.images.permute(0, 2, 3, 1) - (hit * 0.5 + 0.5)
    assert float(error[core].abs().max()) < (1e-3 if kind == "sdf" else 0.02)
    assert float(views.images.permute(0, 2, 3, 1)[views.masks[:, 0] == 0].max()) == 0


def test_supersampled_field_has_soft_edges() -> None:
    views = render_field(Ball("sdf"), cameras((0, 0)), 32, 32, supersample=2)
    assert set((views.masks * 4).unique().tolist()) == {0, 1, 2, 3, 4}


def test_mesh_and_field_agree() -> None:
    """The two renderers show the same object at the same place: silhouettes differ by less than a pixel's share."""
    mesh, field = render_mesh(sphere(), THREE, 64, 64), render_field(Ball("sdf"), THREE, 64, 64, supersample=2)
    assert float((mesh.masks - field.masks).abs().mean()) < 0.005


def test_depth_is_along_the_axis_not_along_the_ray() -> None:
    views = render_mesh(square(0.9, z=0.25), cameras((0, 0)), 32, 32)
    inside = views.masks[0, 0] > 0.99
    depths = views.depths[0, 0][inside]
    torch.testing.assert_close(depths, torch.full_like(depths, 3.75), atol=1e-5, rtol=0)


def test_red_left_side_appears_left_from_the_front_and_right_from_the_back() -> None:
    """Seen from azimuth 0, the object's +X is on the right of the picture: a red half at -X is on its left."""
    mesh = sphere()
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    mesh = Mesh(mesh.vertices, mesh.faces, vertex_colors=torch.where(mesh.vertices[:, :1] < 0, red, blue))
    images = render_mesh(mesh, cameras((0, 0), (180, 0), (90, 0)), 32, 32).images
    left, right = images[:, :, 16, 10], images[:, :, 16, 21]
    for view, (a, b) in enumerate([(red, blue), (blue, red), (blue, blue)]):
        torch.testing.assert_close(left[view], a)
        torch.testing.assert_close(right[view], b)


def test_texture_is_upright() -> None:
    """Lettering reads as it was painted: the texture's top left is at the top left of the face, seen from the front."""
    letter_f = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0.0]])
    mesh = square()
    mesh = Mesh(mesh.vertices, mesh.faces, mesh.uvs, letter_f[..., None].expand(4, 4, 3).clone())
    K = torch.tensor([[4.0, 4.0, 0.5, 0.5]])
    fill = Cameras(camera_math.orbit(torch.zeros(1), torch.zeros(1), 4.0), K, ("front",))
    images = render_mesh(mesh, fill, 4, 4).images
    torch.testing.assert_close(images[0, 0], letter_f, atol=1e-4, rtol=0)


def test_vertex_colors_are_linear_and_images_srgb() -> None:
    images = render_mesh(square(color=(0.2140411, 0.0, 1.0)), cameras((0, 0)), 8, 8).images
    torch.testing.assert_close(images[0, :, 4, 4], torch.tensor([0.5, 0.0, 1.0]), atol=1e-4, rtol=0)


def test_a_face_seen_from_behind_shows_the_normal_of_its_back() -> None:
    normals = render_mesh(square(), cameras((0, 0), (180, 0)), 9, 9).normals[:, :, 4, 4]
    torch.testing.assert_close(normals, torch.tensor([[0.0, 0, 1], [0, 0, 1]]))


def test_a_sheet_drawn_from_both_sides_keeps_its_normal() -> None:
    """Faces of opposite winding at the same place cancel in the vertices' normals."""
    one = square()
    mesh = Mesh(one.vertices, torch.cat([one.faces, one.faces.flip(-1)]))
    normals = render_mesh(mesh, cameras((0, 0), (180, 0)), 9, 9).normals[:, :, 4, 4]
    torch.testing.assert_close(normals, torch.tensor([[0.0, 0, 1], [0, 0, 1]]))


def test_background_colour_and_coverage_blend() -> None:
    """image = albedo x mask + background x (1 - mask) at the outline too."""
    for supersample in (1, 2):
        views = render_mesh(square(color=(0.0, 0.0, 0.0)), cameras((30, 20)), 24, 24, background=(0.2, 0.4, 0.6), supersample=supersample)
        expected = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1) * (1 - views.masks)
        torch.testing.assert_close(views.images, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vertices", [0, 5])
def test_an_empty_mesh_shows_the_background(vertices: int) -> None:
    mesh = Mesh(torch.zeros(vertices, 3), torch.zeros(0, 3, dtype=torch.int64), vertex_colors=torch.zeros(vertices, 3))
    views = render_mesh(mesh, cameras((0, 0), (40, 0)), 6, 7, background=(0.1, 0.2, 0.3), supersample=2)
    assert views.images.shape == (2, 3, 6, 7)
    torch.testing.assert_close(views.images, torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(2, 3, 6, 7))
    assert float(views.masks.sum() + views.depths.sum() + views.normals.abs().sum()) == 0


def test_each_view_is_what_it_is_alone() -> None:
    together = render_mesh(sphere(20), THREE, 20, 24)
    for index in range(3):
        alone = render_mesh(sphere(20), THREE.select([index]), 20, 24)
        for a, b in zip(vars(together).values(), vars(alone).values(), strict=True):
            assert torch.equal(a[index], b[0])


def test_images_follow_the_vertices() -> None:
    """Growing the object grows the mask: the gradient has the sign and about the size of a finite difference."""
    base = sphere(24)
    scale = torch.ones((), requires_grad=True)

    def area(s: Tensor) -> Tensor:
        return render_mesh(Mesh(base.vertices * s, base.faces), cameras((20, 10)), 64, 64).masks.sum()

    area(scale).backward()
    measured = float(area(torch.tensor(1.02)) - area(torch.tensor(0.98))) / 0.04
    assert scale.grad is not None and abs(float(scale.grad) - measured) < 0.1 * measured


def test_progress_and_cancel() -> None:
    calls: list[tuple[int, int, bool]] = []

    def tick(step: int, total: int, preview: Tensor | None = None) -> None:
        assert preview is None or preview.shape == (80, 70, 3)
        calls.append((step, total, preview is not None))

    render_mesh(sphere(8), THREE, 80, 70, tick=tick)
    assert calls == [(1, 3, True), (2, 3, True), (3, 3, True)]
    calls.clear()
    render_field(Ball("sdf"), THREE.select([0, 1]), 80, 70, tick=tick)
    assert calls == [(1, 4, False), (2, 4, True), (3, 4, False), (4, 4, True)]

    class Cancelled(Exception):
        pass

    def cancel(step: int, total: int, preview: Tensor | None = None) -> None:
        raise Cancelled

    for run in (lambda: render_mesh(sphere(8), THREE, 8, 8, tick=cancel), lambda: render_field(Ball("sdf"), THREE, 8, 8, tick=cancel)):
        with pytest.raises(Cancelled):
            run()


def test_inputs_are_left_alone() -> None:
    mesh = sphere(8)
    before = mesh.vertices.clone(), mesh.faces.clone(), THREE.c2w.clone(), THREE.K.clone()
    with torch.inference_mode():
        render_mesh(mesh, THREE, 8, 8)
        render_field(Ball("density"), THREE, 8, 8)
    for kept, now in zip(before, (mesh.vertices, mesh.faces, THREE.c2w, THREE.K), strict=True):
        assert torch.equal(kept, now)


def test_bad_requests_are_refused() -> None:
    many = Cameras(THREE.c2w.expand(2, 3, 4, 4), THREE.K.expand(2, 3, 4), THREE.names)
    with pytest.raises(ValueError, match="of_asset"):
        render_mesh(sphere(8), many, 8, 8)
    with pytest.raises(ValueError, match="1 x 1"):
        render_field(Ball("sdf"), THREE, 0, 8)
    with pytest.raises(ValueError, match="supersample"):
        render_mesh(sphere(8), THREE, 8, 8, supersample=3)
