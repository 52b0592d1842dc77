"""How exact the gradients of the splat rasteriser are where a pixel's light is nearly used up.

There the light before the first Gaussian is thousands of times what is left, and a backward pass that gets to the small numbers by
subtracting large ones loses that many digits.
"""

from collections.abc import Iterator
from statistics import median
from types import ModuleType

import pytest
import torch
from emulation import emulated
from lathe.pipelines.ops.splat_raster import cuda_form, numba_form, torch_form
from lathe.pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras
from splat_scenes import Scene, cameras, decided, drawn_by, run, scene
from torch import Tensor

SEEDS = 24
VIEWMATS, KS = splat_cameras(cameras(1), 1, 1)


@pytest.fixture(params=[numba_form, cuda_form], ids=["numba", "cuda"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if request.param is cuda_form:
        emulated(monkeypatch)
    return request.param


def crowded_pixels() -> Iterator[tuple[Scene, Tensor]]:
    """Scenes that use up nearly all light of their one pixel, with the mask, all ones, of pixels that no rounding changes."""
    for seed in range(SEEDS):
        world = scene(150, seed=seed)
        mask = decided(world.to(torch.float64), VIEWMATS, KS, 1, 1)
        if mask.all():
            yield world, mask


def relative(made: Tensor, true: Tensor) -> float:
    return float((made - true).norm() / true.norm())


def all_gradients(parts: Scene, mask: Tensor) -> list[Tensor]:
    """Of a loss on colour, alpha, depth and two channels more."""
    made, gradients = run(parts, VIEWMATS, KS, 1, 1, mask)
    assert 1 - float(made.alpha.detach()) < 1e-3
    return gradients


def test_gradients_keep_the_digits_of_the_obvious_form(form: ModuleType) -> None:
    """The worst error of any gradient in float32, relative to that gradient's norm in float64, for each scene.

    Of a backward pass front to back that subtracts each Gaussian's share from what remains, the median was 32 times the obvious form's
    and the maximum 8 times.
    """
    errors: dict[ModuleType, list[float]] = {form: [], torch_form: []}
    for world, mask in crowded_pixels():
        true = all_gradients(world.to(torch.float64), mask)
        for drawer, worst in errors.items():
            with drawn_by(drawer):
                worst.append(max(map(relative, all_gradients(world.to(torch.float32), mask), true)))
    ours, obvious = errors[form], errors[torch_form]
    assert len(ours) > SEEDS / 2
    assert median(ours) < 4 * median(obvious) and max(ours) < 3 * max(obvious)


def test_the_gradient_of_alpha_is_as_exact_as_the_light_left(form: ModuleType) -> None:
    """d alpha / d opacity is the light left over 1 - alpha: a number of 1e-4 that sums of weights near 1 cannot give to five digits."""
    for world, _ in crowded_pixels():
        with drawn_by(form):
            single, double = (
                torch.autograd.grad(render_gaussians(*parts[:5], VIEWMATS, KS, 1, 1).alpha.sum(), parts.opacities)[0]
                for parts in (world.to(torch.float32), world.to(torch.float64))
            )
        assert relative(single, double) < 5e-6
