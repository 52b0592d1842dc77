"""A distillation of Gaussians, on a ball small enough for a test."""

from dataclasses import replace

import pytest
import torch
from ball_prior import BallPrior, ball_views
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.distillation.cameras_and_shading import ReferenceView
from lathe.pipelines.distillation.settings import LossWeights, SplatSettings
from lathe.pipelines.distillation.splat import DistilSplat
from lathe.pipelines.rendering.splats import render_splats
from lathe.pipelines.splats.density_control import EveryGaussianPruned
from lathe.pipelines.splats.start import start_at_centre

SETTINGS = SplatSettings(steps=120, size=32, weights=LossWeights(rgb=100, mask=30), points=400)
QUICK = replace(SETTINGS, size=16, points=60)


def reference() -> ReferenceView:
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 48)
    return ReferenceView(image, mask)


def test_gaussians_become_the_ball_that_the_prior_sees():
    run = DistilSplat(None, reference(), BallPrior(), SETTINGS)
    run.run(SETTINGS.steps)
    splats = run.splats()
    cameras = orbit_cameras(4, elevation=20, radius=1.8, fov=40, start=45)
    seen, truth = render_splats(splats, cameras, 32, 32).images, ball_views(cameras, 32)[0]
    assert float((seen - truth).square().mean()) < 0.01
    assert len(run.splat) != 400  # Gaussians came and went
    assert bool((splats.opacities >= run.fit.final_opacity).all())


def test_a_saved_run_goes_on_where_it_was_though_gaussians_came():
    whole = DistilSplat(None, reference(), BallPrior(), QUICK)
    whole.run(54)
    first = DistilSplat(None, reference(), BallPrior(), QUICK)
    first.run(51)
    assert len(first.splat) > 60  # density changed at step 50
    tensors, about = first.state()
    second = DistilSplat(None, reference(), BallPrior(), QUICK)
    second.restore(tensors, about)
    second.run(3)
    assert torch.equal(whole.splats().positions, second.splats().positions)
    with pytest.raises(ValueError, match="run state is of 'Distil Field'"):
        second.restore(tensors, {**about, "stage": "Distil Field"})
    with pytest.raises(ValueError, match="not of each how it was seen"):
        second.restore({**tensors, "density.seen": torch.zeros(3)}, about)


def test_a_start_a_skipped_step_and_bad_input():
    start = start_at_centre(30, 0)
    run = DistilSplat(start, reference(), BallPrior(spoil=[0]), QUICK)
    run.step()
    assert run.skipped == 1 and torch.equal(run.splats().positions, start.positions)
    with torch.no_grad():
        run.splat.tensors["logits"].fill_(-20)
    with pytest.raises(EveryGaussianPruned, match="every Gaussian faded"):
        run.splats()
    none = Splats(torch.zeros(0, 3), torch.ones(0, 3), torch.ones(0, 4), torch.zeros(0), torch.zeros(0, 1, 3))
    with pytest.raises(ValueError, match="no Gaussians to start from"):
        DistilSplat(none, reference(), BallPrior(), QUICK)
    with pytest.raises(ValueError, match="neither a reference picture nor a prior"):
        DistilSplat(None, ReferenceView(), None, QUICK)
