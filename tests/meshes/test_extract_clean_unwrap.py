"""Fields to meshes, cleaning, simplification, unwrapping in a child process, and what each says about bad input."""

import subprocess
import sys
import time

import pytest
import torch
from handed import signed_volume
from lathe.pipelines.data.field import FlexiGrid
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.meshes import clean, extract, simplify, unwrap
from lathe.pipelines.ops.color import linear_to_srgb, srgb_to_linear
from lathe.pipelines.ops.flexicubes import regular_grid
from lathe.pipelines.ops.mesh_tools import face_components, merge_vertices, taubin, vertex_normals


class Ball:
    """A ball of radius 0.6 as an sdf, or as a density that passes 10 at its surface."""

    level, bound, radius = 0.0, 1.0, 0.6

    def __init__(self, kind="sdf", grid=None, break_with=None):
        self.kind, self.grid, self.break_with = kind, grid, break_with
        self.level = 0.0 if kind == "sdf" else 10.0

    def geometry(self, points):
        sdf = points.norm(dim=1) - self.radius
        if self.break_with is not None:
            sdf = sdf + self.break_with
        return sdf if self.kind == "sdf" else 10 - 40 * sdf

    def color(self, points):
        return points / 2 + 0.5

    def flexi_grid(self, resolution=None, chunk=65536, tick=None):
        return self.grid

    def to(self, device):
        return self


def box(size=1.0, centre=(0.0, 0.0, 0.0)):
    """A closed box of 12 triangles, counter-clockwise from outside."""
    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    return corners * size + torch.tensor(centre), faces


def joined(*parts):
    vertices, faces, start = [], [], 0
    for v, f in parts:
        vertices.append(v)
        faces.append(f + start)
        start += len(v)
    return Mesh(torch.cat(vertices), torch.cat(faces))


@pytest.fixture(scope="module")
def ball():
    return extract.field_to_mesh(Ball(), "marching_cubes", 40)


@pytest.mark.parametrize("kind", ["sdf", "density"])
@pytest.mark.parametrize("method", ["flexicubes", "marching_cubes"])
def test_a_ball_has_its_size_winding_and_colors(kind, method):
    seen = []
    mesh = extract.field_to_mesh(Ball(kind), method, 40, tick=lambda step, total, preview=None: seen.append((step, total)))
    assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(4 / 3 * torch.pi * 0.6**3, rel=0.02)
    assert (mesh.vertices.norm(dim=1) - 0.6).abs().max() < 0.012
    torch.testing.assert_close(linear_to_srgb(mesh.vertex_colors), mesh.vertices / 2 + 0.5, atol=1e-5, rtol=0)
    outward = (vertex_normals(mesh.vertices, mesh.faces) * mesh.vertices).sum(1)
    assert (outward > 0.5).all()
    assert seen[-1] == (41, 41) and len(seen) > 1


def test_predicted_displacements_and_weights_are_used():
    grid = regular_grid(16, 2.0)
    moved = torch.full_like(grid, 0.01)
    weights = torch.randn(16**3, 21, generator=torch.Generator().manual_seed(0))
    plain = FlexiGrid(grid, grid.norm(dim=1) - 0.6, None, None, 16)
    shifted = FlexiGrid(grid, plain.sdf, moved, None, 16)
    weighted = FlexiGrid(grid, plain.sdf, None, weights, 16)
    meshes = [extract.field_to_mesh(Ball(grid=g)) for g in (plain, shifted, weighted)]
    torch.testing.assert_close(meshes[1].vertices, meshes[0].vertices + 0.01)
    assert meshes[2].faces.shape == meshes[0].faces.shape and (meshes[2].vertices - meshes[0].vertices).abs().max() > 1e-3


def test_the_threshold_moves_a_density_surface():
    inner = extract.field_to_mesh(Ball("density"), "marching_cubes", 32, level=14.0)
    assert inner.vertices.norm(dim=1).mean() == pytest.approx(0.5, abs=0.01)


def test_fields_without_a_surface_say_why():
    with pytest.raises(ValueError, match="density runs from .* never crosses 1e.03; lower the threshold"):
        extract.field_to_mesh(Ball("density"), "marching_cubes", 16, level=1000.0)
    with pytest.raises(ValueError, match="raise the threshold"):
        extract.field_to_mesh(Ball("density"), "flexicubes", 16, level=-1000.0)
    with pytest.raises(ValueError, match="no surface.*never crosses 0.*masks"):
        extract.field_to_mesh(Ball(break_with=5.0), "flexicubes", 16)
    with pytest.raises(ValueError, match="NaN"):
        extract.field_to_mesh(Ball(break_with=float("nan")), "marching_cubes", 16)
    with pytest.raises(ValueError, match="unknown method"):
        extract.field_to_mesh(Ball(), "dmtet", 16)
    with pytest.raises(ValueError, match="resolution 1"):
        extract.field_to_mesh(Ball(), "flexicubes", 1)


