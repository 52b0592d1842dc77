"""The mesh rasteriser: conventions, the fast backend against the obvious one, gradients against finite differences."""

import math
import sys
import types
from typing import Any

import pytest
import torch
from lathe.pipelines.ops import camera_math, choose_backend, numba_jit
from lathe.pipelines.ops.mesh_raster import dispatch, numba_form, proof, torch_form
from lathe.pipelines.ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from lathe.pipelines.ops.mesh_topology import Topology, make_topology, merged_faces
from torch import Tensor

QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


def globe(rings: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A lumpy closed surface of about 4 x rings^2 faces, wound counter-clockwise, and not symmetric."""
    segments = 2 * rings
    polar = torch.arange(1, rings, dtype=dtype) / rings * math.pi
    around = torch.arange(segments, dtype=dtype) / segments * 2 * math.pi
    p, a = torch.meshgrid(polar, around, indexing="ij")
    grid = torch.stack([p.sin() * a.sin(), p.cos(), p.sin() * a.cos()], dim=-1).reshape(-1, 3)
    directions = torch.cat([grid, torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=dtype)])
    x, y, z = directions.unbind(-1)
    lumps = 1 + 0.15 * torch.sin(5 * x + 1) * torch.sin(7 * y) + 0.1 * torch.sin(4 * z + x)
    vertices = directions * lumps[:, None] * torch.tensor([0.7, 0.6, 0.8], dtype=dtype)

    row, column = torch.meshgrid(torch.arange(rings - 2), torch.arange(segments), indexing="ij")
    i, j = (row * segments + column).flatten(), (row * segments + (column + 1) % segments).flatten()
    k, m = i + segments, j + segments
    c = torch.arange(segments)
    d, last, top = (c + 1) % segments, (rings - 2) * segments, len(grid)
    caps = [torch.stack([torch.full_like(c, top), c, d], -1), torch.stack([torch.full_like(c, top + 1), last + d, last + c], -1)]
    return vertices, torch.cat([torch.stack([i, k, j], -1), torch.stack([j, k, m], -1), *caps])


def matrices(views: int = 1) -> Tensor:
    c2w = camera_math.orbit(torch.tensor([20.0, 130.0])[:views], torch.tensor([10.0, 35.0])[:views], 4.0)
    return camera_math.clip_matrices(c2w, camera_math.intrinsics(30, views))


def to_clip(vertices: Tensor, projection: Tensor) -> Tensor:
    return torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ projection.to(vertices).transpose(1, 2)


def waves(vertices: Tensor) -> Tensor:
    x, y, z = vertices.unbind(-1)
    return 0.5 + 0.5 * torch.stack([torch.sin(3 * x), torch.sin(4 * y + 1), torch.cos(5 * z)], dim=-1)


def render(vertices: Tensor, tri: Tensor, projection: Tensor, size: tuple[int, int], colors: Tensor, topology: Topology | None) -> Tensor:
    """(B, H, W, 4): colours and coverage, antialiased where a topology is given."""
    pos = to_clip(vertices, projection)
    face, bary, zw = rasterize_mesh(pos, tri, size)
    img = torch.cat([interpolate(colors, tri, face, bary), (face >= 0)[..., None].to(pos.dtype)], dim=-1)
    return img if topology is None else antialias(img, pos, tri, face, zw, topology)


def test_rows_run_from_the_top_and_columns_to_the_right() -> None:
    pos = torch.tensor([[[-1.0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1], [-1, 1, 0, 1]]])
    face, _, _ = rasterize_mesh(pos, QUAD, (4, 6))
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:2, :3] = True
    assert torch.equal(face[0] >= 0, expected)


def test_what_is_right_of_the_object_front_appears_right() -> None:
    """Azimuth 0 looks at the object's front: +X appears on the right of the picture, +Y at the top (glTF's axes)."""
    projection = camera_math.clip_matrices(camera_math.orbit(torch.zeros(1), torch.zeros(1), 4.0), camera_math.intrinsics(30, 1))
    vertices = torch.tensor([[0.3, 0.2, 0], [0.6, 0.2, 0], [0.6, 0.6, 0], [0.3, 0.6, 0]])
    face, _, _ = rasterize_mesh(to_clip(vertices, projection), QUAD, (32, 32))
    rows, columns = torch.nonzero(face[0] >= 0, as_tuple=True)
    assert rows.max() < 16 and columns.min() >= 16


def test_interpolation_is_perspective_correct_with_the_principal_point_off_centre() -> None:
    """On a steep plane the interpolated position of each pixel is where the pixel's ray meets the plane."""
    c2w = camera_math.look_at(torch.tensor([[0.4, 1.0, 3.0], [-1.0, 0.5, 2.0]]))
    K = torch.tensor([[1.2, 1.5, 0.35, 0.6], [1.0, 0.9, 0.55, 0.4]])
    vertices = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    pos = to_clip(vertices, camera_math.clip_matrices(c2w, K))
    face, bary, zw = rasterize_mesh(pos, QUAD, (40, 56))
    origins, directions = camera_math.rays(c2w, K, 40, 56)
    depth = -origins[..., 1] / directions[..., 1]
    hit = origins + depth[..., None] * directions
    inside = (hit.abs() < 0.999).all(-1) & (depth > 0)
    assert inside.sum() > 300 and bool((face >= 0)[inside].all())
    assert not bool((face >= 0)[((hit[..., [0, 2]].abs() > 1.001).any(-1))].any())
    torch.testing.assert_close(interpolate(vertices, QUAD, face, bary)[inside], hit[inside], atol=2e-5, rtol=0)
    near_far = (100 + 0.05) / (100 - 0.05), 2 * 100 * 0.05 / (100 - 0.05)
    torch.testing.assert_close(zw[inside], (near_far[0] - near_far[1] / depth)[inside], atol=1e-5, rtol=0)
    assert float(bary[face < 0].abs().max()) == 0 and float(zw[face < 0].abs().max()) == 0


