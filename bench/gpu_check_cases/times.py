"""Milliseconds forward and backward of our kernels and the other forms, on the scenes of `speed.py --stage splats`, and where ours go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from splat_scenes import drawn_by

from ...pipelines.ops import choose_backend
from ..speed_cases import splats
from .findings import Finding, judged, not_measured, note
from .pictures import drawn
from .place import Place

SIZES = ((10_000, 256, 1), (50_000, 512, 1), (100_000, 512, 1), (100_000, 512, 4), (500_000, 1024, 1))
"""Gaussians, pixels along an edge, cameras."""
EMULATED_SIZES = ((100, 32, 1), (60, 24, 2))
REPEATS, FEWER = 20, {"numba": 7, "torch": 3}
JUDGED = "50000 @ 512"
"""The case that the bars are about."""
OF_NUMBA, OF_GSPLAT = 0.5, 2.0
"""Ours takes less than these times the other's milliseconds."""
SAME = 2e-3  # relative difference of losses and gradients up to which two forms did the same work


def label(n: int, size: int, views: int) -> str:
    return f"{n} @ {size}" + (f" x {views}" if views > 1 else "")


def times_of(form: str) -> Callable[[Place], Iterator[Finding]]:
    """The check of one form. numba runs on the processor with tensors of its own."""

    def work(place: Place) -> Iterator[Finding]:
        device = "cpu" if form == "numba" else str(place.device)
        if reason := choose_backend.missing(form):
            yield not_measured(f"times of {form}", reason)
            return
        module = choose_backend.SPLAT.module(form)
        cases = place.either(SIZES[:2] if form == "torch" else SIZES, EMULATED_SIZES)
        repeats = place.either(FEWER.get(form, REPEATS), 1)
        with drawn_by(module):
            for n, size, views in cases:
                yield _timed(place, form, device, (n, size, views), repeats)

    return work


def _timed(place: Place, form: str, device: str, case: tuple[int, int, int], repeats: int) -> Finding:
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    made = splats.timed(*case, device, repeats)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0
    name = f"{form} {label(*case)}"
    numbers = {key: made[key] for key in ("median_ms", "min_ms", "loss", "gradient")} | {"peak_mib": peak}
    if place.emulated:
        return Finding("NOTE", name, f"loss {made['loss']:.6f}, gradient {made['gradient']:.3e}; times not measured, no GPU", numbers)
    memory = f", peak {peak:,.0f} MiB" if on_gpu else f", {torch.get_num_threads()} threads"
    return note(name, f"{made['median_ms']:.2f} ms, least {made['min_ms']:.2f} ms of {repeats}{memory}", **numbers)


def compared(findings: Sequence[Finding], emulated: bool) -> Iterator[Finding]:
    """The bars, from the findings of all forms: the same work, below half of numba's time, within twice gsplat's."""
    of = {finding.name: finding.numbers for finding in findings if "median_ms" in finding.numbers}
    ours = {name.removeprefix("cuda "): numbers for name, numbers in of.items() if name.startswith("cuda ")}
    for case, mine in ours.items():
        for form in ("numba", "torch", "gsplat"):
            if theirs := of.get(f"{form} {case}"):
                off = max(abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-30) for key in ("loss", "gradient"))
                words = f"loss and gradient within {off:.1e}, at most {SAME:g}"
                yield judged(off <= SAME, f"{form} and ours do the same work, {case}", words)
    for form, most in (("numba", OF_NUMBA), ("gsplat", OF_GSPLAT)):
        name, theirs = f"ours below {most:g} x {form}, {JUDGED}", of.get(f"{form} {JUDGED}")
        if emulated:
            yield not_measured(name, "an emulator's times say nothing")
        elif JUDGED not in ours or theirs is None:
            yield not_measured(name, f"there is no time of {'ours' if JUDGED not in ours else form}")
        else:
            ratio = ours[JUDGED]["median_ms"] / theirs["median_ms"]
            words = f"{ours[JUDGED]['median_ms']:.2f} ms against {theirs['median_ms']:.2f} ms, {ratio:.3f} x"
            yield judged(ratio < most, name, words, ratio=ratio)


def profile(place: Place) -> Iterator[Finding]:
    """The kernels, PyTorch's among them, by the GPU's time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    given = splats.scene(50_000, 512, 1, str(place.device))
    drawn(*given)
    with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            drawn(*given)
        place.wait()
    table = seen.key_averages().table(sort_by="self_device_time_total", row_limit=20, max_name_column_width=60)
    yield note("profile", f"5 runs of {JUDGED}, by self CUDA time\n{table}")
