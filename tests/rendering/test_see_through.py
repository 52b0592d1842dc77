"""Renders of materials whose alpha counts: layers behind each other, in their order, on every backend."""

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.material import Material
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops.mesh_raster import dispatch, torch_form
from lathe.pipelines.rendering.mesh import render_mesh

CAMERA = orbit_cameras(1, radius=4, fov=30)
RED, GREEN = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])


def sheets(*layers, mode, cutoff=0.5):
    """Squares facing +z, each (z, colour, alpha at its left, alpha at its right)."""
    vertices, colors, faces = [], [], []
    for number, (z, color, left, right) in enumerate(layers):
        vertices.append(torch.tensor([[-0.5, -0.5, z], [0.5, -0.5, z], [0.5, 0.5, z], [-0.5, 0.5, z]]))
        alpha = torch.tensor([left, right, right, left])[:, None]
        colors.append(torch.cat([color.expand(4, 3), alpha], dim=1))
        faces.append(torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * number)
    material = Material(alpha_mode=mode, alpha_cutoff=cutoff)
    return Mesh(torch.cat(vertices), torch.cat(faces), vertex_colors=torch.cat(colors), material=material)


@pytest.fixture(params=["numba", "torch"])
def backend(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(dispatch, "backend_for", lambda device: torch_form)


def middle(views, columns=slice(28, 36)):
    return views.images[0, :, 28:36, columns].mean((1, 2))


def test_a_cut_out_shows_what_lies_behind(backend):
    mesh = sheets((0.2, RED, 0.0, 1.0), (-0.2, GREEN, 1.0, 1.0), mode="MASK")
    views = render_mesh(mesh, CAMERA, 64, 64)
    torch.testing.assert_close(middle(views, slice(20, 28)), GREEN)
    torch.testing.assert_close(middle(views, slice(36, 44)), RED)
    assert float(views.depths[0, 0, 32, 24]) == pytest.approx(4.2, abs=1e-3) and float(views.depths[0, 0, 32, 40]) == pytest.approx(
        3.8, abs=1e-3
    )
    assert float(views.masks[0, 0, 32, 24]) == 1


def test_a_cut_out_with_nothing_behind_is_background(backend):
    views = render_mesh(sheets((0.0, RED, 0.0, 0.0), mode="MASK"), CAMERA, 64, 64, background=(0.2, 0.3, 0.4))
    torch.testing.assert_close(middle(views), torch.tensor([0.2, 0.3, 0.4]))
    assert float(views.masks.max()) == 0 and float(views.depths.max()) == 0


def test_blending_goes_from_front_to_back_whatever_the_order_of_faces(backend):
    front, behind = (0.2, RED, 0.25, 0.25), (-0.2, GREEN, 0.5, 0.5)
    wanted = 0.25 * RED + 0.75 * 0.5 * GREEN + 0.75 * 0.5 * torch.ones(3)
    for layers in ((front, behind), (behind, front)):
        views = render_mesh(sheets(*layers, mode="BLEND"), CAMERA, 64, 64)
        torch.testing.assert_close(middle(views), wanted, atol=1e-5, rtol=0)
        assert float(views.masks[0, 0, 32, 32]) == pytest.approx(1 - 0.75 * 0.5)


def test_opaque_ignores_alpha(backend):
    views = render_mesh(sheets((0.0, RED, 0.0, 0.0), mode="OPAQUE"), CAMERA, 64, 64)
    torch.testing.assert_close(middle(views), RED)


def test_texture_and_vertex_colors_multiply():
    corners = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(corners, faces, torch.rand(4, 2), torch.ones(2, 2, 3), torch.tensor([[1.0, 0.25, 0.0]]).expand(4, 3))
    torch.testing.assert_close(middle(render_mesh(mesh, CAMERA, 64, 64)), torch.tensor([1.0, 0.5371, 0]), atol=1e-3, rtol=0)


def test_normals_of_the_file_are_shown():
    corners = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    tilted = torch.nn.functional.normalize(torch.tensor([[0.5, 0.0, 1.0]]), dim=1).expand(4, 3)
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), normals=tilted)
    torch.testing.assert_close(render_mesh(mesh, CAMERA, 64, 64).normals[0, :, 32, 32], tilted[0], atol=1e-5, rtol=0)