def test_the_nearer_face_hides_the_other_and_ties_go_to_the_first() -> None:
    square = torch.tensor([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    layers = [torch.cat([square, torch.tensor([[z, 1.0]]).expand(4, 2)], dim=-1) for z in (0.5, -0.5, -0.5)]
    tri = torch.cat([QUAD, QUAD + 4, QUAD + 8])
    for backend in (numba_form, torch_form):
        face = backend.visibility(torch.cat(layers)[None], tri, 16, 16)
        assert set(face.unique().tolist()) == {-1, 2, 3}


def test_shared_edges_leave_no_gap() -> None:
    """Every pixel of a square cut into many thin triangles through pixel centres is covered."""
    n = 64
    rim = torch.arange(n) / n * 2 * math.pi
    ring = torch.stack([3 * rim.cos(), 3 * rim.sin(), 0 * rim, 0 * rim + 1], dim=-1)
    pos = torch.cat([torch.tensor([[1 / 32, 1 / 32, 0, 1.0]]), ring])[None]
    tri = torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n) + 1, (torch.arange(n) + 1) % n + 1], dim=-1)
    for backend in (numba_form, torch_form):
        assert bool((backend.visibility(pos, tri, 32, 32) >= 0).all())


def test_faces_behind_the_camera_and_degenerate_faces_are_dropped() -> None:
    pos = torch.tensor([[[-0.5, -0.5, 0, 1], [0.5, -0.5, 0, 1], [0, 0.5, 0, -1], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 1.0]]])
    tri = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 1], [0, 1, 4]])
    for backend in (numba_form, torch_form):
        face = backend.visibility(pos, tri, 8, 8)
        assert set(face.unique().tolist()) == {-1, 3}
        bary, zw = backend.barycentrics(pos, tri, face)
        assert bool(torch.isfinite(bary).all() and torch.isfinite(zw).all())
        assert bool(torch.isfinite(backend.crossings(pos, tri, face, zw, make_topology(tri)).float()).all())


def test_no_faces_give_a_background() -> None:
    pos, tri = torch.zeros(2, 0, 4), torch.zeros(0, 3, dtype=torch.int64)
    for backend in (numba_form, torch_form):
        face = backend.visibility(pos, tri, 4, 5)
        bary, zw = backend.barycentrics(pos, tri, face)
        assert face.shape == (2, 4, 5) and bool((face == -1).all())
        assert backend.interpolate(torch.zeros(0, 3), tri, face, bary).shape == (2, 4, 5, 3)
        assert len(backend.crossings(pos, tri, face, zw, make_topology(tri))) == 0


def test_wrong_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, V, 4\)"):
        rasterize_mesh(torch.zeros(3, 4), QUAD, (4, 4))


