"""The adapter of gsplat, against a stand-in: the real one needs CUDA."""

import sys
import types
from typing import Any

import pytest
import torch
from lathe.pipelines.ops.splat_raster import dispatch, proof, torch_form
from lathe.pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras
from lathe.pipelines.ops.splat_raster.projection import project
from splat_scenes import cameras, run, scene
from torch import Tensor


def stand_in(radii_per_axis: bool) -> types.ModuleType:
    """Answers as gsplat documents: depth is the last channel, means2d carries absgrad. The real one needs CUDA."""

    def rasterization(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
                      width: int, height: int, *, near_plane: float, far_plane: float, eps2d: float, packed: bool, render_mode: str,
                      absgrad: bool, rasterize_mode: str) -> Any:  # fmt: skip
        assert not packed and render_mode == "RGB+D" and rasterize_mode in ("classic", "antialiased")
        assert colors.shape[:2] == (len(viewmats), len(means)) and len(means)
        seen = project(means, quats, scales, opacities, viewmats, Ks, width, height, near=near_plane, far=far_plane, eps2d=eps2d,
                       antialiased=rasterize_mode == "antialiased")  # fmt: skip
        picture, alpha = torch_form.composite(seen, torch.cat([colors, seen.depths[..., None]], dim=-1), width, height, absgrad)
        radii = seen.radii if radii_per_axis else seen.radii.amax(-1)
        return picture, alpha, {"means2d": seen.means2d, "radii": radii}

    module = types.ModuleType("gsplat")
    module.rasterization = rasterization  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("radii_per_axis", [True, False])
def test_gsplat_conventions_are_translated(monkeypatch: pytest.MonkeyPatch, radii_per_axis: bool) -> None:
    name = "lathe.pipelines.ops.splat_raster.gsplat_form"
    monkeypatch.setitem(sys.modules, "gsplat", stand_in(radii_per_axis))
    monkeypatch.delitem(sys.modules, name, raising=False)
    from lathe.pipelines.ops.splat_raster import gsplat_form as adapter

    proof.prove(adapter, torch.device("cpu"))
    viewmats, Ks = splat_cameras(cameras(2), 20, 24)
    world, options = scene(80, sh_degree=2), {"sh_degree": 2, "antialiased": True, "background": torch.ones(3)}
    results = []
    for module in (adapter, torch_form):
        monkeypatch.setattr(dispatch, "backend_for", lambda device, module=module: module)
        results.append(run(world.to(torch.float32), viewmats, Ks, 24, 20, torch.ones(1), **options))
    (made, gradients), (true, true_gradients) = results
    for field in ("color", "alpha", "depth", "extra", "means2d"):
        assert torch.equal(getattr(made, field), getattr(true, field)), field
    assert all(torch.equal(a, b) for a, b in zip(gradients, true_gradients, strict=True))
    assert made.radii.shape == (2, 80, 2) and torch.equal(made.radii > 0, true.radii > 0)
    monkeypatch.setattr(dispatch, "backend_for", lambda device: adapter)
    empty = [part[:0] for part in world.to(torch.float32)]
    assert not render_gaussians(*empty[:5], viewmats, Ks, 24, 20, sh_degree=2).alpha.any()
    monkeypatch.delitem(sys.modules, name, raising=False)
