"""The splat rasteriser: conventions, the obvious form against equations, the fast one against the obvious one, gradients."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from emulation import emulated
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math, choose_backend
from lathe.pipelines.ops.quaternions import rotation_matrices
from lathe.pipelines.ops.splat_raster import cuda_form, dispatch, numba_form, proof, torch_form
from lathe.pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras
from splat_scenes import SCENES, Oracle, Scene, cameras, drawn_by, run, scene
from torch import Tensor


@pytest.fixture(params=[numba_form, torch_form, cuda_form], ids=["numba", "torch", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Each form in turn, the CUDA one on an emulated card; float64 goes to the PyTorch form in any case."""
    card = emulated(monkeypatch) if request.param is cuda_form else None
    with drawn_by(request.param):
        yield request.param
    assert card is None or not card.faults


def one(mean: tuple[float, float, float], opacity: float = 0.8, scale: float = 0.1) -> dict[str, Tensor]:
    return {
        "means": torch.tensor([mean]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), scale),
        "opacities": torch.tensor([opacity]),
        "colors": torch.tensor([[0.2, 0.5, 0.9]]),
    }


def front(width: int = 32, height: int = 24, **options: Any) -> dict[str, Any]:
    """One camera on +Z that looks at the origin."""
    eye = Cameras(camera_math.orbit(torch.zeros(1), torch.zeros(1), 4.0), camera_math.intrinsics(30, 1), ("front",))
    viewmats, Ks = splat_cameras(eye, height, width)
    return {"viewmats": viewmats, "Ks": Ks, "width": width, "height": height, **options}


def test_a_centre_lands_where_a_point_is_projected(backend: Any) -> None:
    views = cameras(3, center=(0.4, 0.55))
    views.K[:, 1] *= 1.2
    viewmats, Ks = splat_cameras(views, 37, 53)
    parts = scene(40).to(torch.float32)
    made = render_gaussians(*parts[:5], viewmats, Ks, 53, 37)
    expected, depth = camera_math.project(parts.means.detach(), views.c2w, views.K)
    torch.testing.assert_close(made.means2d.detach(), expected * torch.tensor([53.0, 37.0]), atol=1e-4, rtol=0)
    single = one((0.3, -0.2, 0.4), opacity=0.999, scale=0.01)
    small = render_gaussians(**single, viewmats=viewmats, Ks=Ks, width=53, height=37)
    place, depth = camera_math.project(single["means"], views.c2w, views.K)
    for c in range(3):
        row, column = divmod(int(small.alpha[c].argmax()), 53)
        assert (column, row) == (int(place[c, 0, 0] * 53), int(place[c, 0, 1] * 37))
        ratio = small.depth[c, row, column, 0] / small.alpha[c, row, column, 0]
        assert float(ratio) == pytest.approx(float(depth[c, 0]), rel=1e-5)


def test_what_is_right_of_the_object_front_appears_right_and_up_is_up(backend: Any) -> None:
    made = render_gaussians(**one((0.4, 0.3, 0.0)), **front())
    rows, columns = torch.nonzero(made.alpha[0, ..., 0] > 0.1, as_tuple=True)
    assert rows.max() < 12 and columns.min() >= 16


def test_turned_gaussians_lie_along_their_axis(backend: Any) -> None:
    """Long along x, turned by 45 degrees about +Z: counter-clockwise seen from the front, so from bottom left to top right."""
    tilted = one((0.0, 0.0, 0.0)) | {"quats": torch.tensor([[0.9239, 0, 0, 0.3827]]), "scales": torch.tensor([[0.3, 0.02, 0.02]])}
    alpha = render_gaussians(**tilted, **front(32, 32)).alpha[0, ..., 0]
    assert float(alpha[12, 19]) > 0.2 and float(alpha[12, 12]) < 0.01


def brute_force(parts: Scene, viewmat: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """(H, W, 5) colour, depth, alpha of one camera, pixel by pixel from the equations of EWA splatting, in numbers of their own."""
    turn, origin = viewmat[:3, :3], viewmat[:3, 3]
    camera = parts.means @ turn.T + origin
    axes = rotation_matrices(parts.quats) @ torch.diag_embed(parts.scales)
    order = torch.argsort(camera[:, 2]).tolist()
    out = torch.zeros(height, width, 5, dtype=torch.float64)
    drawn = []
    for g in order:
        x, y, z = camera[g]
        fx, fy = K[0, 0] / z, K[1, 1] / z
        jacobian = torch.stack([fx, 0 * z, -fx * x / z, 0 * z, fy, -fy * y / z]).view(2, 3)
        covariance = jacobian @ turn @ axes[g] @ axes[g].T @ turn.T @ jacobian.T + 0.3 * torch.eye(2, dtype=torch.float64)
        centre = torch.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]])
        value = torch.cat([parts.colors[g], z[None], torch.ones(1)])
        drawn.append((centre, torch.linalg.inv(covariance), parts.opacities[g], value))
    for row in range(height):
        for column in range(width):
            light = torch.ones((), dtype=torch.float64)
            for centre, conic, opacity, value in drawn:
                offset = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64) - centre
                alpha = (opacity * torch.exp(-0.5 * offset @ conic @ offset)).clamp(max=0.999)
                if alpha < 1 / 255:
                    continue
                if light * (1 - alpha) <= 1e-4:
                    break
                out[row, column] += light * alpha * value
                light = light * (1 - alpha)
    return out


