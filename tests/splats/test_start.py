"""Where a fit starts."""

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops import visual_hull
from lathe.pipelines.ops.quaternions import rotation_matrices
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.splats import start
from lathe.pipelines.splats.start import start_at_centre, start_from_hull, start_from_mesh, start_from_points, start_from_voxel, turns_of_z


def box(x: float, y: float, z: float) -> Mesh:
    """A box of these half sizes, red where x > 0."""
    corners = torch.tensor([[i, j, k] for i in (-x, x) for j in (-y, y) for k in (-z, z)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    colors = torch.where(corners[:, :1] > 0, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    return Mesh(corners, faces, vertex_colors=colors)


def colors_of(splats):
    return 0.5 + 0.28209479 * splats.sh[:, 0]


def test_centre_is_a_faint_grey_ball_and_depends_on_the_seed_alone():
    ball = start_at_centre(2000, seed=3)
    assert len(ball) == 2000 and float(ball.positions.norm(dim=1).max()) <= 0.5
    assert float(ball.positions.mean(0).abs().max()) < 0.03 and torch.allclose(colors_of(ball), torch.tensor(0.5))
    assert torch.equal(ball.positions, start_at_centre(2000, seed=3).positions)
    assert not torch.equal(ball.positions, start_at_centre(2000, seed=4).positions)


def test_sizes_follow_the_distance_of_neighbours():
    grid = torch.stack(torch.meshgrid(*[torch.arange(4) * 0.1] * 3, indexing="ij"), -1).reshape(-1, 3)
    assert torch.allclose(start_from_points(grid, grid).scales, torch.tensor(0.1), atol=1e-6)
    assert len(start_from_points(grid[:1], grid[:1])) == 1
    with pytest.raises(ValueError, match="none, NaN"):
        start_from_points(grid[:0], grid[:0])
    with pytest.raises(ValueError, match="none, NaN"):
        start_from_points(grid * float("nan"), grid)


def test_discs_lie_along_the_surface():
    directions = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3], [0, 0, 1], [0, 0, -1], [-1, 0, 0]]), dim=1)
    assert torch.allclose(rotation_matrices(turns_of_z(directions))[..., 2], directions, atol=1e-6)


def test_mesh_gives_its_surface_in_its_colours():
    splats = start_from_mesh(box(0.5, 0.3, 0.2), 4000, seed=0)
    outside = (splats.positions.abs() / torch.tensor([0.5, 0.3, 0.2])).amax(1)
    assert torch.allclose(outside, torch.ones(4000), atol=1e-5)
    red, blue = splats.positions[:, 0] > 0.49999, splats.positions[:, 0] < -0.49999
    assert torch.allclose(colors_of(splats)[red], torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(colors_of(splats)[blue], torch.tensor([0.0, 0, 1]), atol=1e-3)
    texture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    plane = Mesh(torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]),
                 uvs=torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]]), texture=texture)  # fmt: skip
    painted = start_from_mesh(plane, 2000, seed=0)
    column = ((painted.positions[:, 0] + 1) * 4).long()
    row = ((1 - painted.positions[:, 1]) * 4).long()
    assert float((colors_of(painted) - texture[row, column]).abs().mean()) < 0.15


def test_a_mesh_without_faces_gives_its_points():
    none = torch.zeros(0, 3, dtype=torch.int64)
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    cloud = Mesh(points, none, vertex_colors=torch.eye(4, 3))
    splats = start_from_mesh(cloud, 10, seed=0)
    assert torch.equal(splats.positions, points) and torch.allclose(colors_of(splats), torch.eye(4, 3), atol=1e-4)
    assert len(start_from_mesh(cloud, 2, seed=0)) == 2
    assert torch.allclose(colors_of(start_from_mesh(Mesh(points, none), 4, 0)), torch.tensor(0.5))
    with pytest.raises(ValueError, match="points that are none"):
        start_from_mesh(Mesh(torch.zeros(0, 3), none), 10, 0)


