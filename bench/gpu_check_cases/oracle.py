"""Pictures and gradients against the PyTorch form in float64, with the scenes and bars of `tests/ops/test_splat_raster.py`; bands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from splat_scenes import GRADIENT_NAMES, Scene, cameras, decided, run, scene
from torch import Tensor

from ...pipelines.ops.splat_raster import cuda_form, cuda_lists, dispatch
from ..speed_cases import splats
from .findings import Finding, judged
from .launches import remembered_lists
from .pictures import drawn, largest_error, same_bits
from .place import Place, patched

VALUES, GRADIENTS = 1e-5, 1e-4
"""Relative norms of the differences, at most."""
BANDED_GRADIENTS = 1e-6
"""As much may gradients differ between one band and several: the same sums in another order."""
SCENES: tuple[tuple[int, tuple[int, int], int, dict[str, Any]], ...] = (
    (300, (64, 48), 1, {}),
    (800, (70, 50), 1, {"background": torch.tensor([0.3, 1.0, 0.0])}),
    (2000, (64, 64), 1, {}),
    (200, (33, 47), 3, {"antialiased": True}),
    (200, (40, 40), 2, {"sh_degree": 3, "eps2d": 0.1}),
    (150, (1, 1), 1, {}),
    (300, (129, 7), 2, {"sh_degree": 1}),
)
"""Gaussians, width and height, cameras, options: those of the test."""


def against_oracle(place: Place, name: str, world: Scene, size: tuple[int, int], views: int, options: dict[str, Any]) -> Finding:
    """One scene drawn here in float32 and by the oracle in float64."""
    width, height = size
    viewmats, Ks = dispatch.splat_cameras(cameras(views), height, width)
    double = world.to(torch.float64)
    how = {"antialiased": options.get("antialiased", False), "eps2d": options.get("eps2d", 0.3)}
    mask = decided(double, viewmats, Ks, width, height, **how)
    true, true_gradients = run(double, viewmats, Ks, width, height, mask, **options)
    single = Scene(*(part.to(place.device).detach().requires_grad_() for part in world.to(torch.float32)))
    here = {key: _moved(value, place.device) for key, value in options.items()}
    made, gradients = run(single, viewmats.to(place.device), Ks.to(place.device), width, height, mask.to(place.device), **here)
    errors = {key: _error(getattr(made, key), getattr(true, key), mask) for key in ("color", "alpha", "depth", "extra")}
    value, value_of = max((error, key) for key, error in errors.items())
    pairs = zip(GRADIENT_NAMES, gradients, true_gradients, strict=True)
    gradient, gradient_of = max((_error(a, b), key) for key, a, b in pairs)
    good = value < VALUES and gradient < GRADIENTS and torch.equal(made.radii.cpu() > 0, true.radii > 0)
    words = f"values {value:.1e} ({value_of}), gradients {gradient:.1e} ({gradient_of}); at most {VALUES:g}, {GRADIENTS:g}"
    return judged(good, name, words)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _error(made: Tensor, true: Tensor, mask: Tensor | float = 1.0) -> float:
    made, true = made.detach().cpu().double() * mask, true.detach() * mask
    error = float((made - true).norm() / true.norm())
    return error if error == error else float("inf")  # NaN is beyond every bar


def scenes(place: Place) -> Iterator[Finding]:
    """The seven scenes of the test suite."""
    for n, size, views, options in SCENES:
        said = "".join(f", {key}" for key in options)
        name = f"oracle, {n} at {size[0]} x {size[1]}, cameras: {views}{said}"
        yield against_oracle(place, name, scene(n, sh_degree=options.get("sh_degree")), size, views, options)


def many_features(place: Place) -> Iterator[Finding]:
    """Features of more than one row of 16 sums, as many as the kernels take at once, and more."""
    for extra in (20, *place.either((cuda_form.FEATURES_MAX - 3,), ()), cuda_form.FEATURES_MAX):
        world = scene(120)
        draws = torch.Generator().manual_seed(7)
        world = world._replace(extra=torch.randn(len(world.means), extra, generator=draws, dtype=torch.float64))
        yield against_oracle(place, f"oracle, 3 + {extra} features", world, (37, 29), 2, {})


def bands(place: Place) -> Iterator[Finding]:
    """So little memory that the lists are cut into bands: pictures to the bit those of one band, gradients nearly."""
    n, size, views = place.either((20_000, 256, 2), (150, 64, 2))
    given = splats.scene(n, size, views, str(place.device))
    with remembered_lists() as made, patched(cuda_lists, "UNASKED_BYTES", 0):
        whole = drawn(*given)
        pairs = sum(len(band.owners) for band in made[0].bands)
        # for a band of a fifth of the pairs, after what `cuda_lists._band_pairs` sets aside
        row_bytes = 4 * cuda_form._columns(3)
        little = pairs * cuda_lists.KEPT_BYTES + 2 * (pairs // 5) * (cuda_lists.SORT_BYTES + row_bytes)
        with patched(place.card, "free_bytes", lambda: little):
            banded = drawn(*given)
    count = len(made[1].bands)
    error = largest_error(banded[3:], whole[3:])
    good = len(made[0].bands) == 1 and count > 1 and same_bits(banded[:3], whole[:3]) and error <= BANDED_GRADIENTS
    same = "the same" if same_bits(banded[:3], whole[:3]) else "OTHER"
    words = f"{pairs:,} pairs in {count} bands: pictures {same} to the bit, gradients within {error:.1e}"
    yield judged(good, "bands of little memory", words, bands=count)