def test_the_obvious_form_is_what_the_equations_say() -> None:
    parts = Scene(*(part.detach() for part in scene(25, size=0.25).to(torch.float64)))
    parts = parts._replace(opacities=parts.opacities.sqrt())
    viewmats, Ks = splat_cameras(cameras(2), 9, 11)
    made = render_gaussians(*parts[:5], viewmats, Ks, 11, 9)
    for c in range(2):
        expected = brute_force(parts, viewmats[c].double(), Ks[c].double(), 11, 9)
        torch.testing.assert_close(torch.cat([made.color[c], made.depth[c], made.alpha[c]], dim=-1), expected, atol=1e-10, rtol=1e-10)


def test_gradients_of_the_obvious_form_are_finite_differences() -> None:
    parts = scene(12, sh_degree=2).to(torch.float64)
    viewmats, Ks = splat_cameras(cameras(2), 14, 17)
    weight = torch.randn(2, 14, 17, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(values: Scene) -> Tensor:
        made = render_gaussians(*values[:5], viewmats, Ks, 17, 14, sh_degree=2, extra=values.extra, antialiased=True)
        assert made.extra is not None
        return (torch.cat([made.color, made.alpha, made.depth, made.extra], dim=-1) * weight).sum()

    loss(parts).backward()
    for position, part in enumerate(parts):
        direction = torch.randn(part.shape, generator=torch.Generator().manual_seed(position), dtype=torch.float64)
        with torch.no_grad():
            ends = [loss(parts._replace(**{Scene._fields[position]: part + h * direction})) for h in (1e-6, -1e-6)]
        assert part.grad is not None
        measured, expected = float(ends[0] - ends[1]) / 2e-6, float((part.grad * direction).sum())
        assert measured == pytest.approx(expected, rel=1e-5, abs=1e-5), Scene._fields[position]


@pytest.mark.parametrize("case", SCENES, ids=str)
def test_pictures_and_gradients_equal_the_oracle(case: Any) -> None:
    """The CUDA form has a test of its own: `test_cuda_splats`."""
    oracle = Oracle(*case)
    for form in (numba_form, torch_form):
        oracle.check(form)


def test_extra_channels_of_each_camera_and_many_channels(backend: Any) -> None:
    """Nine channels of each camera's own: each is what it would be alone."""
    viewmats, Ks = splat_cameras(cameras(2), 20, 24)
    parts = scene(60).to(torch.float32)
    extra = torch.rand(2, 60, 9, generator=torch.Generator().manual_seed(3), requires_grad=True)
    made = render_gaussians(*parts[:5], viewmats, Ks, 24, 20, extra=extra)
    assert made.extra is not None and made.extra.shape == (2, 20, 24, 9)
    (made.extra[0, ..., 4].sum() + made.extra[1, ..., 8].square().sum()).backward()
    assert extra.grad is not None
    used = torch.zeros(2, 9, dtype=torch.bool)
    used[0, 4] = used[1, 8] = True
    assert torch.equal(extra.grad.abs().sum(1) > 0, used)
    for c, channel in ((0, 4), (1, 8)):
        alone = render_gaussians(*parts[:4], extra[c, :, channel, None], viewmats[c, None], Ks[c, None], 24, 20)
        torch.testing.assert_close(alone.color[0, ..., 0], made.extra[c, ..., channel], atol=1e-6, rtol=1e-5)


def test_absgrad_is_the_sum_of_the_pixels_absolute_gradients(backend: Any) -> None:
    viewmats, Ks = splat_cameras(cameras(1), 6, 9)
    parts = scene(8, size=0.3).to(torch.float32)
    made = render_gaussians(*parts[:5], viewmats, Ks, 9, 6, absgrad=True)
    weight = torch.randn(6, 9, 3, generator=torch.Generator().manual_seed(4))
    pixels = (made.color[0] * weight).sum(-1).flatten()
    each = [torch.autograd.grad(pixel, made.means2d, retain_graph=True)[0].clone() for pixel in pixels]
    fresh = render_gaussians(*parts[:5], viewmats, Ks, 9, 6, absgrad=True)
    fresh.means2d.retain_grad()
    (fresh.color[0] * weight).sum().backward()
    torch.testing.assert_close(fresh.means2d.absgrad, torch.stack(each).abs().sum(0), atol=1e-5, rtol=1e-4)  # type: ignore[attr-defined]
    torch.testing.assert_close(fresh.means2d.grad, torch.stack(each).sum(0), atol=1e-5, rtol=1e-4)


def test_radii_bound_what_is_drawn_and_are_zero_for_the_unseen(backend: Any) -> None:
    behind, beside, faint, seen = (0.0, 0.0, 4.5), (9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.2, 0.1, 0.0)
    four = [one(mean, opacity) for mean, opacity in ((behind, 0.8), (beside, 0.8), (faint, 0.0039), (seen, 0.8))]
    parts = {name: torch.cat([gaussian[name] for gaussian in four]) for name in four[0]}
    for part in parts.values():
        part.requires_grad_()
    made = render_gaussians(**parts, **front(64, 48))
    assert made.radii.dtype == torch.int32 and (made.radii[0] > 0).all(-1).tolist() == [False, False, False, True]
    rows, columns = torch.nonzero(made.alpha[0, ..., 0].detach() > 0, as_tuple=True)
    centre, radius = made.means2d[0, 3].detach(), made.radii[0, 3]
    for found, axis in ((columns + 0.5, 0), (rows + 0.5, 1)):
        reach = float((found - centre[axis]).abs().max())
        assert float(radius[axis]) - 1.5 < reach <= float(radius[axis])
    made.color.sum().backward()
    for part in parts.values():
        assert part.grad is not None and bool(torch.isfinite(part.grad).all()) and not part.grad[:3].any()
    assert bool(parts["means"].grad[3].any())  # type: ignore[index]


def test_gaussians_at_the_near_plane_give_finite_gradients(backend: Any) -> None:
    """Right before the eye and far beside the picture, where the projection is at its worst."""
    parts = scene(400).to(torch.float32)
    viewmats, Ks = splat_cameras(cameras(1, fov=80.0), 24, 32)
    eye = -(viewmats[0, :3, :3].T @ viewmats[0, :3, 3])
    moved = (parts.means.detach() * 0.4 + eye).requires_grad_()
    made = render_gaussians(moved, *parts[1:5], viewmats, Ks, 32, 24)
    assert bool(torch.isfinite(made.color).all()) and float(made.alpha.detach().max()) <= 1 + 1e-6
    (made.color.sum() + made.depth.sum()).backward()
    assert moved.grad is not None and bool(torch.isfinite(moved.grad).all())


def test_no_gaussians_give_the_background(backend: Any) -> None:
    parts = [part.detach()[:0].requires_grad_() for part in scene(3).to(torch.float32)]
    viewmats, Ks = splat_cameras(cameras(2), 5, 6)
    made = render_gaussians(*parts[:5], viewmats, Ks, 6, 5, extra=parts[5], background=torch.tensor([1.0, 0.5, 0.0]), absgrad=True)
    assert torch.equal(made.color, torch.tensor([1.0, 0.5, 0.0]).expand(2, 5, 6, 3)) and not made.alpha.any() and not made.depth.any()
    made.means2d.retain_grad()
    made.color.sum().backward()
    assert made.means2d.shape == made.radii.shape == (2, 0, 2)


def test_the_background_shows_through(backend: Any) -> None:
    gaussian, shade = one((0.0, 0.0, 0.0)), torch.tensor([1.0, 0.5, 0.25])
    plain, over = render_gaussians(**gaussian, **front()), render_gaussians(**gaussian, **front(background=shade))
    torch.testing.assert_close(over.color, plain.color + (1 - plain.alpha) * shade)


def test_alpha_is_clamped_and_has_no_gradient_there(backend: Any) -> None:
    gaussian = one((0.0, 0.0, 0.0), opacity=1.0, scale=0.5)
    gaussian["opacities"].requires_grad_()
    made = render_gaussians(**gaussian, **front(33, 33))
    assert float(made.alpha.detach().max()) == pytest.approx(0.999, abs=1e-6)
    (gradient,) = torch.autograd.grad(made.alpha[0, 16, 16, 0], gaussian["opacities"])
    assert float(gradient) == 0


def test_small_gaussians_keep_their_light_when_antialiased(backend: Any) -> None:
    """A Gaussian far smaller than a pixel gives the same light at any resolution; without, it grows as pixels do."""
    tiny = one((0.0, 0.0, 0.0), scale=0.02)

    def light(size: int, antialiased: bool) -> float:
        return float(render_gaussians(**tiny, **front(size, size, antialiased=antialiased)).alpha.sum()) / size**2

    assert light(16, True) == pytest.approx(light(64, True), rel=0.25)
    assert light(16, False) > 4 * light(64, False)


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    world = scene(5000, sh_degree=1, size=0.06)
    viewmats, Ks = splat_cameras(cameras(2), 61, 83)
    made = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        result, gradients = run(world.to(torch.float32), viewmats, Ks, 83, 61, torch.ones(1), sh_degree=1)
        made.append([result.color, result.alpha, result.depth, result.extra, result.radii, *gradients])
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_inputs_stay_as_they_are(backend: Any) -> None:
    parts = scene(30).to(torch.float32)
    viewmats, Ks = splat_cameras(cameras(1), 8, 8)
    before = [part.detach().clone() for part in (*parts, viewmats, Ks)]
    run(parts, viewmats, Ks, 8, 8, torch.ones(1))
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, (*parts, viewmats, Ks), strict=True))