def test_a_surface_only_at_the_border_says_so():
    sdf = torch.ones(9, 9, 9)
    sdf[0] = -1
    grid = FlexiGrid(regular_grid(8, 2.0), -sdf.flatten(), None, None, 8)
    assert extract.field_to_mesh(Ball(grid=grid)).faces.shape[0] > 0, "a plane through the inside is a surface"
    corner = torch.ones(9, 9, 9)
    corner[0, 0, 0] = -1
    with pytest.raises(ValueError, match="border"):
        extract.field_to_mesh(Ball(grid=FlexiGrid(grid.vertices, corner.flatten(), None, None, 8)))


def test_cancel_passes_through_sampling():
    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        raise Cancelled

    with pytest.raises(Cancelled):
        extract.field_to_mesh(Ball(), "marching_cubes", 64, tick=tick)


def test_cleaning_drops_crumbs_doubles_and_degenerate_faces():
    crumb = box(0.05, (2.0, 0.0, 0.0))
    mesh = joined(box(), crumb)
    extra = torch.tensor([[0, 0, 1], [0, 1, 1], *mesh.faces[:3].flip(1).tolist(), *mesh.faces[3:5].tolist()])
    messy = Mesh(torch.cat([mesh.vertices, torch.full((1, 3), 9.0)]), torch.cat([mesh.faces, extra]))
    tidy = clean.clean(messy)
    assert tidy.faces.shape == (12, 3) and tidy.vertices.shape == (8, 3)
    assert signed_volume(tidy.vertices, tidy.faces) == pytest.approx(1.0)
    assert clean.clean(messy, min_component=0.0).faces.shape == (24, 3)
    two = joined(box(), box(0.9, (2.0, 0.0, 0.0)))
    assert clean.clean(two).faces.shape == (24, 3)
    assert clean.clean(two, largest_only=True).vertices.abs().max() == 0.5


def test_cleaning_welds_but_keeps_texture_seams():
    vertices, faces = box()
    split = Mesh(vertices[faces].reshape(-1, 3), torch.arange(36).reshape(12, 3))
    assert clean.clean(split).vertices.shape == (8, 3)
    uvs = torch.rand(36, 2, generator=torch.Generator().manual_seed(0))
    seamed = clean.clean(Mesh(split.vertices, split.faces, uvs))
    assert seamed.vertices.shape == (36, 3)
    torch.testing.assert_close(seamed.uvs[seamed.faces], uvs[split.faces])
    smooth = clean.clean(Mesh(split.vertices, split.faces, uvs), smoothing=3)
    assert merge_vertices(smooth.vertices)[1].shape == (8,), "smoothing must not tear seams open"


def test_cleaning_keeps_non_manifold_meshes_whole():
    vertices, faces = box()
    fin = torch.tensor([[0, 7, 8], [0, 7, 9]])
    mesh = Mesh(torch.cat([vertices, torch.tensor([[1.0, -1, 1], [-1, 1, 1]])]), torch.cat([faces, fin]))
    assert clean.clean(mesh).faces.shape == (14, 3)


def test_cleaning_refuses_what_has_no_area():
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    for mesh in (point, Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))):
        with pytest.raises(ValueError, match="no faces with an area"):
            clean.clean(mesh)


def test_smoothing_removes_noise_and_keeps_volume(ball):
    noisy = ball.vertices * (1 + 0.02 * torch.randn(len(ball.vertices), 1, generator=torch.Generator().manual_seed(0)))
    smooth = taubin(noisy, ball.faces, 10)
    before, after = (noisy.norm(dim=1) - 0.6).std(), (smooth.norm(dim=1) - 0.6).std()
    assert after < 0.4 * before
    assert signed_volume(smooth, ball.faces) == pytest.approx(signed_volume(ball.vertices, ball.faces), rel=0.02)


def test_simplifying_keeps_shape_and_colors(ball):
    small = simplify.simplify(ball, 1000)
    assert 900 <= small.faces.shape[0] <= 1000
    assert signed_volume(small.vertices, small.faces) == pytest.approx(4 / 3 * torch.pi * 0.6**3, rel=0.03)
    error = (linear_to_srgb(small.vertex_colors) - (small.vertices / 2 + 0.5)).abs()
    assert error.max() < 0.03
    assert simplify.simplify(small, 5000) is small
    with pytest.raises(ValueError, match="too few"):
        simplify.simplify(ball, 3)


def test_simplifying_turns_a_texture_into_colors(ball):
    uvs = ball.vertices[:, :2] / 2 + 0.5
    ramp = torch.linspace(0, 1, 64)
    texture = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.full((64, 64), 0.5)], dim=-1)
    small = simplify.simplify(Mesh(ball.vertices, ball.faces, uvs, texture), 1000)
    assert small.texture is None and small.uvs is None
    assert (linear_to_srgb(small.vertex_colors[:, :2]) - (small.vertices[:, :2] / 2 + 0.5)).abs().max() < 0.04


