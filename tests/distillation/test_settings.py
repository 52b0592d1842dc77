"""Every preset of the distillations, with its own losses, bias, thresholds and cameras, in sizes that a test can pay for."""

import logging
from dataclasses import replace

import pytest
import torch
from ball_prior import BallPrior, ball_views
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.distillation.cameras_and_shading import ReferenceView
from lathe.pipelines.distillation.field import DistilField
from lathe.pipelines.distillation.mesh import DistilMesh
from lathe.pipelines.distillation.settings import DistilPreset, distil_preset_names, load_distil_preset
from lathe.pipelines.distillation.splat import DistilSplat
from lathe.pipelines.meshes.extract import field_to_mesh
from lathe.pipelines.splats.start import start_from_points

SMALL_NET = {"levels": 6, "log2_size": 12, "base": 4, "finest": 64, "hidden": 16}
BALL = 0.45


def small(name: str) -> DistilPreset:
    preset = load_distil_preset(name)
    coarse, fine = preset.coarse, preset.fine
    return replace(
        preset,
        coarse=replace(
            coarse, size=24, first_size=0, reference_first=min(coarse.reference_first, 2),
            field=replace(coarse.field, **SMALL_NET, first_levels=min(coarse.field.first_levels, 3)),
            march=replace(coarse.march, step=0.04, grid=32, every=4),
        ),
        fine=replace(
            fine, size=32, grid=16, reference_first=min(fine.reference_first, 1), color=replace(fine.color, **SMALL_NET), color_start=10,
            faces=500,
        ),
        splat=replace(preset.splat, size=32, points=300, reference_first=min(preset.splat.reference_first, 1)),
    )  # fmt: skip


def reference(depth: bool = False) -> ReferenceView:
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 64)
    return ReferenceView(image, mask, torch.rand(1, 1, 64, 64) if depth else None, 0.0, 1.8, 40.0, 1.0)


@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("name", distil_preset_names())
def test_a_field_of_few_steps_has_a_surface_where_it_is_seen(name: str, steps: int):
    run = DistilField(reference(), BallPrior(BALL), replace(small(name).coarse, steps=12))
    run.run(steps)
    assert run.skipped == 0
    seen = run.draw(posed_cameras([90.0], [0.0], 1.8, 40.0), 48, [], torch.ones(3), False).alphas > 0.5
    wide = float((seen.sum() / torch.pi).sqrt()) / 24 * 1.8 * torch.tan(torch.deg2rad(torch.tensor(20.0))).item()
    mesh = field_to_mesh(run.field(), "marching_cubes", 48)
    radius = float(mesh.vertices.norm(dim=1).mean())
    assert wide > 0.05
    assert 0.5 * wide < radius < 1.5 * wide, "the mesh is as large as what is seen"


@pytest.mark.parametrize("name", distil_preset_names())
def test_a_field_that_was_cancelled_before_its_first_step_has_a_surface(name: str):
    mesh = field_to_mesh(DistilField(reference(), BallPrior(BALL), small(name).coarse).field(), "marching_cubes", 48)
    assert 0.2 < float(mesh.vertices.norm(dim=1).mean()) < 0.6


@pytest.mark.parametrize("name", distil_preset_names())
def test_mesh_and_splats_take_steps(name: str):
    preset = small(name)
    run = DistilField(reference(), BallPrior(BALL), replace(preset.coarse, steps=4))
    run.run(4)
    fine = DistilMesh(run.field(), reference(depth=True), BallPrior(BALL), replace(preset.fine, steps=3))
    fine.run(3)
    assert fine.skipped == 0 and len(fine.mesh().faces) > 20 and len(fine.losses) == 3
    assert ("depth" in fine.losses[0]) == (preset.fine.weights.depth > 0)
    points = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=1) * BALL
    start = start_from_points(points, torch.full((300, 3), 0.5))
    splats = DistilSplat(start, reference(depth=True), BallPrior(BALL), replace(preset.splat, steps=3))
    splats.run(3)
    assert splats.skipped == 0 and len(splats.splats()) > 0
    assert ("depth" in splats.losses[0]) == (preset.splat.weights.depth > 0)


def test_a_depth_that_a_preset_does_not_weigh_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        DistilField(reference(depth=True), BallPrior(), small("threestudio").coarse)
        assert "changes nothing" in caplog.text
        caplog.clear()
        DistilField(reference(depth=True), BallPrior(), small("paper").coarse)
        DistilField(reference(), BallPrior(), small("threestudio").coarse)
        assert "changes nothing" not in caplog.text


def test_what_is_opaque_outside_the_outline_shrinks():
    """The cross-entropy of the default preset pulls where alpha is 1."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1) * 0.6
    start = start_from_points(points, torch.full((4000, 3), 0.5))
    start = replace(start, scales=torch.full_like(start.scales, 0.06), opacities=torch.full_like(start.opacities, 0.999))
    settings = replace(load_distil_preset("threestudio").splat, size=32, steps=40)
    run = DistilSplat(start, reference(), None, settings)
    outside = ball_views(reference().camera, 32)[1] == 0

    def opaque() -> float:
        alphas = run.draw(reference().camera, 32, [], torch.ones(3), False).alphas
        return float((alphas[outside] > 0.99).float().mean())

    before = opaque()
    run.run(40)
    assert before > 0.2 and opaque() < 0.5 * before
