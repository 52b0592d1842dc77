"""Whether the emulated tests of the splat kernels would notice a fault: each of these, planted in the shipped text, must be caught.

Caught is what gives other numbers than the PyTorch form in float64, other bits in another order of threads, or an error.
"""

from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from cuda_emulator import fresh_memory_is_nan
from emulation import emulated
from lathe.pipelines.ops.choose_backend import Disproved
from lathe.pipelines.ops.splat_raster import cuda_form, cuda_lists, proof
from splat_scenes import Oracle

SEEDS = (1, 2, 3)
SCENES: dict[str, tuple[int, tuple[int, int], int, dict[str, Any]]] = {
    "crowd": (500, (18, 18), 2, {}),  # a tile with more than a batch of 256, tiles that hang over the edges, pixels that get dark
    "few": (100, (33, 20), 1, {"antialiased": True}),
    "bands": (60, (40, 60), 2, {}),
}
BAND_PAIRS = {"bands": 66}  # pairs of a band, where not all are in one: there are bands of several rows, and rows cut into launches
FILES = {"blending": (cuda_form, "BLENDING"), "projection": (cuda_form, "PROJECTION"), "lists": (cuda_lists, "LISTS")}
OPTIONS = {"blending": ("-DFEATURES=5",), "projection": (), "lists": ()}  # three colours and two further channels


class Mutation(NamedTuple):
    """A fault: in this file this text becomes that one."""

    file: str
    old: str
    new: str
    scene: str = "crowd"


