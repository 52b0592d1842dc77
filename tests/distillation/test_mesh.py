"""The fine stage of a distillation, on balls small enough for a test."""

from dataclasses import replace

import pytest
import torch
from ball_prior import COLOR, BallPrior, ball_views
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.distillation.cameras_and_shading import PLAIN, ReferenceView
from lathe.pipelines.distillation.mesh import DistilMesh, SurfaceLost
from lathe.pipelines.distillation.settings import FineSettings, LossWeights, ShadingSchedule
from lathe.pipelines.distillation.surface import surface_grid
from lathe.pipelines.meshes.extract import marching_cubes
from lathe.pipelines.nets.distil_net import FieldShape
from lathe.pipelines.ops.mesh_topology import make_topology
from lathe.pipelines.rendering.mesh import render_mesh
from torch import Tensor

SETTINGS = FineSettings(
    steps=30, size=32, weights=LossWeights(rgb=100, mask=30, laplacian=0.01, normal_consistency=0.1), grid=16,
    color=FieldShape(levels=4, log2_size=12, base=4, finest=32, hidden=16, layers=1), color_start=20,
    sdf_rate=0.06, displacement_rate=0.02, encoding_rate=0.03, network_rate=0.01, faces=400, texture=64,
)  # fmt: skip
QUICK = replace(SETTINGS, steps=4, size=16, grid=10)


def ball(radius: float = 0.4, cells: int = 16, color: Tensor | None = None) -> Mesh:
    axis = torch.linspace(-1, 1, cells + 1)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    vertices, faces = marching_cubes(grid.norm(dim=-1) - radius, 1.0)
    return Mesh(vertices, faces, vertex_colors=None if color is None else color.expand(len(vertices), 3).contiguous())


def reference() -> ReferenceView:
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 48)
    return ReferenceView(image, mask)


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def leaves(run: DistilMesh) -> Tensor:
    return torch.cat([leaf.detach().reshape(-1) for leaf in run.parameters().values()])


@pytest.mark.parametrize("surface", ["dmtet", "flexicubes"])
def test_a_mesh_grows_to_what_the_prior_sees(surface):
    run = DistilMesh(ball(0.4), reference(), BallPrior(0.45), replace(SETTINGS, surface=surface, grid=16 if surface == "dmtet" else 24))
    first = run.mesh()
    run.run(SETTINGS.steps)
    mesh = run.mesh()
    radii = [float(one.vertices.norm(dim=1).mean()) for one in (first, mesh)]
    assert abs(radii[0] - 0.4) < 0.02 and abs(radii[1] - 0.45) < 0.035
    assert volume(mesh) > 0  # faces look outward
    topology = make_topology(mesh.faces)
    assert bool((topology.offsets.diff() == 2).all())  # closed
    cameras = orbit_cameras(3, elevation=20, radius=1.8, fov=40)
    seen = render_mesh(mesh, cameras, 32, 32).images
    assert float((seen - ball_views(cameras, 32)[0]).square().mean()) < 0.01
    assert run.losses[-1]["prior"] < 0.5 * run.losses[0]["prior"]


def test_a_band_around_the_surface_gives_what_the_whole_grid_does():
    whole, band = (surface_grid("dmtet", ball(), 16, width, "cpu") for width in (0.0, 3.0))
    assert len(band.parameters["sdf"]) < len(whole.parameters["sdf"])
    meshes = []
    for grid in (whole, band):
        surface = grid.surface()
        meshes.append(Mesh(surface.vertices.detach(), surface.faces))
    assert len(meshes[0].faces) == len(meshes[1].faces) > 0
    assert volume(meshes[0]) == pytest.approx(volume(meshes[1]), rel=1e-5)
    assert volume(meshes[0]) == pytest.approx(4 / 3 * torch.pi * 0.4**3, rel=0.08)
    with pytest.raises(ValueError, match="no surface 'voxels'"):
        surface_grid("voxels", ball(), 16, 0.0, "cpu")


def test_colours_start_as_those_of_the_mesh():
    settings = replace(SETTINGS, color_start=60)
    run = DistilMesh(ball(color=torch.tensor([0.0, 1.0, 0.0])), reference(), BallPrior(), settings)
    colors = run.mesh().vertex_colors
    assert torch.allclose(colors, torch.tensor([0.0, 1.0, 0.0]).expand_as(colors), atol=0.1)


def test_the_result_has_uvs_and_the_colours_as_texture():
    run = DistilMesh(ball(), reference(), BallPrior(), SETTINGS)
    run.run(20)
    mesh = run.textured()
    assert mesh.uvs is not None and mesh.texture.shape == (64, 64, 3) and len(mesh.faces) <= 400
    assert torch.allclose(mesh.texture.median(0).values.median(0).values, torch.tensor(COLOR), atol=0.15)