def test_unwrapping_gives_charts_that_do_not_overlap(ball):
    mesh = simplify.simplify(ball, 1500)
    seen = []
    flat = unwrap.unwrap(mesh, texture_size=512, tick=lambda step, total, preview=None: seen.append(step))
    torch.testing.assert_close(flat.vertices[flat.faces], mesh.vertices[mesh.faces])
    torch.testing.assert_close(flat.vertex_colors[flat.faces], mesh.vertex_colors[mesh.faces])
    assert 0 <= flat.uvs.min() and flat.uvs.max() <= 1
    a, b, c = flat.uvs[flat.faces].unbind(1)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    # Sample each face's uvs on a fine grid: if charts overlapped, fewer texels than area would be covered.
    from lathe.pipelines.ops.texture_bake import texels

    covered = sum(len(part.index) for part in texels(flat.uvs, flat.faces, 1024)) / 1024**2
    assert 0.4 < covered < 1 and covered == pytest.approx(float(areas.sum()), rel=0.02)
    assert seen == sorted(seen) and seen[-1] == 100


def test_cancel_ends_the_child_at_once(ball, monkeypatch):
    children = []
    start = subprocess.Popen

    def remember(*args, **kwargs):
        children.append(start(*args, **kwargs))
        return children[-1]

    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        if time.monotonic() - begun > 0.3:
            raise Cancelled

    monkeypatch.setattr(unwrap.subprocess, "Popen", remember)
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        unwrap.unwrap(extract.field_to_mesh(Ball(), "marching_cubes", 120), tick=tick)
    assert len(children) == 1 and children[0].poll() is not None


def test_the_child_loads_neither_torch_nor_the_package(tmp_path, ball):
    import numpy as np

    small = simplify.simplify(ball, 300)
    np.savez(tmp_path / "in.npz", vertices=small.vertices.numpy(), faces=small.faces.numpy(), size=256, padding=2)
    worker = str(unwrap.Path(unwrap.__file__).with_name("uv_worker.py"))
    code = (
        f"import runpy, sys; sys.argv = ['x', r'{tmp_path / 'in.npz'}', r'{tmp_path / 'out.npz'}']; sys.path.insert(0, 'x');"
        f"runpy.run_path(r'{worker}', run_name='__main__');"
        "assert not {'torch', 'lathe', 'comfy', 'nodes'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.load(tmp_path / "out.npz")["faces"].shape == (len(small.faces), 3)


def test_a_failing_child_is_reported_in_words(ball, monkeypatch):
    monkeypatch.setattr(unwrap.sys, "executable", sys.executable)
    monkeypatch.setattr(unwrap.np, "savez", lambda path, **arrays: path.write_bytes(b"nonsense"))
    with pytest.raises(RuntimeError, match="Unwrapping failed.*try again"):
        unwrap.unwrap(simplify.simplify(ball, 300))


def test_unwrapping_survives_degenerate_and_non_manifold_faces():
    vertices, faces = box()
    extra = torch.tensor([[0, 7, 8], [0, 7, 9], [0, 0, 1], [3, 3, 3]])
    mesh = Mesh(torch.cat([vertices, torch.tensor([[1.0, -1, 1], [-1, 1, 1]])]), torch.cat([faces, extra]))
    flat = unwrap.unwrap(mesh)
    assert flat.faces.shape == (16, 3) and torch.isfinite(flat.uvs).all()


def test_unwrapping_refuses_nothing_and_too_much():
    with pytest.raises(ValueError, match="no faces"):
        unwrap.unwrap(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)))
    many = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]).repeat(200_001, 1))
    with pytest.raises(ValueError, match="simplify the mesh first"):
        unwrap.unwrap(many)


def test_inputs_stay_as_they_were(ball):
    copy = Mesh(ball.vertices.clone(), ball.faces.clone(), vertex_colors=ball.vertex_colors.clone())
    clean.clean(copy, smoothing=2)
    simplify.simplify(copy, 500)
    assert torch.equal(copy.vertices, ball.vertices) and torch.equal(copy.faces, ball.faces)
    assert torch.equal(copy.vertex_colors, ball.vertex_colors)


def test_components_are_counted_through_shared_vertices():
    mesh = joined(box(), box(1.0, (3.0, 0.0, 0.0)))
    parts = face_components(mesh.faces, len(mesh.vertices))
    assert len(set(parts[:12].tolist())) == 1 and len(set(parts.tolist())) == 2


def test_color_curve_is_srgb():
    values = torch.tensor([0.0, 0.04, 0.5, 1.0])
    torch.testing.assert_close(srgb_to_linear(values), torch.tensor([0.0, 0.003096, 0.214041, 1.0]), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6, rtol=1e-5)
