"""Meshes fitted to views: shape and colours get better, the same seed gives the same, and whatever goes wrong leaves the last good mesh."""

from dataclasses import replace

import pytest
import torch
from handed import signed_volume
from lathe.pipelines import metrics
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.fitting import failed_steps
from lathe.pipelines.meshes import extract, fit_settings
from lathe.pipelines.meshes import fit as mesh_fit
from lathe.pipelines.meshes.fit import MeshFit, fit_meshes
from lathe.pipelines.meshes.fit_settings import SurfaceRates, load_mesh_preset
from lathe.pipelines.ops import mesh_sampling
from lathe.pipelines.ops.color import srgb_to_linear
from lathe.pipelines.ops.flexicubes import regular_grid
from lathe.pipelines.rendering.mesh import render_mesh

CAMERAS = posed_cameras([0, 60, 120, 180, 240, 300, 30, 200], [10, -10, 20, 0, 30, -20, 70, -60], 4.0, 30.0)
UNSEEN = posed_cameras([35, 155, 275], [5, 5, 5], 4.0, 30.0)
SMALL = replace(
    load_mesh_preset("fast"), resolution=32, steps=60, texture_steps=20, faces=3000, texture_size=256, perceptual_size=32,
    rates=SurfaceRates(sdf=0.1, displacement=0.05, weights=0.05, colors=0.08, texture=0.02),
)  # fmt: skip
SIZE = 64


def colored(vertices, faces):
    """Red grows towards the object's left (+X), green upwards, blue in waves."""
    red, green = (vertices[:, :2] / 2 + 0.5).clamp(0, 1).unbind(1)
    blue = 0.5 + 0.4 * torch.sin(9 * vertices[:, 2])
    return Mesh(vertices, faces, vertex_colors=srgb_to_linear(torch.stack([red, green, blue], dim=1)))


def ball(radius, bumps=0.0, resolution=48):
    points = regular_grid(resolution, 2.0)
    sdf = points.norm(dim=1) - radius - bumps * torch.sin(6 * points).prod(1)
    return extract.marching_cubes(sdf.reshape([resolution + 1] * 3), 1.0)


@pytest.fixture(scope="module")
def truth():
    mesh = colored(*ball(0.7))
    views = render_mesh(mesh, CAMERAS, SIZE, SIZE, supersample=2)
    return mesh, views.images, views.masks


@pytest.fixture(scope="module")
def bumpy():
    return Mesh(*ball(0.62, 0.15))


@pytest.fixture(scope="module")
def fitted(truth, bumpy):
    fit = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL, seed=1)
    before = fit.mesh()
    fit.run(SMALL.steps)
    return fit, before, fit.mesh()


def unseen_psnr(mesh, truth):
    images, target = (render_mesh(m, UNSEEN, SIZE, SIZE, supersample=2).images for m in (mesh, truth))
    return float(metrics.psnr(images, target).mean())


def surface_error(mesh):
    return float((mesh_sampling.sample_surface(mesh, 4000, 0).norm(dim=1) - 0.7).abs().mean())


def test_losses_fall_and_the_shape_gets_better_where_no_view_looked(truth, bumpy, fitted):
    fit, before, after = fitted
    first, last = (sum(step["total"] for step in part) / 8 for part in (fit.losses[:8], fit.losses[-8:]))
    assert last < 0.3 * first and fit.steps_done == SMALL.steps and fit.skipped == 0
    assert surface_error(before) > 0.06 and surface_error(after) < 0.02
    assert unseen_psnr(after, truth[0]) > unseen_psnr(before, truth[0]) + 10
    assert signed_volume(after.vertices, after.faces) > 0
    # red on the object's left: nothing is mirrored
    left, right = (float(after.vertex_colors[after.vertices[:, 0] * side > 0.6, 0].mean()) for side in (1, -1))
    assert left > right + 0.4