def test_voxels_stand_where_their_cells_are():
    volume = torch.zeros(4, 6, 8)
    volume[3, 0, 7] = volume[0, 0, 0] = 0.9
    splats = start_from_voxel(volume, 0.6, most=100, seed=0)
    assert torch.allclose(splats.positions, torch.tensor([[-7 / 8, -5 / 6, -3 / 4], [7 / 8, -5 / 6, 3 / 4]]), atol=1e-6)
    assert torch.allclose(splats.scales, torch.tensor([1 / 8, 1 / 6, 1 / 4]), atol=1e-6)
    larger = start_from_voxel(volume, 0.6, most=100, seed=0, extent=1.5)
    assert torch.allclose(larger.positions, 1.5 * splats.positions) and torch.allclose(larger.scales, 1.5 * splats.scales)
    assert len(start_from_voxel(torch.ones(8, 8, 8), 0.6, most=50, seed=0)) == 50
    with pytest.raises(ValueError, match=r"No cell of the VOXEL reaches 0.95; its largest is 0.9"):
        start_from_voxel(volume, 0.95, 100, 0)
    with pytest.raises(ValueError, match="finite"):
        start_from_voxel(volume[0], 0.6, 100, 0)


def views_of(mesh: Mesh, cameras):
    rendered = render_mesh(mesh, cameras, 64, 64)
    return rendered.images, rendered.masks


def test_hull_lies_on_the_object_and_has_the_colours_of_its_sides():
    mesh, cameras = box(0.5, 0.3, 0.2), posed_cameras([0, 90, 180, 270, 45, 225], [0, 0, 0, 0, 60, -60], 4.0, 30.0)
    images, masks = views_of(mesh, cameras)
    splats = start_from_hull(images, masks, cameras, 3000, seed=0, resolution=64)
    outside = (splats.positions.abs() / torch.tensor([0.5, 0.3, 0.2])).amax(1)
    assert len(splats) == 3000 and 0.85 < float(outside.median()) < 1.15
    red, blue = splats.positions[:, 0] > 0.47, splats.positions[:, 0] < -0.47
    assert float((colors_of(splats)[red] - torch.tensor([1.0, 0, 0])).abs().mean()) < 0.1
    assert float((colors_of(splats)[blue] - torch.tensor([0.0, 0, 1])).abs().mean()) < 0.1
    assert torch.equal(splats.positions, start_from_hull(images, masks, cameras, 3000, seed=0, resolution=64).positions)


def test_hull_leaves_out_empty_masks_and_one_that_contradicts_the_rest():
    mesh, cameras = box(0.5, 0.3, 0.2), orbit_cameras(8, elevation=15)
    images, masks = views_of(mesh, cameras)
    masks[2] = 0
    whole = start_from_hull(images, masks, cameras, 500, seed=0, resolution=48)
    masks[5] = 0
    masks[5, :, :12, :12] = 1
    spared = start_from_hull(images, masks, cameras, 500, seed=0, resolution=48)
    for splats in (whole, spared):
        assert torch.allclose(splats.positions.abs().amax(0), torch.tensor([0.5, 0.3, 0.2]), atol=0.15)
    corner = torch.zeros_like(masks)
    for view in range(8):
        corner[view, :, (8 * view) : (8 * view + 8), :8] = 1
    with pytest.raises(ValueError, match="do not meet in space"):
        start_from_hull(images, corner, cameras, 500, seed=0, resolution=48)


def test_masks_that_disagree_are_asked_once_however_many_may_be_left_out(monkeypatch):
    cameras, asked, ticks = orbit_cameras(24, elevation=15), [], []
    images, masks = views_of(box(0.5, 0.3, 0.2), cameras)
    whole = start_from_hull(images, masks, cameras, 500, seed=0, resolution=48)
    wrong = [1, 5, 9, 13, 17, 21]
    masks[wrong] = 0
    masks[wrong, :, :6, :6] = 1
    real = visual_hull.sample_views
    monkeypatch.setattr(start, "POINTS_AT_ONCE", 48**3 // 4)
    monkeypatch.setattr(start, "sample_views", lambda points, *rest: asked.append(len(points)) or real(points, *rest))
    spared = start_from_hull(images, masks, cameras, 500, seed=0, resolution=48, tick=lambda *step: ticks.append(step))
    assert asked == [48**3 // 4] * 4 + [500]  # the space once, then the colours
    assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.allclose(spared.positions.abs().amax(0), whole.positions.abs().amax(0), atol=0.1)
    masks[[3, 7]] = masks[wrong[:2]]  # more than a quarter
    with pytest.raises(ValueError, match="do not meet in space"):
        start_from_hull(images, masks, cameras, 500, seed=0, resolution=48)


def test_a_tick_that_raises_ends_the_start():
    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        raise Cancelled

    cameras = orbit_cameras(4)
    with pytest.raises(Cancelled):
        start_from_hull(*views_of(box(0.5, 0.3, 0.2), cameras), cameras, 500, seed=0, resolution=48, tick=tick)
