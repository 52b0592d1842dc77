"""What a GPU must show: that faults, crashes and hangs are found and told, each alone, and that nothing passes unseen."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cuda_emulator
import pytest
from lathe.bench import gpu_checks
from lathe.bench.gpu_check_cases import launches, needs, oracle, place, processes, rivals, table, times, tools, workers
from lathe.bench.gpu_check_cases.findings import Finding
from lathe.pipelines.ops.cuda import card
from lathe.pipelines.ops.splat_raster import cuda_form, cuda_lists, dispatch
from splat_scenes import Oracle

ROOT = Path(__file__).resolve().parents[2]
needs_emulator = pytest.mark.skipif(bool(cuda_emulator.unavailable()), reason=cuda_emulator.unavailable())

SCRIPT = """
import os, sys, time
sys.path.insert(0, {support!r})
import lathe_root
from lathe.bench import gpu_checks
from lathe.bench.gpu_check_cases import table
from lathe.bench.gpu_check_cases.findings import Check, judged
from lathe.pipelines.ops.splat_raster import cuda_form

draw, runs = cuda_form.draw, []

def drifting(*arguments, **options):
    runs.append(1)
    blended, *rest = draw(*arguments, **options)
    return blended * (1 + 1e-6 * len(runs)), *rest

cuda_form.draw = drifting

def right(place):
    os.write(1, b"what a check prints is no answer")
    yield judged(True, "right", "of course")

def hangs(place):
    yield judged(True, "before it hangs", "told")
    time.sleep(100)

def aborts(place):
    os.abort()

def raises(place):
    yield judged(True, "before it raises", "told")
    raise ValueError("planted")

shipped = {{check.name: check for check in table.CHECKS}}
checks = (
    Check("first", right), Check("hanging", hangs, limit=1), Check("aborting", aborts), Check("raising", raises), Check("left out", right),
    Check("next", right), shipped["bits"], shipped["nothing"], shipped["memcheck"], Check("long", right, seconds=1e6),
)
if __name__ == "__main__":
    sys.exit(gpu_checks.main(checks))