def test_the_texture_is_optimised_too(truth, fitted):
    fit = fitted[0]
    plain = MeshFit(fitted[2], *truth[1:], CAMERAS, settings=replace(SMALL, texture_steps=0))
    untouched, optimised = plain.textured(), fit.textured()
    for mesh in (untouched, optimised):
        assert mesh.texture.shape == (256, 256, 3) and mesh.uvs is not None and len(mesh.faces) <= 3000
        assert not mesh.texture.requires_grad
    renders = [render_mesh(m, CAMERAS, SIZE, SIZE, supersample=2).images for m in (untouched, optimised)]
    seen = [float(metrics.psnr(images, truth[1]).mean()) for images in renders]
    assert seen[1] > seen[0] and seen[1] > 28, seen
    assert len(fit.losses) == SMALL.steps + 20
    result = fit.result(optimised)
    assert result.preview.shape == (3, 2 * SIZE, 4 * SIZE) and result.curve.ndim == 3


@pytest.mark.parametrize("perceptual, threads", [(SMALL.weights.perceptual, (1, 1, 1)), (0.0, (1, 2, 1))])
def test_the_same_seed_gives_the_same_mesh_and_inputs_stay(truth, bumpy, perceptual, threads):
    """On any number of threads but for the perceptual network, whose convolutions some processors add up in an order that depends on it."""
    before = [t.clone() for t in (bumpy.vertices, truth[1], truth[2], CAMERAS.c2w)]
    settings = replace(SMALL, weights=replace(SMALL.weights, perceptual=perceptual))
    made = []
    for seed, count in zip((3, 3, 4), threads, strict=True):
        torch.set_num_threads(count)
        fit = MeshFit(bumpy, *truth[1:], CAMERAS, settings=settings, seed=seed)
        fit.run(6)
        made.append(fit.mesh())
    torch.set_num_threads(1)
    assert torch.equal(made[0].vertices, made[1].vertices) and torch.equal(made[0].vertex_colors, made[1].vertex_colors)
    assert not torch.equal(made[0].vertices, made[2].vertices)
    assert all(torch.equal(a, b) for a, b in zip(before, (bumpy.vertices, truth[1], truth[2], CAMERAS.c2w), strict=True))


def test_cancel_keeps_the_last_good_mesh(truth, bumpy):
    fit, seen = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL), []

    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        seen.append(None if preview is None else tuple(preview.shape))
        if step == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit.run(40, tick)
    assert fit.steps_done == 5 and seen[-1] == (SIZE, 2 * SIZE, 3)
    other = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL)
    other.run(5)
    assert torch.equal(fit.mesh().vertices, other.mesh().vertices)
    fit.run(1)
    assert fit.steps_done == 6


def test_a_step_that_is_not_finite_changes_nothing(truth, bumpy):
    fit = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL)
    fit.run(2)
    before, images = fit.mesh(), fit.targets.images.clone()
    fit.targets.images[:] = float("nan")
    fit.run(3)
    assert fit.skipped == 3 and torch.equal(fit.mesh().vertices, before.vertices)
    with pytest.raises(failed_steps.FitBroken, match="20 steps in a row"):
        fit.run(20)
    assert torch.equal(fit.mesh().vertices, before.vertices)
    fit.targets.images[:] = images
    fit.targets._maps.clear()
    fit._bad_in_a_row = 0
    fit.step()
    assert not torch.equal(fit.mesh().vertices, before.vertices)


def test_a_surface_that_vanishes_is_said_and_the_one_before_kept(truth, bumpy):
    fit = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL)
    fit.run(2)
    with torch.no_grad():
        fit.band.sdf.fill_(1.0)
        fit.band._far.fill_(1.0)
    far = MeshFit(bumpy, *truth[1:], CAMERAS, settings=SMALL).band._far
    with pytest.raises(mesh_fit.SurfaceLost, match="vanished at step 3"):
        fit.step()
    fit.band._far.copy_(far)
    assert len(fit.mesh().faces) > 100