@pytest.mark.parametrize("name", Scene._fields)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    parts = scene(5).to(torch.float32)
    broken = getattr(parts, name).detach().clone()
    broken.view(-1)[-1] = bad
    viewmats, Ks = splat_cameras(cameras(1), 8, 8)
    values = parts._replace(**{name: broken})
    with pytest.raises(ValueError, match=f"{name} hold NaN"):
        render_gaussians(*values[:5], viewmats, Ks, 8, 8, extra=values.extra)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quats": torch.zeros(1, 3)}, r"quats must have shape \(1, 4\)"),
        ({"opacities": torch.zeros(1, 1)}, r"opacities must have shape \(1,\)"),
        ({"colors": torch.zeros(1, 4, 3)}, "sh_degree"),
        ({"sh_degree": 1}, "spherical harmonics of degree 1"),
        ({"sh_degree": 4, "colors": torch.zeros(1, 25, 3)}, "degree 0 to 3"),
        ({"extra": torch.zeros(2, 1, 1)}, "extra must have shape"),
        ({"background": torch.zeros(4)}, r"background must have shape \(3,\)"),
        ({"width": 0}, "at least 1 x 1"),
        ({"Ks": torch.eye(3)}, "Ks must have shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_gaussians(**{**one((0.0, 0.0, 0.0)), **front(), **change})


def test_gaussians_that_all_cover_everything_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_form, "PAIRS_MAX", 11)
    huge = one((0.0, 0.0, 0.0), scale=5.0)
    render_gaussians(**huge, **front(48, 24))
    with pytest.raises(ValueError, match="touch 12 tiles.*too large"):
        render_gaussians(**huge, **front(64, 24))


