"""Stages that take pictures and cameras give round balls from pictures that are not square, with cameras of an orbit or a preset."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from lathe.pipelines.cameras.join_and_select import join_cameras
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.distillation.view_model_prior import ViewGridDenoiser
from lathe.pipelines.fitting.targets import Targets
from lathe.pipelines.images.foreground import mask_views
from lathe.pipelines.meshes.bake_texture import bake_from_views
from lathe.pipelines.meshes.extract import field_to_mesh
from lathe.pipelines.meshes.fit import fit_meshes
from lathe.pipelines.meshes.fit_settings import load_mesh_preset
from lathe.pipelines.ops.losses import LossWeights
from lathe.pipelines.ops.texture_sampling import sample_texture
from lathe.pipelines.reconstruction import lrm
from lathe.pipelines.reconstruction.geolrm.stages import propose, reconstruct
from lathe.pipelines.rendering.field import render_field
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.rendering.splats import render_splats
from lathe.pipelines.splats.fit import SplatFit, asset_fits, with_changes
from lathe.pipelines.splats.fit_settings import load_fit_preset
from lathe.pipelines.splats.renoise import RenoiseLoop
from lathe.pipelines.splats.start import start_from_hull, start_from_mesh
from lathe.pipelines.view_generation.sampling import generate_views, renoise_views
from lathe.pipelines.weights import mini_models
from lathe.pipelines.weights.geolrm import MINI_FILE, load_geolrm
from torch import Tensor
from wide_views import COLOR, RADIUS, SIZES, ball_mesh, ball_pictures, box_of, true_cameras

ORBIT = join_cameras(orbit_cameras(5, elevation=10), orbit_cameras(3, elevation=50))
SMALL = [(36, 64), (64, 48)]  # narrower ones would not show the whole cube, and leave the hull open


def reach(points: Tensor) -> Tensor:
    """Half the extents (3,)."""
    return (points.amax(0) - points.amin(0)) / 2


def check_round(points: Tensor, share: float, radius: float = RADIUS) -> None:
    found = reach(points)
    assert float((found / radius - 1).abs().max()) < share and float(found.max() / found.min()) < 1 + share, found


class BallField:
    level, bound, kind = 10.0, 1.0, "sdf"

    def geometry(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - RADIUS

    def color(self, points: Tensor) -> Tensor:
        return points * 0.5 + 0.5

    def to(self, device: object) -> BallField:
        return self


def draw_mesh(cameras: Cameras, height: int, width: int):
    return render_mesh(ball_mesh(), cameras, height, width)


def draw_field(cameras: Cameras, height: int, width: int):
    return render_field(BallField(), cameras, height, width, samples=24)


def draw_splats(cameras: Cameras, height: int, width: int):
    return render_splats(start_from_mesh(ball_mesh(), 1000, 0), cameras, height, width)


@pytest.mark.parametrize("draw", [draw_mesh, draw_field, draw_splats])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_renderers_draw_a_round_ball(draw, height, width):
    cameras = orbit_cameras(1, elevation=20)
    wide, high = box_of(draw(cameras, height, width).masks)
    true = box_of(ball_pictures(cameras.c2w, height, width)[1])
    assert abs(wide - high) <= 1 and wide == pytest.approx(true[0], rel=0.2)  # Gaussians are soft
    assert torch.equal(draw(cameras, height, width).images, draw(true_cameras(cameras, height, width), height, width).images)


@pytest.mark.parametrize(("height", "width", "assets"), [(*SMALL[0], 1), (*SMALL[1], 2)])
def test_fit_splats(height, width, assets):
    images, masks = ball_pictures(ORBIT.c2w, height, width)
    cameras = ORBIT if assets == 1 else Cameras(ORBIT.c2w.repeat(2, 1, 1, 1), ORBIT.K.repeat(2, 1, 1), ORBIT.names)
    settings = with_changes(load_fit_preset("pixel"), steps=4, points=500)
    for fit in asset_fits(images.repeat(assets, 1, 1, 1), masks.repeat(assets, 1, 1, 1), cameras, settings=settings):
        fit.run(4)
        splats = fit.result().splats
        check_round(splats.positions[splats.opacities > 0.3], 0.1)
        drawn = render_splats(splats, ORBIT, height, width)
        assert float((drawn.masks - masks).abs().mean()) < 0.05


@pytest.mark.parametrize(("height", "width"), SMALL)
def test_the_hull_of_the_masks(height, width):
    splats = start_from_hull(*ball_pictures(ORBIT.c2w, height, width), ORBIT, 2000, 0, resolution=48)
    check_round(splats.positions, 0.15)


def test_a_refining_round_renders_as_it_was_fitted():
    """With nothing to mend, the views of a round are the asset's own renders, and fit the pictures it was fitted to."""
    images, masks = ball_pictures(ORBIT.c2w, 36, 64)
    settings = with_changes(load_fit_preset("pixel"), steps=4, points=800)
    start = start_from_hull(images, masks, ORBIT, 800, 0, resolution=48)
    fit = SplatFit(images, masks, ORBIT, start=start, settings=settings)

    class Alike:
        name = "mean difference of pixels"

        def embed(self, image):
            return image

        def between(self, one, other):
            return (one - other).abs().mean()

        net = torch.nn.Linear(1, 1)

    loop = RenoiseLoop(fit, images, masks, ORBIT, lambda views, *rest: views, Alike())
    before, after = loop.round(0.3, 2, 0)
    assert before < 0.06 and after < 0.06 and float((loop.masks - masks).abs().mean()) < 0.05


