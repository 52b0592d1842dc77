"""The fuzz: that it judges rightly, and that a spread of it finds nothing."""

import json
import subprocess
import sys
from pathlib import Path

import comfy_source
import pytest
from lathe.bench import hostile
from lathe.bench.hostile_cases import inputs, server, table, verdict

HERE = Path(__file__).parent
needs_comfyui = pytest.mark.skipif(comfy_source.comfyui_dir() is None, reason="no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
PACK_FRAME = '  File "/x/custom_nodes/lathe/nodes/cameras.py", line 1, in execute\n'
TORCH_FRAME = '  File "/x/site-packages/torch/functional.py", line 1, in einsum\n'
WORDS = "Fit Splats: 7 views need as many masks, not 6."


def judged(row, **outcome):
    case = inputs.Case("IMAGE/LatheFitSplats/images/x", "LatheFitSplats", frozenset(row.split()), lambda feeder: {})
    return verdict.judge(case, server.Outcome(**outcome), Path("/nowhere")).what


@pytest.mark.parametrize(
    ("kind", "message", "trace", "right"),
    [
        ("ValueError", WORDS, [PACK_FRAME], "clear"),
        ("/x/custom_nodes/lathe.pipelines.splats.fit.EveryGaussianPruned", WORDS, [PACK_FRAME], "clear"),
        ("KeyError", WORDS, [PACK_FRAME], "raw"),
        ("AttributeError", WORDS, [PACK_FRAME], "raw"),
        ("RecursionError", "maximum recursion depth exceeded.", [PACK_FRAME], "raw"),
        ("ValueError", "no sentence", [PACK_FRAME], "raw"),
        ("ValueError", WORDS, [PACK_FRAME, TORCH_FRAME], "raw"),
        ("ValueError", "The model cannot use these tokens (RuntimeError: mat1 and mat2 differ). Use its own CLIP.", [PACK_FRAME], "clear"),
        ("ValueError", "a.spz is damaged or cut: Error -3, invalid literal/lengths set.", [PACK_FRAME], "clear"),
        ("RuntimeError", "The size mismatch for a.weight is of 3 and 4.", [PACK_FRAME], "raw"),
        ("ValueError", "shape '[3, 4]' is invalid for input of size 5.", [PACK_FRAME], "raw"),
        ("torch.OutOfMemoryError", WORDS, [PACK_FRAME], "raw"),
    ],
)
def test_what_is_clear(kind, message, trace, right):
    assert judged("refuse", status="error", kind=kind, message=message, trace=trace) == right


def test_what_the_row_says_decides():
    told, nothing = {"faults": [], "warnings": ["cut to 0..1"]}, {"faults": [], "warnings": []}
    assert judged("value", status="success", report=nothing) == "right"
    assert judged("refuse", status="success", report=told) == "silent"
    assert judged("warn refuse", status="success", report=nothing) == "silent"
    assert judged("warn refuse", status="success", report=told) == "right"
    assert judged("value", status="success", report={"faults": ["IMAGE holds NaN"], "warnings": []}) == "silent"
    assert judged("value", status="success") == "silent"  # a success that nobody looked at
    assert judged("value", status="error", kind="ValueError", message=WORDS, trace=[PACK_FRAME]) == "raw"
    assert judged("refuse", status="refused", message="value_bigger_than_max") == "clear"
    assert judged("refuse", status="refused", message="exception_during_validation") == "raw"
    assert judged("value", status="cancelled", seconds=30.0) == judged("value", status="died") == judged("refuse", status="stuck") == "hang"


def test_files_that_were_written_are_read(tmp_path):
    out = tmp_path / "output"
    out.mkdir()
    (out / "a.json").write_text('{"frames": [NaN]}')
    (out / "empty.ply").touch()
    (out / "a.glb").write_bytes(b"glTF, not really")
    (out / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    for path in out.iterdir():
        assert len(verdict.bad_files([path], tmp_path)) == 1, path
    (out / "good.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert verdict.bad_files([out / "good.obj"], tmp_path) == []
    assert "outside" in verdict.bad_files([tmp_path / "elsewhere.obj"], tmp_path)[0]


def test_every_row_has_its_spoiler():
    if not comfy_source.add_to_path():
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    from lathe.bench.hostile_cases.pack import others, spoil

    assert set(table.SOCKETS) == set(spoil.SPOILERS) and set(table.NO_PAYLOAD) == set(others.ANY_SOCKET)
    for socket, rows in table.SOCKETS.items():
        assert set(rows) == set(spoil.SPOILERS[socket]), socket


def test_a_choice_is_a_spread_and_the_same_each_time():
    def case(id):
        return inputs.Case(id, id.split("/")[1], table.REFUSE, lambda feeder: {})

    cases = [case(f"{kind}/{node}/{place}/{what}") for kind in "AB" for node in "xyz" for place in "12" for what in "mnopq"]
    cases += [case(f"sound/{node}") for node in "xyz"]
    some = inputs.chosen(cases, 20, seed=3)
    assert (
        [c.id for c in some] == [c.id for c in inputs.chosen(cases[::-1], 20, seed=3)] != [c.id for c in inputs.chosen(cases, 20, seed=4)]
    )
    for part in (0, 1):
        assert {c.id.split("/")[part] for c in some} == {c.id.split("/")[part] for c in cases}
    assert {c.id.split("/")[3] for c in some if c.kind != "sound"} == set("mnopq")


@needs_comfyui
def test_planted_faults_are_found(monkeypatch):
    monkeypatch.setattr(hostile, "LIMIT", 2.0)
    monkeypatch.setattr(server, "GRACE", 2.0)
    right = {
        "draw": "right", "raise a KeyError": "raw", "raise what a library says": "raw", "fill the memory": "raw", "NaN": "silent",
        "infinity": "silent", "give nothing": "silent", "no pixels": "silent", "die": "hang", "hang": "hang",
    }  # fmt: skip
    with server.HostileServer(hostile.GIB, {"planted": HERE / "planted_faults"}) as comfy:
        info = comfy.up().get("/object_info/LathePlanted")["LathePlanted"]
        for does, what in right.items():
            case = inputs.Case(f"planted/{does}", "LathePlanted", table.VALUE, lambda feeder, does=does: {"does": does, "salt": 0})
            assert hostile.try_case(comfy, case, info, does).what == what, does


@needs_comfyui
def test_nothing_is_found_in_a_spread():
    command = [sys.executable, hostile.__file__, "--small"]
    done = subprocess.run(command, capture_output=True, text=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert (result["raw"], result["hang"], result["silent"]) == (0, 0, 0), done.stdout[-6000:]
    assert done.returncode == 0 and result["tried"] == result["right"] + result["clear"] >= 180