def test_cameras_of_several_assets_are_refused() -> None:
    views = cameras(2)
    with pytest.raises(ValueError, match="one asset"):
        splat_cameras(Cameras(views.c2w[None], views.K[None], views.names), 8, 8)


def test_a_backend_must_draw_to_be_chosen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    choose_backend.forget()
    with caplog.at_level("INFO"), torch.inference_mode():
        assert dispatch.backend_for(torch.device("cpu")) is numba_form
        assert dispatch.backend_for(torch.device("cpu")) is numba_form
    assert len(caplog.records) == 1
    choose_backend.forget()
    good = numba_form.draw

    def mirrored(*args: Any, **options: Any) -> Any:
        blended, *rest = good(*args, **options)
        return blended.flip(2), *rest

    monkeypatch.setattr(numba_form, "draw", mirrored)
    assert dispatch.backend_for(torch.device("cpu")) is torch_form
    choose_backend.forget()


def test_a_gpu_without_kernels_is_told_once_what_draws_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    monkeypatch.setitem(sys.modules, "gsplat", None)
    monkeypatch.setenv("LATHE_BACKEND", "-cuda")
    gpu = torch.device("cuda")
    proven: Any = proof.prove
    try:
        for broken, chosen, says in ((None, numba_form, "numba on the CPU is used"), (numba_form, torch_form, "plain PyTorch is used")):
            caplog.clear()

            def prove(form: Any, device: torch.device, broken: Any = broken) -> None:
                if form is broken:
                    raise choose_backend.Disproved("it drew wrongly")
                proven(form, torch.device("cpu"))

            monkeypatch.setattr(proof, "prove", prove)
            choose_backend.forget()
            assert dispatch.backend_for(gpu) is dispatch.backend_for(gpu) is chosen
            (told,) = [record.getMessage() for record in caplog.records]
            assert says in told and "gsplat: gsplat is not installed" in told and "install gsplat" in told and "CUDA toolkit" in told
            assert ("it drew wrongly" in told) == (broken is not None)
        caplog.clear()
        monkeypatch.setattr(proof, "prove", proven)
        dispatch.backend_for(torch.device("cpu"))
        assert not caplog.records
    finally:
        choose_backend.forget()
