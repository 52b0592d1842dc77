"""The CUDA form of the splat rasteriser on an emulated card: the suite's scenes in several orders of threads, bands, channels, limits.

What it shares with the other forms is tested with them in `test_splat_raster`.
"""

from typing import Any

import pytest
import torch
from cuda_emulator import fresh_memory_is_nan
from emulation import emulated
from lathe.pipelines.ops.splat_raster import cuda_form, cuda_lists, numba_form
from lathe.pipelines.ops.splat_raster.dispatch import render_gaussians, splat_cameras
from splat_scenes import SCENES, Oracle, cameras, drawn_by, run, scene
from torch import Tensor


@pytest.mark.parametrize("case", SCENES, ids=str)
def test_pictures_and_gradients_equal_the_oracle_in_any_order_of_threads(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, made = Oracle(*case), []
    for seed in (1, 2, 3):
        card = emulated(monkeypatch, seed)
        with fresh_memory_is_nan():
            made.append(oracle.check(cuda_form))
        assert not card.faults
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def drawn(views: int = 2, **options: Any) -> list[Tensor]:
    """Pictures and gradients of a scene in which Gaussians reach over many rows of tiles."""
    viewmats, Ks = splat_cameras(cameras(views), 70, 40)
    with drawn_by(cuda_form):
        made, gradients = run(scene(120, size=0.15).to(torch.float32), viewmats, Ks, 40, 70, torch.ones(1), **options)
    assert made.extra is not None
    return [made.color.detach(), made.alpha.detach(), made.depth.detach(), made.extra.detach(), *gradients]


def test_bands_give_the_same_pictures_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    card, bands, usual = emulated(monkeypatch), [], cuda_lists._bands
    monkeypatch.setattr(cuda_lists, "UNASKED_BYTES", 0)
    monkeypatch.setattr(cuda_lists, "_bands", lambda *given: bands.append(list(usual(*given))) or iter(bands[-1]))
    whole = drawn()
    card.free = 120_000
    cut = drawn()
    assert len(bands[0]) == 1 and len(bands[1]) > 3 and not card.faults
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_a_row_with_more_pairs_than_a_launch_may_hold_is_drawn_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    card = emulated(monkeypatch)
    whole = drawn()
    monkeypatch.setattr(cuda_lists, "UNASKED_BYTES", 0)
    monkeypatch.setattr(cuda_lists, "BAND_PAIRS", 100)
    launched, usual = [], cuda_lists.Band.launches
    monkeypatch.setattr(cuda_lists.Band, "launches", lambda band: launched.append(list(usual(band))) or launched[-1])
    cut = drawn()
    across = 3
    assert [(0, 1), (1, 1), (2, 1)] in launched and all(sum(tiles for _, tiles in row) % across == 0 for row in launched)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True)) and not card.faults


def test_bands_hold_what_may_be_and_every_row_once() -> None:
    pairs = [3, 0, 4, 9, 1, 1, 0, 0]
    made = list(cuda_lists._bands(pairs, 7))
    assert made == [(0, 3, 7), (3, 4, 9), (4, 8, 2)]
    assert list(cuda_lists._bands([0, 0], 7)) == [(0, 2, 0)]


def test_more_pairs_than_the_card_has_room_for_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    card = emulated(monkeypatch)
    monkeypatch.setattr(cuda_lists, "UNASKED_BYTES", 0)
    card.free = 1000
    with pytest.raises(ValueError, match=r"touch [\d,]+ tiles of 2 pictures of 40 x 70.*far too large: check the scales"):
        drawn()
    monkeypatch.setattr(cuda_lists, "INT_MAX", 400)
    with pytest.raises(ValueError, match="120 Gaussians for 2 cameras are too many"):
        drawn()


@pytest.mark.parametrize("channels", [1, 12, cuda_form.FEATURES_MAX, cuda_form.FEATURES_MAX + 1])
def test_any_number_of_channels(channels: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As numba draws them; beyond FEATURES_MAX the PyTorch form does, which is said."""
    caplog.set_level("INFO")
    cuda_form._say_slow.cache_clear()
    card = emulated(monkeypatch)
    viewmats, Ks = splat_cameras(cameras(2), 20, 30)
    parts, made = scene(80, size=0.15), []
    colors = torch.rand(80, channels, generator=torch.Generator().manual_seed(1))
    for form in (cuda_form, numba_form):
        leaves = [part.detach().requires_grad_() for part in (*parts.to(torch.float32)[:4], colors)]
        with drawn_by(form):
            picture = render_gaussians(*leaves, viewmats, Ks, 30, 20, absgrad=True)
        weight = torch.rand(picture.color.shape, generator=torch.Generator().manual_seed(2))
        (picture.color * weight).sum().backward()
        made.append([picture.color.detach(), *(leaf.grad for leaf in leaves), picture.means2d.absgrad])  # type: ignore[attr-defined]
    for ours, theirs in zip(*made, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert sum("slower form" in record.getMessage() for record in caplog.records) == (channels > cuda_form.FEATURES_MAX)
    assert not card.faults


def test_pictures_are_drawn_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    card = emulated(monkeypatch)
    viewmats, Ks = splat_cameras(cameras(1), 20, 30)
    with torch.no_grad(), drawn_by(cuda_form):
        made = render_gaussians(*scene(50).to(torch.float32)[:5], viewmats, Ks, 30, 20)
    assert made.alpha.max() > 0.1 and not card.faults


def test_other_types_than_the_means_are_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels read float32; their launch looks at no types."""
    card = emulated(monkeypatch)
    viewmats, Ks = splat_cameras(cameras(1), 20, 30)
    means, quats, scales, opacities, colors, extra = scene(50).to(torch.float32)
    with drawn_by(cuda_form):
        plain = render_gaussians(means, quats, scales, opacities, colors, viewmats, Ks, 30, 20, extra=extra)
        mixed = render_gaussians(
            means, quats.double(), scales.double(), opacities, colors, viewmats.double(), Ks, 30, 20, extra=extra.double()
        )
    assert torch.equal(plain.color, mixed.color) and not card.faults
    mixed.color.sum().backward()
    assert quats.grad is not None and quats.grad.dtype == torch.float32


def test_the_log_says_once_what_compiled_the_kernels(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    card = emulated(monkeypatch)
    with caplog.at_level("INFO"):
        cuda_form.prepare(torch.device("cpu"))
        render_gaussians(*scene(5).to(torch.float32)[:5], *splat_cameras(cameras(1), 8, 8), 8, 8)
    lines = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith(f"Splats on cpu: kernels compiled by {card.words} in ")
