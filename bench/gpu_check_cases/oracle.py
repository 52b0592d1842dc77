"""Pictures and gradients against the PyTorch form in float64, by the scenes and bars of the rasteriser's own suite; bands."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from splat_scenes import GRADIENTS, SCENES, VALUES, Oracle

from ...pipelines.ops.splat_raster import cuda_form, cuda_lists
from ..speed_cases import splats
from .findings import Finding, judged
from .launches import remembered_lists
from .pictures import drawn, same_bits
from .place import Place, patched


def against(oracle: Oracle, name: str) -> Finding:
    """One scene drawn by our kernels in float32 and by the oracle in float64."""
    made = oracle.compare(cuda_form)
    value, value_of = max((error, key) for key, error in made.values.items())
    gradient, gradient_of = max((error, key) for key, error in made.gradients.items())
    words = f"values {value:.1e} ({value_of}), gradients {gradient:.1e} ({gradient_of}); at most {VALUES:g}, {GRADIENTS:g}"
    return judged(not made.wrong(), name, words if made.same_in_sight else f"{words}; OTHER RADII")


def scenes(place: Place) -> Iterator[Finding]:
    """The seven scenes of the test suite."""
    for n, size, views, options in SCENES:
        said = "".join(f", {key}" for key in options)
        name = f"oracle, {n} at {size[0]} x {size[1]}, cameras: {views}{said}"
        yield against(Oracle(n, size, views, options, device=place.device), name)


def many_features(place: Place) -> Iterator[Finding]:
    """Features of more than one row of 16 sums, as many as the kernels take at once, and more."""
    for count in (20, *place.either((cuda_form.FEATURES_MAX - 3,), ()), cuda_form.FEATURES_MAX):
        extra = torch.randn(120, count, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        yield against(Oracle(120, (37, 29), 2, {}, extra=extra, device=place.device), f"oracle, 3 + {count} features")


def bands(place: Place) -> Iterator[Finding]:
    """So little memory that the lists are cut into bands: all numbers to the bit those of one band."""
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
    same = same_bits(banded, whole)
    words = f"{pairs:,} pairs in {count} bands: pictures and gradients {'the same' if same else 'OTHER'} to the bit"
    yield judged(len(made[0].bands) == 1 and count > 1 and same, "bands of little memory", words, bands=count)