@pytest.mark.parametrize("rings", [8, 40])
def test_numba_equals_pytorch(rings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces and crossings are the same; images and gradients in float64 agree to rounding, for a batch of two views."""
    vertices, tri = globe(rings)
    projection, size = matrices(2), (50, 61)
    target = torch.rand(2, *size, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attributes = torch.cat([waves(vertices), vertices], dim=-1)
    results = []
    for backend in (numba_form, torch_form):
        monkeypatch.setattr(dispatch, "backend_for", lambda device, backend=backend: backend)
        moved, attr = vertices.clone().requires_grad_(), attributes.clone().requires_grad_()
        pos = to_clip(moved, projection)
        face, bary, zw = rasterize_mesh(pos, tri, size)
        per_image = torch.stack([attr, attr * 2])
        parts = [interpolate(attr, tri, face, bary), interpolate(per_image, tri, face, bary)[..., :1], zw[..., None]]
        img = antialias(torch.cat(parts, dim=-1), pos, tri, face, zw, make_topology(tri))
        ((img - target) ** 2).sum().backward()
        crossings = backend.crossings(pos, tri, face, zw, make_topology(tri))
        results.append((face, crossings, img.detach(), moved.grad, attr.grad))
    fast, plain = results
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1]) and len(fast[1]) > 200
    for a, b in zip(fast[2:], plain[2:], strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-12


def test_float32_gradients_equal_float64() -> None:
    vertices, tri = globe(20)
    colors, gradients = waves(vertices), []
    for dtype in (torch.float32, torch.float64):
        moved = vertices.float().to(dtype).requires_grad_()
        (render(moved, tri, matrices(), (64, 64), colors.to(dtype), make_topology(tri)) ** 2).sum().backward()
        assert moved.grad is not None
        gradients.append(moved.grad.double())
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5


def test_gradients_are_the_exact_derivative_of_the_image() -> None:
    """Per vertex and axis against central differences so small that no pixel changes its face."""
    vertices, tri = globe(12)
    size, projection = (64, 64), matrices()
    target = torch.rand(1, *size, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    colors, topology = waves(vertices), make_topology(tri)

    def loss(v: Tensor) -> Tensor:
        return ((render(v, tri, projection, size, colors, topology) - target) ** 2).sum()

    moved = vertices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(moved), moved)
    visible = torch.nonzero(gradient.abs().sum(-1) > 0)[:, 0]
    assert len(visible) > 80
    measured, step = [], 1e-6
    for v in visible[::4].tolist():
        for axis in range(3):
            offset = torch.zeros_like(vertices)
            offset[v, axis] = step
            measured.append((loss(vertices + offset) - loss(vertices - offset)) / (2 * step))
    expected = gradient[visible[::4]].flatten()
    assert float((torch.stack(measured) - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.parametrize("rings", [10, 120])
def test_gradients_follow_finite_steps(rings: int) -> None:
    """Over steps that move silhouettes across pixels, on a coarse and on a dense mesh (57,000 faces, finer than the pixels).

    Antialiasing is an approximation (box filter along the edge's main axis), so 12 % is the bar; without
    it silhouettes have no gradient, and growing the object would be thought to remove picture.
    """
    vertices, tri = globe(rings)
    assert rings == 10 or len(tri) >= 50_000
    size, projection = (96, 96), matrices()
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 96, dtype=torch.float64)] * 2, indexing="ij")
    weight = torch.stack([x, y, x * y + 0.3, 1 + 0.5 * x + 0.3 * y], dim=-1)[None]
    ones = torch.eye(3, dtype=torch.float64)
    bend = torch.stack([vertices[:, 1] ** 2, 0 * vertices[:, 0], 0 * vertices[:, 0]], dim=-1)
    shifts = {"xyz"[axis]: ones[axis].expand_as(vertices) for axis in range(3)}
    motions = {**shifts, "grow": vertices, "bend": bend}
    colors, topology = waves(vertices), make_topology(tri)

    def score(v: Tensor, smooth: bool = True) -> Tensor:
        return (render(v, tri, projection, size, colors, topology if smooth else None) * weight).sum()

    moved = vertices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(moved), moved)
    (inside_only,) = torch.autograd.grad(score(moved, smooth=False), moved)
    for name, motion in motions.items():
        analytic = float((gradient * motion).sum())
        steps = [float((score(vertices + h * motion) - score(vertices - h * motion)) / (2 * h)) for h in (3e-3, 1e-2)]
        measured = sum(steps) / len(steps)
        assert abs(analytic - measured) < 0.12 * max(abs(measured), 1000), (name, analytic, steps)
    grow = float((inside_only * motions["grow"]).sum())
    assert grow < 0 < float((gradient * motions["grow"]).sum())


def test_the_number_of_crossings_follows_the_contour_not_the_faces() -> None:
    counts, projection = [], matrices()
    for rings in (20, 60, 140):
        vertices, tri = globe(rings)
        pos = to_clip(vertices, projection)
        for size in (64, 128):
            face, _, zw = rasterize_mesh(pos, tri, (size, size))
            counts.append(len(numba_form.crossings(pos, tri, face, zw, make_topology(tri))))
    small, large = counts[::2], counts[1::2]
    assert max(small) < 1.1 * min(small) and max(large) < 1.1 * min(large)
    assert 1.8 < large[2] / small[2] < 2.2


def test_antialiased_coverage_is_close_to_the_true_coverage() -> None:
    """A tilted bar in front of a globe, against 16 x 16 samples a pixel: inner contours count as the outer ones do."""
    vertices, tri = globe(60)
    angle = 0.3
    bar = torch.tensor([[-0.8, -0.1, 1.2], [0.8, -0.1, 1.2], [0.8, 0.12, 1.2], [-0.8, 0.12, 1.2]], dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]], dtype=torch.float64)
    scene, faces = torch.cat([vertices, bar @ turn.T]), torch.cat([tri, QUAD + len(vertices)])
    pos = to_clip(scene, matrices())
    colour = torch.cat([torch.zeros(len(vertices), 1), torch.ones(4, 1)]).double()

    def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
        face, bary, zw = rasterize_mesh(pos, faces, (size, size))
        return torch.cat([interpolate(colour, faces, face, bary), (face >= 0)[..., None].double()], dim=-1), face, zw

    hard, face, zw = draw(64)
    smooth = antialias(hard, pos, faces, face, zw, make_topology(faces))
    true = draw(64 * 16)[0].view(1, 64, 16, 64, 16, 2).mean((2, 4))

    def error(img: Tensor, channel: int) -> float:
        return float((img - true)[..., channel].square().mean().sqrt())

    for channel in (0, 1):
        assert error(smooth, channel) < 0.02 and error(smooth, channel) < 0.4 * error(hard, channel)


def test_antialiasing_leaves_the_inside_of_a_cut_mesh_alone() -> None:
    """A mesh cut along every edge has the crossings of the whole one once its vertices are welded for the topology."""
    vertices, tri = globe(30)
    soup, corners = torch.arange(3 * len(tri)).view(-1, 3), vertices[tri].reshape(-1, 3)
    whole, cut = make_topology(tri), make_topology(soup, corners)
    assert len(whole.edges) == len(cut.edges) == 3 * len(tri) // 2
    assert torch.equal(corners[merged_faces(corners, soup)], corners[soup])
    pos = to_clip(corners, matrices())
    face, _, zw = rasterize_mesh(pos, soup, (80, 80))
    expected = numba_form.crossings(to_clip(vertices, matrices()), tri, face, zw, whole)
    assert len(numba_form.crossings(pos, soup, face, zw, cut)) == len(expected)


def test_topology_lists_every_face_of_an_edge() -> None:
    topology = make_topology(torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4], [5, 5, 6]]))
    faces_of = {
        tuple(edge): sorted(topology.opposite[a:b].tolist())
        for edge, a, b in zip(topology.edges.tolist(), topology.offsets[:-1].tolist(), topology.offsets[1:].tolist(), strict=True)
    }
    assert faces_of[(0, 1)] == [2, 3, 4] and faces_of[(1, 2)] == [0] and len(faces_of) == 7


def test_a_backend_must_draw_to_be_chosen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    choose_backend.forget()
    with caplog.at_level("INFO"):
        assert dispatch.backend_for(torch.device("cpu")) is numba_form
        assert dispatch.backend_for(torch.device("cpu")) is numba_form
    assert len(caplog.records) == 1
    choose_backend.forget()
    upside_down = numba_form.visibility
    monkeypatch.setattr(numba_form, "visibility", lambda *args: upside_down(*args).flip(1))
    assert dispatch.backend_for(torch.device("cpu")) is torch_form
    choose_backend.forget()


def test_nvdiffrast_conventions_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that answers as nvdiffrast documents: ids from 1, bottom row first. The real one needs CUDA."""

    def rasterize(context: object, pos: Tensor, tri: Tensor, resolution: list[int], grad_db: bool) -> tuple[Tensor, None]:
        assert context == "context" and pos.dtype == torch.float32 and tri.dtype == torch.int32 and not grad_db
        face = torch_form.visibility(pos, tri.long(), *resolution)
        return torch.stack([0.0 * face, 0.0 * face, 0.0 * face, face + 1.0], dim=-1).flip(1), None

    module = types.ModuleType("nvdiffrast.torch")
    module.rasterize, module.RasterizeCudaContext = rasterize, lambda device: "context"  # type: ignore[attr-defined]
    package = types.ModuleType("nvdiffrast")
    package.torch = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    from lathe.pipelines.ops.mesh_raster import nvdiffrast_form as adapter

    vertices, tri = globe(10)
    pos = to_clip(vertices, matrices())
    assert torch.equal(adapter.visibility(pos, tri, 30, 41), torch_form.visibility(pos.float(), tri, 30, 41))
    assert bool((adapter.visibility(pos, tri[:0], 4, 4) == -1).all())
    proof.prove(adapter, torch.device("cpu"))
    monkeypatch.delitem(sys.modules, adapter.__name__)


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    njit = numba.njit

    def no_folder(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", no_folder)
    assert numba_jit.jit(lambda x: x + 1)(2) == 3


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, tri = globe(20, torch.float32)
    rest = tri, matrices(2), (40, 40), waves(vertices), make_topology(tri)
    single = render(vertices, *rest)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(single, render(vertices, *rest))