MUTATIONS = {
    # Barriers and exchanges.
    "blend: the next batch is loaded while others read": Mutation("blending", "if (__syncthreads_count(done) == THREADS) break;", ""),
    "blend: read before all is loaded": Mutation(
        "blending", "__syncthreads();\n        for (int j = 0; j < count && !done; j++)", "for (int j = 0; j < count && !done; j++)"
    ),
    "blend: threads outside of the picture leave": Mutation(
        "blending", "bool done = !p.inside;", "if (!p.inside) return; bool done = false;"
    ),
    "blend_back: furthest before it is 0": Mutation("blending", "furthest = 0;\n    __syncthreads();", "furthest = 0;"),
    "blend_back: furthest before all have told": Mutation(
        "blending", "atomicMax(&furthest, last);\n    __syncthreads();", "atomicMax(&furthest, last);"
    ),
    "blend_back: furthest without atomic": Mutation("blending", "atomicMax(&furthest, last);", "furthest = last;"),
    "blend_back: read before all is loaded": Mutation(
        "blending", "__syncthreads();\n        for (int j = count - 1;", "for (int j = count - 1;"
    ),
    "blend_back: sums before all parts are there": Mutation(
        "blending",
        "__syncthreads();\n        for (int i = threadIdx.x; i < count * COLUMNS",
        "for (int i = threadIdx.x; i < count * COLUMNS",
    ),
    "gather: moments before all sums are there": Mutation("blending", "__syncthreads();\n    if (!target) return;", "if (!target) return;"),
    "gather: the idle leave": Mutation(
        "blending", "    if (target) {\n        if (goes_on)", "    if (!target) return;\n    {\n        if (goes_on)"
    ),
    "blend_back: lanes skip alone": Mutation("blending", "if (!__any_sync(WHOLE_WARP, alpha > 0.0f))", "if (!(alpha > 0.0f))"),
    "blend_back: a lane left out": Mutation("blending", "#define WHOLE_WARP 0xffffffffu", "#define WHOLE_WARP 0x7fffffffu"),
    "blend_back: the wrong lane": Mutation(
        "blending", "__shfl_xor_sync(WHOLE_WARP, given, 2 * half)", "__shfl_xor_sync(WHOLE_WARP, given, half)"
    ),
    # Signs.
    "blend_back: what lies behind": Mutation("blending", "weight * product - behind * alpha", "weight * product + behind * alpha"),
    "blend_back: dx": Mutation("blending", "float dx = x - centre[j].x,", "float dx = centre[j].x - x,"),
    "gather: conic": Mutation("blending", "sum = -t[4]", "sum = t[4]"),
    "project: conic": Mutation("projection", "shape[1] = (float)(-s.xy * s.inverse);", "shape[1] = (float)(s.xy * s.inverse);"),
    "project_back: covariance": Mutation("projection", "double g_xy = -2.0 * (left00", "double g_xy = 2.0 * (left00"),
    "project_back: depth": Mutation("projection", "g_depth -= (along_row", "g_depth += (along_row"),
    "project_back: quaternion": Mutation("projection", "x * (t[2][1] - t[1][2])", "x * (t[2][1] + t[1][2])"),
    "project_back: antialiasing": Mutation("projection", "(sharpness - 1.0)", "(sharpness + 1.0)", "few"),
    # Indices.
    "blend: the place after the last": Mutation("blending", "last = base + j + 1 - begin;", "last = base + j - begin;"),
    "blend: owners": Mutation("blending", "int owner = owners[base + j];", "int owner = owners[base + j + 1];"),
    "blend: rows of pixels": Mutation("blending", "p.y = row % down * TILE + warp / 2 * 4", "p.y = row % down * TILE + warp % 2 * 4"),
    "blend: cameras": Mutation("blending", "(long long)(row / down) * height", "(long long)(row % down) * height"),
    "features of all cameras": Mutation("blending", "(owner % feature_rows)", "owner"),
    "blend_back: one place too far": Mutation("blending", "base + j < last ?", "base + j <= last ?"),
    "blend_back: slots of another tile": Mutation("blending", "slots[begin + base + j]", "slots[base + j]"),
    "blend_back: the wrong column": Mutation("blending", "row[MOMENTS + c] = ", "row[MOMENTS + c + 1] = "),
    "gather: one row too far": Mutation("blending", "row < ends[k]; row++", "row <= ends[k]; row++"),
    "gather: the row before": Mutation("blending", "row = k ? ends[k - 1] : 0", "row = k ? ends[k - 1] - 1 : 0"),
    "gather: one entry too far": Mutation("blending", "group < SHARING && k < entries", "group < SHARING && k <= entries"),
    "gather: the wrong column": Mutation("blending", "absolute + 2 * i + column - 6", "absolute + 2 * i + 7 - column"),
    "count_rows: one row too few": Mutation("lists", "atomicAdd(changes + row + box.y1,", "atomicAdd(changes + row + box.y1 - 1,"),
    "list_pairs: one column too far": Mutation("lists", "column < box.x1; column++", "column <= box.x1; column++"),
    "list_pairs: the next tile": Mutation("lists", "* across + column;", "* across + column + 1;"),
    "project: the next camera": Mutation("projection", "int camera = (int)(at / n)", "int camera = (int)(at / n) + 1"),
    "project: one entry too far": Mutation(
        "projection", "if (at >= (long long)n * cameras) return;", "if (at > (long long)n * cameras) return;"
    ),
    # Shared memory that is too small or not written, and other memory that is not written.
    "blend: shared values": Mutation("blending", "float values[FORWARD_BATCH][VALUES]", "float values[FORWARD_BATCH - 1][VALUES]"),
    "blend_back: shared centres": Mutation("blending", "float2 centre[BACKWARD_BATCH]", "float2 centre[BACKWARD_BATCH - 1]"),
    "blend_back: shared parts": Mutation("blending", "float parts[WARPS]", "float parts[WARPS - 1]"),
    "gather: shared sums": Mutation("blending", "float sums[SHARING]", "float sums[SHARING - 1]"),
    "blend: sums start anywhere": Mutation("blending", "total[c] = 0.0f;", ";"),
    "blend_back: a row starts anywhere": Mutation("blending", "row[c] = 0.0f;", ";"),
    "blend_back: furthest starts anywhere": Mutation("blending", "if (threadIdx.x == 0) furthest = 0;", ""),
    "blend_back: parts of idle warps": Mutation("blending", "parts[warp][j][c] = 0.0f;", ";"),
    "blend_back: rows behind the last": Mutation("blending", "i < (length - reached) * COLUMNS", "i < 0"),
    "blend: light": Mutation("blending", "light_left[p.pixel] = light;", ""),
    "gather: adds to nothing": Mutation("blending", "if (goes_on) sum = *target;", "sum = *target;"),
    # Bands of rows of tiles, and rows cut into launches.
    "clip: rows before the band": Mutation("lists", "max(camera * down + box.y0, band_begin)", "camera * down + box.y0", "bands"),
    "clip: rows behind the band": Mutation("lists", "min(camera * down + box.y1, band_end)", "camera * down + box.y1", "bands"),
    "clip: one row too many": Mutation("lists", "box.y1, band_end)", "box.y1, band_end + 1)", "bands"),
    "clip: one row too few": Mutation("lists", "box.y0, band_begin)", "box.y0, band_begin + 1)", "bands"),
    "clip: fewer rows than none": Mutation(
        "lists",
        "rows = max(min(camera * down + box.y1, band_end) - row, 0);",
        "rows = min(camera * down + box.y1, band_end) - row;",
        "bands",
    ),
    "clip: the first camera": Mutation(
        "lists", "clip(box, i / n, down, band_begin, band_end, first,", "clip(box, 0, down, band_begin, band_end, first,", "bands"
    ),
    "list_pairs: tiles of all rows": Mutation("lists", "(row - band_begin) * across", "row * across", "bands"),
    "blend: the first launch again": Mutation("blending", "p.tile = first_tile + blockIdx.x;", "p.tile = blockIdx.x;", "bands"),
    "blend: the first band again": Mutation("blending", "row = band_begin + p.tile / across;", "row = p.tile / across;", "bands"),
    "gather: the bands before are lost": Mutation("blending", "if (goes_on) sum = *target;", "", "bands"),
    "gather: moments end at every band": Mutation("blending", "if (ends_here) {", "{", "bands"),
}