def test_a_batch_gives_what_single_runs_give(truth, bumpy):
    settings = replace(SMALL, steps=2, texture_steps=1)
    images, masks = (torch.cat([part, part.flip(0)]) for part in truth[1:])
    cameras = Cameras(torch.stack([CAMERAS.c2w, CAMERAS.c2w.flip(0)]), torch.stack([CAMERAS.K] * 2), CAMERAS.names)
    steps = []

    def tick(step, total, preview=None):
        steps.append(step / total)

    both = fit_meshes([bumpy, truth[0]], images, masks, cameras, settings=settings, tick=tick)
    alone = fit_meshes([truth[0]], images[8:], masks[8:], cameras.of_asset(1), settings=settings)
    assert torch.equal(both[1].mesh.vertices, alone[0].mesh.vertices) and torch.equal(both[1].mesh.texture, alone[0].mesh.texture)
    assert max(steps) == 1.0


def test_views_with_empty_masks_are_left_out_and_masks_may_miss(truth, bumpy):
    masks = truth[2].clone()
    masks[:6] = 0
    fit = MeshFit(bumpy, truth[1], masks, CAMERAS, settings=SMALL)
    assert len(fit.targets) == 2 and fit.targets.cameras.n_views == 2
    bare = MeshFit(bumpy, truth[1], None, CAMERAS, settings=SMALL)
    assert "mask" not in bare.step() and len(bare.targets) == 8


def test_previews_of_a_batch_have_one_size_whatever_masks_are_empty(truth, bumpy):
    images, masks = (torch.cat([part[:4], part[:4]]) for part in truth[1:])
    masks[4:6] = 0
    settings = replace(SMALL, steps=1, texture_steps=1)
    results = fit_meshes([bumpy, bumpy], images, masks, CAMERAS.select([0, 1, 2, 3]), settings=settings)
    assert results[0].preview.shape == results[1].preview.shape == (3, 2 * SIZE, 4 * SIZE)


def test_bad_input_is_refused_in_words(truth, bumpy):
    images, masks = truth[1:]

    def start(mesh=bumpy, images=images, masks=masks, cameras=CAMERAS, settings=SMALL):
        return MeshFit(mesh, images, masks, cameras, settings=settings)

    nan = images.clone()
    nan[0, 0, 0, 0] = float("nan")
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    for changes, words in (
        ({"cameras": UNSEEN}, "8 views of one asset need as many cameras, not 3"),
        ({"images": nan}, "NaN"),
        ({"masks": masks[:, :, :40]}, "as many masks of that size"),
        ({"masks": torch.zeros_like(masks)}, "all masks are empty"),
        ({"images": images[..., :8, :8], "masks": None}, "8 x 8 pixels; they need at least 16"),
        ({"mesh": Mesh(bumpy.vertices * 0, bumpy.faces)}, "no area"),
        ({"mesh": Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))}, "no faces"),
        ({"mesh": Mesh(bumpy.vertices * 1e-4 + 0.03, bumpy.faces)}, "no inside that a grid of 32 cells can hold"),
    ):
        with pytest.raises(ValueError, match=words):
            start(**changes)
    assert len(start(mesh=flat).mesh().faces) > 0, "a single sheet becomes a slab"
    with pytest.raises(ValueError, match="2 meshes"):
        fit_meshes([bumpy, bumpy], images, masks, CAMERAS, settings=SMALL)
    for wrong in ({"resolution": 8}, {"steps": 0}, {"weights": replace(SMALL.weights, perceptual=0, ms_ssim=0, mask=0, l1=0)}):
        with pytest.raises(ValueError, match="Fit Mesh"):
            replace(SMALL, **wrong)
    with pytest.raises(ValueError, match="choose one of fast, geolrm, paper"):
        load_mesh_preset("slow")


def test_presets_name_their_source_and_paper_has_the_papers_weights():
    for name in fit_settings.mesh_preset_names():
        assert load_mesh_preset(name).source
    weights = load_mesh_preset("paper").weights
    assert (weights.perceptual, weights.ms_ssim, weights.mask, weights.l1, weights.l2) == (10.0, 0.2, 1.0, 0.0, 0.0)