"""


@needs_emulator
def test_what_hangs_crashes_raises_or_is_wrong_fails_alone(tmp_path):
    """In processes of their own, with a form whose colours drift from run to run."""
    script, found = tmp_path / "checks.py", tmp_path / "found.json"
    script.write_text(SCRIPT.format(support=str(ROOT / "support")))
    only = "first,hanging,aborting,raising,next,bits,nothing,memcheck,long"
    done = subprocess.run(
        [sys.executable, str(script), "--emulate", "--only", only, "--json", str(found)], capture_output=True, text=True, timeout=300
    )
    lines = [line.partition(" s] ")[2] for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 1, done.stderr
    assert lines[:7] == [
        "PASS right: of course",
        "PASS before it hangs: told",
        "FAIL hanging: it took more than 1 s",
        "FAIL aborting: its process ended with code -6",
        "PASS before it raises: told",
        "FAIL raising: ValueError: planted",
        "PASS right: of course",
    ]
    assert [line.partition(":")[0] for line in lines[7:10]] == ["FAIL same bits in three runs", "PASS no Gaussians", "PASS none in sight"]
    assert lines[10:] == ["NOT MEASURED memcheck: compute-sanitizer needs a GPU", "NOT MEASURED long: out of time"]
    assert json.loads(done.stdout.splitlines()[-1])["counts"] == {"PASS": 6, "FAIL": 4, "NOT MEASURED": 2}
    assert len(json.loads(found.read_text())["findings"]) == 12


@pytest.fixture
def here(monkeypatch):
    """An emulated place in this process."""
    monkeypatch.setattr(dispatch, "backend_for", dispatch.backend_for)
    monkeypatch.setattr(card, "card", card.card)
    return place.Place(emulated=True)


@needs_emulator
def test_the_oracle_finds_what_is_a_little_wrong(here, monkeypatch):
    truth = Oracle(30, (19, 13), 1, {})
    assert oracle.against(truth, "right").verdict == "PASS"
    draw = cuda_form.draw

    def a_little_wrong(*arguments, **options):
        blended, depth, alpha, means2d, radii = draw(*arguments, **options)
        return blended, depth * 1.0001, alpha, means2d, radii

    monkeypatch.setattr(cuda_form, "draw", a_little_wrong)
    found = oracle.against(truth, "wrong")
    assert found.verdict == "FAIL" and "(depth)" in found.figures


@needs_emulator
def test_gradients_that_bands_change_by_one_bit_do_not_pass(here, monkeypatch):
    backward, runs = cuda_form._Project.backward, []

    def drifting(ctx, *given):
        runs.append(1)
        means, *rest = backward(ctx, *given)
        return means * (1 + 1e-7 * len(runs)), *rest

    monkeypatch.setattr(cuda_form._Project, "backward", drifting)
    (found,) = oracle.bands(here)
    assert found.verdict == "FAIL" and "OTHER to the bit" in found.figures


@needs_emulator
@pytest.mark.parametrize(("shipped", "verdict"), [([], "NOT MEASURED"), (["blend", "forgotten"], "FAIL")])
def test_that_every_kernel_runs_is_not_said_unseen(here, monkeypatch, shipped, verdict):
    """Where none that ships is found nothing is measured."""
    monkeypatch.setattr(launches, "small_scenes", lambda device: None)
    monkeypatch.setattr(launches, "shipped_kernels", lambda: shipped)
    (found,) = launches.every_kernel(here)
    assert found.verdict == verdict


@needs_emulator
def test_a_row_that_is_not_cut_is_told(here, monkeypatch):
    monkeypatch.setattr(cuda_lists.Band, "launches", lambda band: iter([(0, len(band.starts) - 1)]))
    found = {one.name: one for one in launches.launch_length(here)}
    assert found["a row of too many pairs is cut"].verdict == "FAIL"
    assert {one.verdict for one in found.values()} == {"FAIL", "NOT MEASURED"}


@needs_emulator
def test_pictures_that_are_not_cut_into_bands_do_not_pass_as_bands(here, monkeypatch):
    monkeypatch.setattr(cuda_lists, "_band_pairs", lambda pairs, *_: sum(pairs))
    (found,) = oracle.bands(here)
    assert found.verdict == "FAIL" and "in 1 bands" in found.figures


def test_a_process_is_ended_with_what_it_started():
    """By whatever means this system has: the pipe that both hold closes only when both are gone."""
    sleeps = "import time; print('here', flush=True); time.sleep(100)"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeps!r}])"
    parent = processes.start([sys.executable, "-c", starts], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == "here\n"
    start = time.monotonic()
    processes.end(parent)
    assert parent.stdout.read() == "" and parent.returncode and time.monotonic() - start < 30
    processes.end(parent)  # which is no error
    parent.stdout.close()


def test_windows_is_asked_for_groups_and_trees(monkeypatch):
    """Only what would be asked: no Windows answers here."""
    asked = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: asked.append((command, options)))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    processes.start(["program"], bufsize=1)
    processes.end_tree(1234)
    assert asked == [(["program"], {"text": True, "creationflags": 512, "bufsize": 1}), ["taskkill", "/T", "/F", "/PID", "1234"]]


def test_nothing_that_windows_lacks_is_needed_before_a_gpu_is(tmp_path):
    """All modules of the checks are imported in a Python without the modules and functions that Windows does not have."""
    script = f"""
import os, signal, sys
sys.modules.update(dict.fromkeys(("resource", "fcntl", "pwd", "grp", "termios", "pty"), None))
for name in ("setpgrp", "killpg", "setsid", "getpgid", "nice", "getuid", "sched_getaffinity", "getloadavg", "fork"):
    delattr(os, name) if hasattr(os, name) else None