def plant(fault: Mutation, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The CUDA form is built with the fault from now on; the mutated text goes into `folder`."""
    module, attribute = FILES[fault.file]
    text = getattr(module, attribute).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, (
        f"{fault.old!r} stands {text.count(fault.old)} times in the text: it was changed, change the fault as well"
    )
    mutated = folder / getattr(module, attribute).name
    mutated.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    emulated(monkeypatch).program(mutated, OPTIONS[fault.file])  # so that a text which does not compile fails the test
    monkeypatch.setattr(module, attribute, mutated)


@lru_cache
def oracle(name: str) -> Oracle:
    return Oracle(*SCENES[name])


def drawn(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """A scene, held against the oracle.

    Raises:
        AssertionError: it is not what the oracle draws, or the emulator had errors.
        Exception: whatever a fault ends in.
    """
    card = emulated(monkeypatch, seed)
    with monkeypatch.context() as limits, fresh_memory_is_nan():
        if name in BAND_PAIRS:
            limits.setattr(cuda_lists, "UNASKED_BYTES", 0)
            limits.setattr(cuda_lists, "BAND_PAIRS", BAND_PAIRS[name])
        made = oracle(name).check(cuda_form)
    assert not card.faults
    return made


@pytest.mark.parametrize("name", SCENES)
def test_the_shipped_text_draws_these_scenes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = [drawn(name, seed, monkeypatch) for seed in SEEDS]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_bands_hold_several_rows_and_some_rows_take_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    usual = cuda_lists.Band.launches

    def launches(band: cuda_lists.Band) -> list[tuple[int, int]]:
        made = list(usual(band))
        seen.append((band.begin, band.end, len(made)))
        return made

    monkeypatch.setattr(cuda_lists.Band, "launches", launches)
    drawn("bands", 1, monkeypatch)
    assert any(begin > 0 and end - begin > 1 for begin, end, _ in seen)
    assert any(count > 1 for _, _, count in seen)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fault = MUTATIONS[name]
    plant(fault, monkeypatch, tmp_path)
    made: list[list[torch.Tensor]] = []
    for seed in SEEDS:
        try:
            made.append(drawn(fault.scene, seed, monkeypatch))
        except Exception:  # any error is noticed, whatever its kind
            return
        if not all(torch.equal(a, b) for a, b in zip(made[0], made[-1], strict=True)):
            return
    pytest.fail("Nothing noticed it.")


@pytest.mark.parametrize("planted", [False, True], ids=["shipped", "planted"])
def test_the_proof_before_use_notices_rows_that_nobody_wrote(planted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shows that the proof's scene has tiles that are dark before their lists end: there backward writes zeros behind the last Gaussian."""
    monkeypatch.setattr(proof, "CROWD", 20)
    card = emulated(monkeypatch)
    if planted:
        plant(MUTATIONS["blend_back: rows behind the last"], monkeypatch, tmp_path)
    with fresh_memory_is_nan(), pytest.raises(Disproved, match="gradient of") if planted else nullcontext():
        proof.prove(cuda_form, torch.device("cpu"))
    assert not card.faults