def test_the_same_seed_gives_the_same_mesh_and_a_saved_run_goes_on():
    whole, again, first = (DistilMesh(ball(), reference(), BallPrior(), QUICK) for _ in range(3))
    whole.run(4)
    again.run(4)
    assert torch.equal(leaves(whole), leaves(again))
    first.run(2)
    tensors, about = first.state()
    second = DistilMesh(ball(), reference(), BallPrior(), QUICK)
    second.restore(tensors, about)
    assert torch.equal(second._surface.vertices, second.grid.surface().vertices), "it shows the surface that was saved"
    second.run(2)
    assert torch.equal(leaves(whole), leaves(second))
    with pytest.raises(ValueError, match="does not fit these settings"):
        DistilMesh(ball(), reference(), BallPrior(), replace(QUICK, grid=12)).restore(tensors, about)
    with pytest.raises(ValueError, match="does not fit these settings: it was begun from a mesh or field of another size"):
        DistilMesh(ball(), reference(), BallPrior(), QUICK).restore(tensors, {**about, "cell": about["cell"] * 1.1})


@pytest.mark.parametrize("surface", ["dmtet", "flexicubes"])
@pytest.mark.parametrize("value, words", [(-9.0, "vanished"), (float("nan"), "degenerated")])
def test_an_empty_or_degenerate_surface_keeps_the_last_good_mesh(surface, value, words):
    run = DistilMesh(ball(), reference(), BallPrior(), replace(QUICK, surface=surface, grid=16))
    run.step()
    good = run.mesh()
    with torch.no_grad():
        run.grid.parameters["sdf"].fill_(value if surface == "dmtet" else -value)
    with pytest.raises(SurfaceLost, match=f"({words}) at step 2; the last good mesh is kept"):
        run.step()
    kept = run.mesh()
    assert len(kept.faces) > 0 and abs(volume(kept) - volume(good)) < 0.1 * volume(good)
    run.step()  # and the loop can go on from it
    with torch.no_grad():
        run.grid.parameters["sdf"].fill_(value if surface == "dmtet" else -value)
    assert len(run.mesh().faces) > 0


def test_gradients_that_are_not_finite_move_nothing():
    run = DistilMesh(ball(), reference(), BallPrior(spoil=[0]), QUICK)
    before = leaves(run)
    run.step()
    assert run.skipped == 1 and torch.equal(before, leaves(run))
    run.step()
    assert run.skipped == 1 and not torch.equal(before, leaves(run))


def test_lit_views_smooth_normals_and_depth_have_gradients():
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 32)
    weights = LossWeights(rgb=1, mask=1, mask_loss="bce", depth=1, normal_blur=1, normal_tv=1, opacity=1)
    settings = replace(QUICK, size=32, weights=weights, random_background=True, views=3,
                       shading=ShadingSchedule(normals=0.3, textureless=0.3, lambertian=0.4))  # fmt: skip
    run = DistilMesh(ball(), ReferenceView(image, mask, torch.rand(1, 1, 32, 32)), BallPrior(), settings)
    before = leaves(run)
    run.run(2)
    assert {"depth", "normal blur", "normal variation"} <= set(run.losses[0]) and run.skipped == 0
    assert not torch.equal(before, leaves(run))
    drawn = run.draw(posed_cameras([0.0], [0.0], 1.8, 40.0), 32, [PLAIN], torch.ones(3), False)
    assert float(drawn.depths[0, 0, 16, 16]) == pytest.approx(1.4, abs=0.05)  # the front of the ball
    depths = (drawn.depths / drawn.alphas)[drawn.alphas > 0.02]  # weighted by opacity, so at silhouettes, too
    assert len(depths) > 50 and 1.35 < float(depths.min()) and float(depths.max()) < 1.85


def test_cancel_while_the_start_is_prepared():
    def tick(step, total, preview=None):
        if step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        DistilMesh(ball(), reference(), BallPrior(), SETTINGS, tick=tick)


def test_what_cannot_be_refined_is_said_in_words():
    with pytest.raises(ValueError, match="no faces"):
        DistilMesh(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)), reference(), BallPrior(), QUICK)
    flat = Mesh(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0], [0, 0, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError):
        DistilMesh(flat, reference(), BallPrior(), QUICK)
    with pytest.raises(ValueError, match="out of range"):
        replace(QUICK, grid=300)
    with pytest.raises(ValueError, match="neither a reference picture nor a prior"):
        DistilMesh(ball(), ReferenceView(), None, QUICK)