del signal.SIGKILL
sys.path.insert(0, {str(ROOT / "support")!r})
import lathe_root
from lathe.bench import gpu_checks
sys.argv = ["gpu_checks.py", "--needs"]
sys.exit(gpu_checks.main())
"""
    if not hasattr(signal, "SIGKILL"):
        script = script.replace("del signal.SIGKILL", "")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0 and "To carry" in done.stdout, done.stderr


def test_a_gpu_or_the_word_emulate_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(gpu_checks.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py"])
    with pytest.raises(SystemExit) as ended:
        gpu_checks.main()
    assert ended.value.code == 2 and "--emulate" in capsys.readouterr().err


def timed(name, milliseconds, loss=1.0):
    return Finding("NOTE", name, "", {"median_ms": milliseconds, "loss": loss, "gradient": 2.0})


def test_times_are_judged_against_the_bars():
    def verdicts(*findings, emulated=False):
        return {found.name: found.verdict for found in times.compared(findings, emulated)}

    ours, case = timed(f"cuda {times.JUDGED}", 4.0), times.JUDGED
    below_numba, below_gsplat = (f"ours below {most:g} x {form}, {case}" for most, form in ((0.5, "numba"), (2, "gsplat")))
    good = verdicts(ours, timed(f"numba {case}", 8.1), timed(f"gsplat {case}", 2.1))
    assert set(good.values()) == {"PASS"} and {below_numba, below_gsplat} < set(good)
    slow = verdicts(ours, timed(f"numba {case}", 7.9), timed(f"gsplat {case}", 1.9))
    assert slow[below_numba] == slow[below_gsplat] == "FAIL"
    assert verdicts(ours)[below_numba] == verdicts(timed(f"numba {case}", 8.1))[below_numba] == "NOT MEASURED"
    assert verdicts(ours, timed(f"numba {case}", 8.1), emulated=True)[below_numba] == "NOT MEASURED"
    other_work = verdicts(ours, timed(f"numba {case}", 8.1, loss=1.01))
    assert other_work[f"numba and ours do the same work, {case}"] == "FAIL"


@pytest.mark.parametrize(
    ("code", "printed", "verdict"),
    [
        (0, "small scenes drawn\n========= ERROR SUMMARY: 0 errors\n", "PASS"),
        (0, "small scenes drawn\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "PASS"),
        (0, "small scenes drawn\n=========     at blend_back+0x1a0\n========= ERROR SUMMARY: 12 errors\n", "FAIL"),
        (0, "small scenes drawn\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", "FAIL"),
        (1, "small scenes drawn\n========= ERROR SUMMARY: 0 errors\n", "FAIL"),
        (0, "========= ERROR SUMMARY: 0 errors\n", "NOT MEASURED"),
        (1, "=========     at blend_back+0x1a0\n========= ERROR SUMMARY: 12 errors\n", "FAIL"),
        (1, "========= Error: Device not supported\n========= ERROR SUMMARY: 1 error\n", "NOT MEASURED"),
        (None, "", "NOT MEASURED"),
    ],
)
def test_what_the_sanitizer_says(code, printed, verdict):
    found = tools.verdict("memcheck", code, printed, 1.0)
    assert found.verdict == verdict
    if "blend_back" in printed:
        assert "kernels named: blend_back" in found.figures


def test_a_build_of_gsplat_that_fails_is_not_measured(here, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "gsplat.whl", "w") as wheel:
        wheel.writestr("gsplat/__init__.py", "")
        wheel.writestr("gsplat/cuda/__init__.py", "")
        wheel.writestr("gsplat/cuda/_backend.py", "raise OSError('no compiler')")
    folder = tmp_path / "made"
    build = rivals.start_build(tmp_path / "gsplat.whl", folder)
    monkeypatch.setenv("LATHE_GSPLAT", str(folder))
    here.deadline = time.monotonic() + 60
    (found,) = rivals.built(here)
    processes.end(build)
    assert found.verdict == "NOT MEASURED" and "it does not build" in found.figures
    (found,) = rivals.times(here)
    assert found.verdict == "NOT MEASURED"


def test_surroundings_hide_the_toolkit(tmp_path, monkeypatch):
    nvcc, other = tmp_path / ("nvcc.exe" if os.name == "nt" else "nvcc"), str(tmp_path / "other")
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{other}")
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_PATH_V13_0"):
        monkeypatch.setenv(name, str(tmp_path))
    bare, toolkit = (workers.surroundings(kind, tmp_path) for kind in ("bare", "toolkit"))
    assert bare["PATH"] == other and not {"CUDA_HOME", "CUDA_PATH", "CUDA_PATH_V13_0"} & set(bare)
    assert toolkit["PATH"] == f"{tmp_path}{os.pathsep}{other}" and toolkit["PYTHONPATH"].startswith(str(tmp_path))
    assert workers.surroundings("async", tmp_path)["PYTORCH_CUDA_ALLOC_CONF"] == "backend:cudaMallocAsync"


def test_the_table_and_what_is_to_be_carried(capsys):
    names = [check.name for check in table.CHECKS]
    assert len(set(names)) == len(names) and {check.surroundings for check in table.CHECKS} == {"bare", "toolkit", "async"}
    needs.show()
    said = capsys.readouterr().out
    assert "gsplat" in said and "numba" in said and sum(size for _, size, _, _ in needs.CARRY) < 30
