"""What the network's output means: published numbers at points, on grids and along rays; axes; memory; saving."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data.seeded_weights import seed_module_, seeded_array, seeded_input
from data.tiny_lrm import TINY, golden, tiny_net, worst
from lathe.pipelines.data.field import Field
from lathe.pipelines.nets.triplane_field import Decoder, TriplaneField, activate_density, repair_empty, sample_planes
from lathe.pipelines.nets.triplane_lrm import PUBLISHED
from lathe.pipelines.nets.triplane_render import Draws, render_rays_as_trained
from lathe.pipelines.ops.coordinate_frames.instantmesh import from_triplane, to_triplane
from lathe.pipelines.ops.flexicubes import flexicubes, grid_cubes


def field_of(kind, sharper=1.0):
    net = tiny_net(kind)
    if kind == "nerf":
        net.decoder.net.linear(-1).weight[0] *= sharper
    return TriplaneField(golden(kind)["planes"][0], net.decoder, grid_res=TINY.grid_res, samples_per_ray=TINY.samples_per_ray)


@pytest.fixture(scope="module")
def mesh():
    return golden("mesh")


@pytest.fixture(scope="module")
def nerf():
    return golden("nerf")


# ---- axes ------------------------------------------------------------------------------------------------------------


def test_the_two_spaces_are_one_rotation_apart():
    front, up = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    assert to_triplane(front).tolist() == [1, 0, 0]
    assert to_triplane(up).tolist() == [0, 0, 1]
    points = torch.randn(5, 7, 3)
    assert torch.equal(from_triplane(to_triplane(points)), points)
    assert torch.equal(to_triplane(from_triplane(points)), points)
    assert torch.linalg.det(to_triplane(torch.eye(3))) == 1  # a rotation, so nothing is mirrored


def test_a_bump_on_a_plane_shows_where_its_axes_say():
    # plane 0 is (x, y) of the network, which is (z, x) of the world; its width runs along the first
    planes = torch.zeros(3, 1, 32, 32)
    planes[0, 0, 8, 24] = 1
    decoder = Decoder("nerf", 1, 8)
    field = TriplaneField(planes, decoder)
    decoder.net = torch.nn.Linear(3, 4)
    torch.nn.init.zeros_(decoder.net.bias)
    torch.nn.init.constant_(decoder.net.weight, 0)
    decoder.net.weight.data[0, 0] = 50
    z, x = (24 + 0.5) / 16 - 1, (8 + 0.5) / 16 - 1
    dense = field.geometry(torch.tensor([[x, -0.7, z], [x, 0.7, z], [-x, 0.7, z], [x, 0.7, -z], [z, 0.7, x]]))
    assert dense[:2].min() > 40
    assert dense[2:].max() < 1


# ---- published numbers -----------------------------------------------------------------------------------------------


def test_grid_predictions_equal_the_published_ones(mesh):
    field = field_of("mesh")
    assert isinstance(field, Field)
    assert (field.kind, field.level, field.bound) == ("sdf", 0.0, 1.05)
    grid = field.flexi_grid()
    assert torch.equal(to_triplane(grid.vertices), mesh["grid_verts"])
    assert grid.resolution == 16
    assert worst(grid.sdf, mesh["sdf"][0, :, 0]) < 2e-5
    assert worst(to_triplane(grid.deformation), mesh["deformation"][0]) < 2e-6
    assert worst(grid.weights, mesh["weight"][0]) < 2e-6
    assert worst(field.geometry(grid.vertices), mesh["sdf_raw"][0, :, 0]) < 2e-5


def test_the_published_mesh_comes_out(mesh):
    grid = field_of("mesh").flexi_grid()
    corners = to_triplane(grid.vertices + grid.deformation)
    surface = flexicubes(corners, grid.sdf, 16, grid.weights)
    assert worst(surface.vertices, mesh["mesh_v"]) < 2e-5
    triangles = [{tuple(sorted(face)) for face in faces.tolist()} for faces in (surface.faces, mesh["mesh_f"])]
    assert triangles[0] == triangles[1]


def test_colours_equal_the_published_ones(mesh):
    field = field_of("mesh")
    assert worst(field.color(from_triplane(mesh["points1000"][0])), mesh["tex_at_points"][0].clamp(0, 1)) < 2e-5
    colors = field.color(from_triplane(mesh["mesh_v"]))
    assert worst(colors, mesh["mesh_c_float"].clamp(0, 1)) < 2e-5
    assert ((colors * 255).to(torch.uint8).int() - mesh["mesh_c"].int()).abs().max() <= 1


def test_an_empty_grid_is_repaired_as_published(mesh):
    net = tiny_net("mesh")
    net.decoder.net_sdf.linear(-1).bias += float(mesh["empty_sdf_bias_added"])
    sdf = TriplaneField(mesh["planes"][0], net.decoder, grid_res=16).flexi_grid().sdf
    assert sdf.min() > 0
    repaired, penalty = repair_empty(sdf, 16)
    assert worst(repaired, mesh["empty_sdf"][0, :, 0]) < 2e-5
    assert worst(penalty[None], mesh["empty_sdf_reg"]) < 2e-5
    changed = torch.nonzero(repaired != sdf)[:, 0]
    assert torch.equal(changed, torch.cat([mesh["boundary_indices"][:, 0], mesh["center_indices"][:, 0]]).sort().values)
    with_surface = mesh["sdf"][0, :, 0]
    same, none = repair_empty(with_surface, 16)
    assert same is with_surface and none == 0


def test_density_and_colour_equal_the_published_ones(nerf):
    field = field_of("nerf")
    assert (field.kind, field.level, field.bound) == ("density", 10.0, 1.0)
    points = nerf["points1000"][0]
    features = sample_planes(field.planes[None], points[None])
    assert worst(features.unflatten(-1, (3, -1)).transpose(1, 2), nerf["sampled_features"]) < 2e-5
    assert worst(activate_density(field.decoder.net(features)[..., :1]), nerf["point_sigma"]) < 2e-5
    assert worst(field.color(from_triplane(points)), nerf["point_rgb"][0].clamp(0, 1)) < 2e-5
    inside = (points.abs() <= 1).all(dim=1)
    density = field.geometry(from_triplane(points))
    assert 0 < inside.sum() < 1000
    assert worst(density[inside], nerf["point_sigma"][0, inside, 0]) < 2e-5
    assert density[~inside].abs().max() == 0
    assert field.flexi_grid() is None


@pytest.mark.parametrize("sharper", [1.0, 40.0])
def test_a_grid_of_densities_equals_the_published_one(nerf, sharper):
    axis = torch.linspace(-1, 1, 24)
    points = from_triplane(torch.cartesian_prod(axis, axis, axis))
    field = field_of("nerf", sharper)
    name = "grid24" if sharper == 1 else "x40_grid24"
    assert worst(field.geometry(points), nerf[f"{name}_sigma"].flatten()) < 1e-4
    if sharper == 1:
        assert worst(field.color(points), nerf["grid24_rgb"].reshape(-1, 3).clamp(0, 1)) < 2e-5


@pytest.mark.parametrize("name", ["det", "seed1234", "x40_det"])
def test_volume_rendering_equals_the_published_one(nerf, name):
    field = field_of("nerf", 40.0 if name.startswith("x40") else 1.0)
    samples = TINY.samples_per_ray // 2
    draws = Draws.random(1024, samples, torch.Generator().manual_seed(1234)) if name == "seed1234" else Draws.even(1024, samples)
    color, depth, alpha = render_rays_as_trained(field, from_triplane(nerf["ray_o"][0]), from_triplane(nerf["ray_d"][0]), draws)
    assert worst(color.T, nerf[f"{name}_images_rgb"][0, 0].flatten(1)) < 2e-5
    assert worst(depth, nerf[f"{name}_images_depth"][0, 0].flatten()) < 5e-5
    assert worst(alpha, nerf[f"{name}_images_weight"][0, 0].flatten()) < 2e-5


def test_volume_rendering_wants_a_density(mesh):
    with pytest.raises(ValueError, match="NeRF variants"):
        render_rays_as_trained(field_of("mesh"), torch.zeros(1, 3), torch.ones(1, 3), Draws.even(1, 4))


@pytest.mark.skipif("LATHE_REFERENCE" not in os.environ, reason="full-size goldens: set LATHE_REFERENCE to their folder")
@pytest.mark.parametrize("variant", ["instant_mesh_base", "instant_mesh_large"])
def test_full_size_grids_equal_the_published_ones(variant):
    expected = np.load(Path(os.environ["LATHE_REFERENCE"]) / f"goldens/{variant}_full.npz")
    decoder = Decoder("mesh", PUBLISHED[variant].triplane_dim).requires_grad_(False)
    for name, value in decoder.state_dict().items():
        value.copy_(torch.from_numpy(seeded_array(f"synthesizer.decoder.{name}", value.shape)))
    field = TriplaneField(torch.from_numpy(expected["planes"][0]), decoder)
    grid = field.flexi_grid()
    assert worst(grid.sdf, torch.from_numpy(expected["sdf"][0, :, 0])) < 2e-4
    assert worst(to_triplane(grid.deformation)[::97], torch.from_numpy(expected["deformation_stride97"][0])) < 2e-6
    assert worst(grid.weights[::97], torch.from_numpy(expected["weight_stride97"][0])) < 2e-5
    sphere = from_triplane(torch.from_numpy(expected["sphere_mesh_v"]))
    assert worst(field.color(sphere), torch.from_numpy(expected["sphere_mesh_c"]).clamp(0, 1)) < 2e-4


# ---- the lattice form against the obvious one -------------------------------------------------------------------------


def obvious_grid(field, resolution):
    """Features of every corner, gathered for every cube, through the whole heads."""
    vertices = to_triplane(field.flexi_grid(resolution).vertices)
    features = sample_planes(field.planes[None], vertices[None])[0]
    decoder = field.decoder
    weights = 0.1 * decoder.net_weight(features[grid_cubes(resolution)].flatten(1))
    return decoder.net_sdf(features)[:, 0], torch.tanh(decoder.net_deformation(features)) / (4 * resolution), weights


@pytest.mark.parametrize("resolution", [1, 5, 24])
def test_the_lattice_form_equals_the_obvious_one(resolution):
    field = field_of("mesh")
    sdf, deformation, weights = obvious_grid(field, resolution)
    grid = field.flexi_grid(resolution, chunk=700)
    assert grid.resolution == resolution
    assert worst(grid.sdf, sdf) < 5e-6
    assert worst(to_triplane(grid.deformation), deformation) < 5e-6
    assert worst(grid.weights, weights) < 5e-6


def test_chunks_change_nothing(mesh):
    field = field_of("mesh")
    whole, parts = field.flexi_grid(chunk=10**9), field.flexi_grid(chunk=1)
    assert worst(whole.sdf, parts.sdf) < 1e-6
    assert worst(whole.weights, parts.weights) < 1e-6


def test_cancel_is_heard_between_chunks():
    class Cancelled(Exception):
        pass

    seen = []

    def tick(step, total, preview=None):
        seen.append((step, total))
        if len(seen) == 9:
            raise Cancelled

    with pytest.raises(Cancelled):
        field_of("mesh").flexi_grid(5, chunk=1, tick=tick)
    assert seen[0] == (0, 18) and seen[6:] == [(6, 18), (7, 18), (8, 18)]


def test_gradients_reach_planes_and_heads():
    decoder = seed_module_(Decoder("mesh", 4, 16))
    planes = seeded_input("planes", (3, 4, 8, 8)).requires_grad_()
    field = TriplaneField(planes, decoder, grid_res=6)
    grid = field.flexi_grid()
    (grid.sdf.sum() + grid.deformation.square().sum() + grid.weights.square().sum() + field.color(grid.vertices).sum()).backward()
    assert planes.grad.abs().min(dim=1).values.max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.parameters())


# ---- the payload -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mesh", "nerf"])
def test_a_field_survives_saving(kind):
    field = field_of(kind)
    tensors, settings = field.state()
    again = TriplaneField.from_state({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(settings)))
    points = seeded_input("points", (500, 3), "uniform") * 2 - 1
    assert torch.equal(again.geometry(points), field.geometry(points))
    assert torch.equal(again.color(points), field.color(points))
    assert again.state()[1] == settings
    assert again.grid_res == 16 and again.samples_per_ray == 16


def test_a_bad_saved_field_is_refused():
    tensors, settings = field_of("mesh").state()
    with pytest.raises(ValueError, match="version 99"):
        TriplaneField.from_state(tensors, {**settings, "version": 99})
    with pytest.raises(ValueError, match="'planes' is missing"):
        TriplaneField.from_state({k: v for k, v in tensors.items() if k != "planes"}, settings)
    with pytest.raises(ValueError, match="does not fit its own settings"):
        TriplaneField.from_state({**tensors, "decoder.net_sdf.0.bias": torch.zeros(3)}, settings)
    with pytest.raises(ValueError, match=r"\(3, 9, R, R\)"):
        TriplaneField(tensors["planes"], Decoder("mesh", 9))


def test_moving_copies_and_leaves_the_original():
    field = field_of("mesh")
    assert field.to("cpu") is field
    moved = field.to("meta")
    assert moved.planes.device.type == "meta" and field.planes.device.type == "cpu"
    assert next(moved.decoder.parameters()).device.type == "meta"
    assert next(field.decoder.parameters()).device.type == "cpu"
    assert (moved.grid_res, moved.grid_scale, moved.bound) == (field.grid_res, field.grid_scale, field.bound)


def test_queries_do_not_depend_on_their_number():
    field = field_of("mesh")
    points = seeded_input("many", (70000, 3), "uniform") * 2 - 1
    assert worst(field.geometry(points)[-10:], field.geometry(points[-10:])) < 1e-5
    assert field.geometry(points[:0]).shape == (0,)
    assert field.color(points[:0]).shape == (0, 3)