def test_fit_mesh():
    """A ball stays the ball it is."""
    settings = replace(
        load_mesh_preset("fast"), steps=15, resolution=24, texture_steps=1, texture_size=32, faces=400,
        weights=LossWeights(mask=1.0, l1=1.0),
    )  # fmt: skip
    (made,) = fit_meshes([ball_mesh(12)], *ball_pictures(ORBIT.c2w, 36, 64), ORBIT, settings=settings)
    check_round(made.mesh.vertices, 0.03)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_baked_colours_land_where_they_belong(height, width):
    """A ball in the colours of its places is drawn, and painted on a bare ball with the cameras of an orbit."""
    ball = ball_mesh()
    seen = render_mesh(ball, true_cameras(ORBIT, height, width), height, width, supersample=2)
    bare = replace(ball, vertex_colors=None)
    baked, coverage = bake_from_views(bare, seen.images, seen.masks, ORBIT, size=64)
    assert float(coverage.mean()) > 0.2 and baked.uvs is not None and baked.texture is not None
    painted = sample_texture(baked.texture, baked.uvs)
    inner = baked.vertices[:, 1] > -0.2  # no camera looks from below
    wanted = render_colors(baked.vertices)
    assert float((painted - wanted)[inner].abs().mean()) < 0.03


def render_colors(points: Tensor) -> Tensor:
    """sRGB of the ball's linear vertex colours."""
    linear = 0.5 + 0.5 * points / RADIUS
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("height", "width"), [(57, 100), (128, 72)])
def test_reconstruct(height, width, caplog):
    cameras = preset_cameras("zero123plus_v1.2")
    net = mini_models.load_lrm()
    (field,) = lrm.reconstruct(net, *ball_pictures(cameras.c2w, height, width), cameras)
    check_round(field_to_mesh(field, resolution=32).vertices, 0.15)
    assert [record.levelno for record in caplog.records if "padded" in record.getMessage()] == [logging.WARNING]


def test_reconstruct_two_assets_as_single_runs():
    cameras = preset_cameras("zero123plus_v1.2")
    net = mini_models.load_lrm()
    images, masks = ball_pictures(cameras.c2w, 36, 64)
    one = lrm.reconstruct(net, images, masks, cameras)[0]
    points = torch.rand(50, 3) - 0.5
    for field in lrm.reconstruct(net, images.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1, 1), cameras):
        assert torch.equal(field.geometry(points), one.geometry(points))


def test_geolrm():
    cameras = orbit_cameras(4, elevation=20)
    images, masks = ball_pictures(cameras.c2w, 57, 100)
    model = load_geolrm(MINI_FILE)
    occupancy = propose(model, images, masks, cameras)
    cells = reach(torch.nonzero(occupancy[0] > 0.5).float())
    assert float(cells.max() - cells.min()) <= 2, cells
    (splats,) = reconstruct(model, occupancy, images, masks, cameras, tokens=256)
    check_round(splats.positions[splats.opacities > 0.3], 0.25)


@pytest.mark.parametrize(("height", "width", "masked"), [(128, 256, False), (90, 50, True)])
def test_generate_views_of_a_disc(height, width, masked, caplog):
    """What was 31 x 57 pixels of a disc: now the same as from a square picture."""

    def views(h: int, w: int, side: float) -> list[tuple[int, int]]:
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        disc = (((x - w / 2) ** 2 + (y - h / 2) ** 2).sqrt() < 0.42 * side).float()
        picture = disc * torch.tensor(COLOR).view(3, 1, 1) + (1 - disc)
        made = generate_views(model, picture, disc if masked else None, seed=0, steps=1)
        outlines = mask_views(made, model.mask_method)
        return [box_of(outlines[view, None]) for view in range(6)]

    model = mini_models.load_views()
    wanted, found = views(128, 128, 128), views(height, width, min(height, width))
    assert all(abs(a - b) <= 3 for one, other in zip(wanted, found, strict=True) for a, b in zip(one, other, strict=True))
    assert caplog.text.count("not square; its object was cut out") == 1


def test_a_picture_that_cannot_be_prepared_is_refused():
    noise = torch.rand(3, 40, 80, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="80 x 40 pixels, not square.*Prepare Image"):
        generate_views(mini_models.load_views(), noise, seed=0)


def test_a_view_models_own_grid_takes_squares_only():
    model = mini_models.load_views()
    with pytest.raises(ValueError, match="draws square views, and these are 64 x 36"):
        renoise_views(model, torch.ones(6, 3, 36, 64), torch.ones(6, 1, 36, 64), torch.ones(3, 64, 64), level=0.5, seed=0)
    with pytest.raises(ValueError, match="one picture"):
        ViewGridDenoiser(model, torch.ones(1, 3, 36, 64))


def test_squeezed_pictures_with_their_own_cameras_are_right_and_said_once(caplog):
    """Wide cameras, and their pictures squeezed into squares."""
    wide = true_cameras(ORBIT, 36, 64)
    images, masks = (torch.nn.functional.interpolate(x, (48, 48), mode="area") for x in ball_pictures(ORBIT.c2w, 36, 64))
    settings = with_changes(load_fit_preset("pixel"), steps=2, points=800)
    (fit,) = asset_fits(images, masks, wide, settings=settings)
    fit.run(2)
    check_round(fit.splats().positions, 0.15)
    assert [r.getMessage().count("1.78:1") for r in caplog.records if "squeezed" in r.getMessage()] == [1]


def test_square_views_are_compared_as_before():
    targets = Targets(
        *ball_pictures(ORBIT.c2w, 32, 32), ORBIT, load_fit_preset("pixel"), None, torch.Generator(), torch.device("cpu"), "Test"
    )
    assert torch.equal(targets.cameras.K, ORBIT.K) and isinstance(start_from_mesh(ball_mesh(), 10, 0), Splats)
