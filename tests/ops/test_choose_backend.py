"""The choice of a form: what proofs find wrong, child processes that fail in all ways, words of LATHE_BACKEND, logs and warnings."""

import importlib
import json
import logging
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lathe.pipelines.ops import choose_backend, prove_worker
from lathe.pipelines.ops.choose_backend import Disproved, Operation, choose
from lathe.pipelines.ops.prove_worker import NoVerdict, prove_in_child
from lathe_root import ROOT
from torch import Tensor

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TORCH = """
import time

def device(name):
    return name

def zeros(count, device):
    if device == "slow":
        time.sleep(60)
    if device != "cpu":
        raise RuntimeError("no such device")
"""
TOY = {
    "__init__.py": "",
    "ops/__init__.py": "",
    "ops/toy/__init__.py": "",
    "ops/toy/proof.py": """
class Disproved(Exception):
    pass

def prove(form, device):
    if form.double(2) != 4:
        raise Disproved(f"double(2) is {form.double(2)}, not 4")
""",
    "ops/toy/torch_form.py": "def double(x): return 2 * x",
    "ops/toy/numba_form.py": "def double(x): return x + x",
    "ops/toy/cuda_form.py": "def double(x): return x * 2",
    "ops/toy/wrong_form.py": "def double(x): return x * 3",
    "ops/toy/aborts_form.py": "import os\nos.write(2, b'the kernel went wrong\\n')\nos.abort()",
    "ops/toy/hangs_form.py": "import time\ntime.sleep(60)",
    "ops/toy/raises_form.py": "raise ImportError('built for another PyTorch')",
    "ops/toy/full_form.py": "raise RuntimeError('cuModuleLoadData: out of memory (2)')",
    "ops/toy/tight_form.py": """
room = False
def double(x):
    if not room: raise RuntimeError("CUDA error: out of memory")
    return 2 * x
""",
    "ops/toy/host_form.py": "raise MemoryError",
    "ops/toy/unready_form.py": "def double(x): return 2 * x\ndef prepare(device): raise RuntimeError(f'no driver for {device}')",
    "ops/toy/ready_form.py": "def double(x): return 2 * x\nprepared = []\nprepare = prepared.append",
    "ops/toy/compiles_form.py": """
import os, subprocess, sys, time
beat = "import sys, time\\nwhile True:\\n  open(sys.argv[1], 'a').write('.')\\n  time.sleep(0.02)"
subprocess.Popen([sys.executable, "-c", beat, os.environ["TOY_COMPILER"]])
time.sleep(60)
""",
    "ops/toy/noisy_form.py": "import sys\nfor _ in range(30_000): print('x' * 100)\nprint('{\"wrong\": 1}')\ndef double(x): return 2 * x",
    "ops/toy/borrows_form.py": "from lent_to_toys import double",
    "ops/toy/exits_form.py": "import os\nos._exit(0)",
}


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LATHE_BACKEND", raising=False)
    choose_backend.forget()
    yield
    choose_backend.forget()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Operation]]:
    """Makes an operation whose forms for a GPU are those named, with their modules in a package of its own. Its child processes find a
    stand-in for PyTorch, which takes seconds to import."""
    for name, text in {
        **{f"toys/{name}": text for name, text in TOY.items()},
        "stand_in/torch.py": TORCH,
        "lent_to_toys.py": TOY["ops/toy/torch_form.py"],
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
    yield lambda *gpu: Operation("toy", "toys.ops.toy", {"cuda": (*gpu, "numba"), "other": ("numba",)}, "Buy a toy.")
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float]]:
    """The real child process, on the CPU whatever the device: who was proven in one, where, and the time limit."""
    seen: list[tuple[str, str, float]] = []

    def prove(folder: Path, package: str, form: str, device: str, seconds: float) -> str | None:
        seen.append((form, device, seconds))
        return prove_in_child(folder, package, form, "cpu", seconds)

    monkeypatch.setattr(choose_backend, "prove_in_child", prove)
    return seen


def in_child(operation: Operation, form: str, seconds: float = 60.0, **options: Any) -> str | None:
    folder = Path(importlib.import_module("toys").__path__[0])
    return prove_in_child(folder, "ops.toy", form, options.pop("device", "cpu"), seconds, **options)


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_child_tells_what_is_wrong(toy: Callable[..., Operation]) -> None:
    assert in_child(toy(), "cuda") is None
    assert in_child(toy(), "wrong") == "double(2) is 6, not 4"
    assert in_child(toy(), "raises") == "ImportError: built for another PyTorch"
    aborted = in_child(toy(), "aborts")
    assert aborted is not None and "its test ended with code" in aborted and "went wrong" in aborted
    ended = in_child(toy(), "exits")
    assert ended is not None and "its test ended with code 0" in ended, "an end without a verdict is none"


def test_a_child_finds_the_packages_that_this_process_finds(toy: Callable[..., Operation]) -> None:
    assert in_child(toy(), "borrows") is None


def test_a_child_that_prints_much_and_even_a_verdict_is_not_misread(toy: Callable[..., Operation]) -> None:
    assert in_child(toy(), "noisy") is None


def test_a_child_that_hangs_is_ended(toy: Callable[..., Operation]) -> None:
    start = time.monotonic()
    assert "took more than 1 s" in str(in_child(toy(), "hangs", seconds=1.0))
    assert time.monotonic() - start < 50


@pytest.mark.parametrize(
    ("form", "options", "says"),
    [
        ("cuda", {"device": "cuda:77"}, "ended with code 1: RuntimeError: no such device"),  # no second context, or no such GPU
        ("cuda", {"device": "slow", "start_seconds": 1.0}, "took more than 1 s"),
        ("full", {}, r"ran out of memory: RuntimeError: cuModuleLoadData: out of memory \(2\)"),
        ("host", {}, "ran out of memory: MemoryError"),
    ],
)
def test_a_child_that_never_came_to_the_proof_is_no_verdict(
    toy: Callable[..., Operation], form: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(NoVerdict, match=says):
        in_child(toy(), form, **options)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, OSError])
def test_what_a_child_started_ends_with_it(
    toy: Callable[..., Operation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[BaseException] | None
) -> None:
    """After too long a time, and after an exception here."""
    beats, usual = tmp_path / "beats", prove_worker._lines
    monkeypatch.setenv("TOY_COMPILER", str(beats))

    def lines(path: Path) -> list[str]:
        if error is not None and beats.exists():
            raise error
        return usual(path) if beats.exists() else []

    monkeypatch.setattr(prove_worker, "_lines", lines)
    with nullcontext() if error is None else pytest.raises(error):
        assert "took more than 0 s" in str(in_child(toy(), "compiles", seconds=0.2))
    time.sleep(0.1)
    count = beats.stat().st_size
    time.sleep(0.3)
    assert beats.stat().st_size == count > 0


def test_on_windows_the_tree_of_processes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    child = types.SimpleNamespace(pid=7, kill=lambda: called.append("kill"), wait=lambda seconds: called.append("wait"))
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        windows.setattr(prove_worker, "NO_WINDOW", 0x08000000)
        windows.setattr(subprocess, "run", lambda command, **options: called.append((command, options["creationflags"])))
        prove_worker._end(child)  # type: ignore[arg-type]
    assert called == [(["taskkill", "/T", "/F", "/PID", "7"], 0x08000000), "kill", "wait"]


def test_paths_among_the_folders_of_packages_are_no_hindrance(
    toy: Callable[..., Operation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    assert in_child(toy(), "cuda") is None


@pytest.mark.parametrize("program", ["", "/nowhere/python", None])
def test_a_child_that_cannot_be_started_is_no_verdict(toy: Callable[..., Operation], monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(NoVerdict):
        in_child(toy(), "cuda")


@pytest.mark.parametrize(("program", "started"), [("Studio.exe", 0), ("blender", 0), ("pythonw.exe", 1), ("Python", 1), ("python3.12", 1)])
def test_only_python_is_started(
    toy: Callable[..., Operation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, started: int
) -> None:
    """A host that embeds Python names itself as the executable; to start it would open a second one."""
    calls: list[Any] = []

    def refused(*given: Any, **options: Any) -> None:
        calls.append(given)
        raise OSError("not started in this test")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(sys, "executable", str(tmp_path / program))
    with pytest.raises(NoVerdict, match="cannot be started" if started else f"not Python: .*{program}"):
        in_child(toy(), "cuda")
    assert len(calls) == started


def test_a_child_loads_the_pipelines_alone_and_proves_a_real_form() -> None:
    """With the real PyTorch; no part of the pack but `pipelines` is loaded, and its own name is not needed."""
    assert prove_in_child(ROOT / "pipelines", "ops.hash_grid", "numba", "cpu", 120.0) is None


def test_the_first_form_that_passes_is_taken_and_failures_are_told_once(
    toy: Callable[..., Operation], children: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    operation = toy("aborts", "wrong", "cuda")
    chosen = choose(operation, GPU)
    assert chosen.__name__ == "toys.ops.toy.cuda_form" and choose(operation, GPU) is chosen
    assert children == [("aborts", "cuda:0", 900.0), ("wrong", "cuda:0", 900.0), ("cuda", "cuda:0", 60.0)]
    slow = " At its first use it may build its kernels, which takes minutes."
    testing = [("aborts", slow), ("wrong", slow), ("cuda", "")]
    assert told(caplog, logging.INFO) == [f"toy on cuda:0: testing {form} in a process of its own.{note}" for form, note in testing]
    (warning,) = told(caplog, logging.WARNING)
    assert warning.startswith("toy on cuda:0: cuda is used (aborts: its test ended") and "; wrong: double(2) is 6, not 4). " in warning
    assert "LATHE_BACKEND=-wrong" in warning and "Buy" not in warning


def test_two_cards_are_decided_each(toy: Callable[..., Operation], children: list[Any]) -> None:
    operation = toy("cuda")
    for index in (0, 1, 0, 1):
        choose(operation, torch.device("cuda", index))
    assert [device for _, device, _ in children] == ["cuda:0", "cuda:1"]


def test_a_gpu_without_kernels_gets_the_advice(
    toy: Callable[..., Operation], children: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert choose(toy("wrong"), GPU).__name__ == "toys.ops.toy.numba_form"
    (warning,) = told(caplog, logging.WARNING)
    assert "numba on the CPU is used (wrong: double(2) is 6, not 4)" in warning and warning.endswith("Buy a toy.")
    assert len(told(caplog, logging.INFO)) == 1, "what the warning says is not said twice"


def test_a_library_that_is_not_there_costs_no_child_and_is_no_warning(
    toy: Callable[..., Operation], children: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setitem(choose_backend.LIBRARIES, "wrong", "toys_nobody_made")
    assert choose(toy("wrong", "cuda"), GPU).__name__ == "toys.ops.toy.cuda_form"
    assert [form for form, _, _ in children] == ["cuda"] and not told(caplog, logging.WARNING)
    assert told(caplog, logging.INFO)[1:] == ["toy on cuda:0: cuda; wrong: toys_nobody_made is not installed"]


def test_without_a_child_the_proof_is_made_here_and_said_so(
    toy: Callable[..., Operation], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert choose(toy("wrong", "cuda"), GPU).__name__ == "toys.ops.toy.cuda_form"
    (line,) = told(caplog, logging.WARNING)
    assert line.startswith("toy on cuda:0: cuda is used (tested in this process: a child process cannot be started")
    assert "(wrong: double(2) is 6, not 4 (tested in this process" in line


@pytest.mark.parametrize("error", [OSError("no temporary folder"), json.JSONDecodeError("half a line", "{", 1), KeyError("wrong")])
def test_accidents_around_a_child_are_no_verdict(
    toy: Callable[..., Operation], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fails(*given: Any) -> None:
        raise error

    caplog.set_level("INFO")
    monkeypatch.setattr(choose_backend, "prove_in_child", fails)
    assert choose(toy("cuda"), GPU).__name__ == "toys.ops.toy.cuda_form"
    assert told(caplog, logging.INFO)[1].startswith("toy on cuda:0: cuda (tested in this process: ") and not told(caplog, logging.WARNING)


@pytest.mark.parametrize("child", [True, False])
def test_a_form_is_made_ready_in_this_process(
    toy: Callable[..., Operation], children: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, child: bool
) -> None:
    """A failure there means the next form."""
    if not child:
        monkeypatch.setattr(sys, "executable", "")
    chosen = choose(toy("unready", "ready"), GPU)
    assert chosen.__name__ == "toys.ops.toy.ready_form" and chosen.prepared == [GPU]
    (warning,) = told(caplog, logging.WARNING)
    assert "unready: RuntimeError: no driver for cuda:0" in warning


@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_too_little_memory_says_nothing_about_a_form(
    toy: Callable[..., Operation], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """It is tried again after a while, and only the first time is told; what failed for good is not proven again."""
    caplog.set_level("INFO")
    operation = Operation("toy", "toys.ops.toy", {"other": ("wrong", "tight", "numba")}, "Buy a toy.")
    monkeypatch.setattr(sys, "executable", "")
    usual, tried = choose_backend._verdict, []
    monkeypatch.setattr(choose_backend, "_verdict", lambda *given: tried.append(given[1]) or usual(*given))
    for _ in range(2):
        assert choose(operation, device).__name__ == "toys.ops.toy.numba_form"
    assert tried == ["wrong", "tight", "numba"], "the choice holds for a while"
    level = logging.WARNING if device == GPU else logging.INFO
    line = told(caplog, level)[-1]
    assert "tight: too little memory for its test" in line and "RuntimeError: CUDA error: out of memory" in line and "numba" in line
    assert "LATHE_BACKEND=-tight" not in line and "Buy" not in line, "no remedy for what is not broken"
    tried.clear()
    caplog.clear()
    monkeypatch.setattr(choose_backend, "AGAIN_SECONDS", 0.0)
    choose_backend._chosen[operation, device] = choose_backend._Choice(operation.module("numba"), 0.0)
    for _ in range(2):
        assert choose(operation, device).__name__ == "toys.ops.toy.numba_form"
    assert tried == ["tight", "tight"] and not caplog.records
    vars(operation.module("tight"))["room"] = True
    for _ in range(2):
        assert choose(operation, device).__name__ == "toys.ops.toy.tight_form"
    assert tried == ["tight"] * 3 and len(caplog.records) == 1


def test_memory_that_lacks_in_the_child_only_is_no_failure(
    toy: Callable[..., Operation], children: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    operation = toy("tight")
    vars(operation.module("tight"))["room"] = True
    assert choose(operation, GPU).__name__ == "toys.ops.toy.tight_form" and len(children) == 1
    assert "(tested in this process: a child process ran out of memory: " in told(caplog, logging.INFO)[-1]


def test_on_amd_cards_nothing_is_said_of_nvidias_driver(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setitem(sys.modules, "gsplat", None)
    monkeypatch.setattr(importlib.import_module("lathe.pipelines.ops.splat_raster.proof"), "prove", lambda *given: None)
    choose(choose_backend.SPLAT, GPU)
    assert told(caplog, logging.WARNING) == [
        "splat on cuda:0: numba on the CPU is used (gsplat: gsplat is not installed; cuda: for NVIDIA cards only)."
    ]


def test_our_kernels_are_not_tried_on_other_makers_cards(
    toy: Callable[..., Operation], children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose(toy("cuda"), GPU).__name__ == "toys.ops.toy.numba_form" and not children


def test_threads_that_choose_at_once_decide_once(toy: Callable[..., Operation], monkeypatch: pytest.MonkeyPatch) -> None:
    operation, calls, chosen = toy(), [], []
    usual = choose_backend._decide

    def slow(*given: Any) -> types.ModuleType:
        calls.append(given)
        time.sleep(0.1)
        return usual(*given)

    monkeypatch.setattr(choose_backend, "_decide", slow)
    threads = [threading.Thread(target=lambda: chosen.append(choose(operation, CPU))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(chosen) == 4 and all(module is chosen[0] for module in chosen)


@pytest.mark.parametrize(
    ("words", "device", "chosen", "warns"),
    [
        ("", GPU, "cuda", ()),
        ("toy:torch", GPU, "torch", ()),
        ("toy:numba , splat:torch,", GPU, "numba", ()),
        ("splat:torch", GPU, "cuda", ()),
        ("-cuda", GPU, "numba", ("cuda: left out by LATHE_BACKEND", "Buy a toy.")),
        ("-cuda,toy:cuda", GPU, "cuda", ()),
        ("-numba,-cuda", GPU, "torch", ("plain PyTorch is used", "Buy a toy.")),
        ("-numba", CPU, "torch", ()),
        ("toy:wrong", GPU, "torch", ("double(2) is 6", "plain PyTorch is used")),
        ("toy:cuda", CPU, "numba", ("not meant for cpu", "numba, torch")),
    ],
)
def test_the_words_of_the_environment(
    toy: Callable[..., Operation], children: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    words: str, device: torch.device, chosen: str, warns: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setenv("LATHE_BACKEND", words)
    operation = toy("cuda") if "wrong" not in words else toy("wrong", "cuda")
    assert choose(operation, device).__name__ == f"toys.ops.toy.{chosen}_form"
    warnings = told(caplog, logging.WARNING)
    assert len(warnings) == bool(warns) and all(word in warnings[0] for word in warns)


@pytest.mark.parametrize("words", ["splat", "splat:vulkan", "spalt:torch", "-vulkan", "-torch", "-", "cuda"])
def test_words_that_name_nothing_are_refused(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("LATHE_BACKEND", f"-cuda,{words}")
    with pytest.raises(ValueError, match=r"splat \(gsplat, cuda, numba, torch\), mesh \(nvdiffrast, numba, torch\)"):
        choose(choose_backend.HASH_GRID, CPU)


@pytest.fixture
def small_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong shows without the crowd of Gaussians, which costs most of the time of a proof."""
    monkeypatch.setattr(importlib.import_module("lathe.pipelines.ops.splat_raster.proof"), "CROWD", 20)


class Bent:
    """The numba form of an operation, with one number or gradient changed, at every run or only at the second."""

    def __init__(self, name: str, which: int, second_only: bool = False, function: str = "") -> None:
        self.form = importlib.import_module(f"lathe.pipelines.ops.{name}.numba_form")
        self.which, self.second_only, self.calls = which, second_only, 0
        self.function = function or {"splat_raster": "draw", "hash_grid": "encode"}[name]

    def __getattr__(self, name: str) -> Any:
        usual = getattr(self.form, name)
        if name != self.function:
            return usual

        def bent(*given: Any, **options: Any) -> Any:
            self.calls += 1
            if self.second_only and self.calls != 2:
                return usual(*given, **options)
            return self.bend(usual, *given, **options)

        return bent

    def bend(self, usual: Any, *given: Any, **options: Any) -> Any:
        given = list(given)
        given[self.which] = Scaled.apply(given[self.which], self.amount)
        return usual(*given, **options)

    @property
    def amount(self) -> float:
        return 1 + 1e-6 if self.second_only else 1.01


class Scaled(torch.autograd.Function):
    """x with its gradient scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, amount: float) -> Tensor:
        ctx.amount = amount
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.amount, None


def prove(name: str, form: Any) -> None:
    importlib.import_module(f"lathe.pipelines.ops.{name}.proof").prove(form, CPU)


@pytest.mark.parametrize(
    ("name", "which", "what"),
    [
        *((("splat_raster"), index, what) for index, what in enumerate(("means", "quats", "scales", "opacities", "features"))),
        ("hash_grid", 0, "the table"),
        ("hash_grid", 1, "the points"),
    ],
)
@pytest.mark.parametrize("second_only", [False, True])
def test_a_wrong_gradient_of_any_input_is_disproved(small_crowd: None, name: str, which: int, what: str, second_only: bool) -> None:
    with pytest.raises(Disproved, match=f"gradient of {what}: " + ("[0-9]+ of .* differ" if second_only else "relative error")):
        prove(name, Bent(name, which, second_only))


@pytest.mark.parametrize(
    ("which", "change", "what"),
    [
        (0, lambda colors: colors * torch.tensor([1.0, 1, 1.01, 1, 1]), "colours"),
        (0, lambda colors: colors * torch.tensor([1.0, 1, 1, 1, 1.01]), "further channels"),
        (1, lambda depth: depth * 1.01, "depth"),
        (2, lambda alpha: alpha * 1.01, "alpha"),
        (4, lambda radii: radii * (torch.arange(radii.shape[1]) % 9 > 0)[:, None], "radii"),
    ],
)
def test_wrong_values_of_splats_are_disproved(small_crowd: None, which: int, change: Any, what: str) -> None:
    class Other(Bent):
        def bend(self, usual: Any, *given: Any, **options: Any) -> Any:
            made = list(usual(*given, **options))
            made[which] = change(made[which])
            return tuple(made)

    with pytest.raises(Disproved, match=f"^{what}: "):
        prove("splat_raster", Other("splat_raster", 0))


@pytest.mark.parametrize("what", ["centres", "gradient of means2d", "gradient of absgrad"])
def test_wrong_centres_and_gradients_on_the_screen_are_disproved(small_crowd: None, what: str) -> None:
    class Other(Bent):
        def bend(self, usual: Any, *given: Any, **options: Any) -> Any:
            *pictures, means2d, radii = usual(*given, **options)
            if what == "centres":
                means2d.data += 0.5
            elif what == "gradient of means2d":
                means2d.register_hook(lambda gradient: gradient * 1.01)
            else:
                torch.Tensor.register_hook(means2d, lambda gradient: setattr(means2d, "absgrad", means2d.absgrad * 1.01))
            return *pictures, means2d, radii

    found = "gradient of means" if what == "gradient of means2d" else what  # what is wrong there is wrong in the world, too
    with pytest.raises(Disproved, match=f"^{found}: "):
        prove("splat_raster", Other("splat_raster", 0))


@pytest.mark.parametrize("change", [{"ALPHA_MAX": 1.0}, {"TRANSMITTANCE_MIN": 1e-3}, {"TRANSMITTANCE_MIN": 0.0}, {"ALPHA_MIN": 1 / 128}])
def test_other_limits_of_blending_are_disproved(small_crowd: None, change: dict[str, float]) -> None:
    with pytest.raises(Disproved):
        prove("splat_raster", of_other_limits(change))


def test_a_lower_alpha_clamp_that_is_declared_is_no_fault(small_crowd: None) -> None:
    form = of_other_limits({"ALPHA_MAX": 0.99})
    prove("splat_raster", types.SimpleNamespace(draw=form.draw, ALPHA_MAX=0.99))
    with pytest.raises(Disproved):
        prove("splat_raster", types.SimpleNamespace(draw=form.draw))


def of_other_limits(change: dict[str, float]) -> Any:
    """A copy of the PyTorch form with other constants, which leaves the oracle alone."""
    path = ROOT / "pipelines/ops/splat_raster/torch_form.py"
    spec = importlib.util.spec_from_file_location("lathe.pipelines.ops.splat_raster.copy_form", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(change)
    return types.SimpleNamespace(draw=module.draw)


def test_the_scene_of_splats_is_what_it_says() -> None:
    from lathe.pipelines.ops.splat_raster import proof, torch_form
    from lathe.pipelines.ops.splat_raster.projection import project

    parts, (viewmats, Ks) = proof.scene(0.999, proof.CROWD, True), proof.cameras()
    options = {"near": 0.01, "far": 1e10, "eps2d": 0.3, "antialiased": False}
    seen = project(*parts[:4], viewmats, Ks, proof.WIDTH, proof.HEIGHT, **options)
    y, x = torch.meshgrid(torch.arange(proof.HEIGHT) + 0.5, torch.arange(proof.WIDTH) + 0.5, indexing="ij")
    for camera in range(2):
        drawn = seen.radii[camera, :, 0] > 0
        counts = torch_form.tile_lists(seen.means2d[camera], seen.depths[camera], seen.radii[camera], proof.WIDTH, proof.HEIGHT)[1]
        dx, dy = x[..., None] - seen.means2d[camera, :, 0], y[..., None] - seen.means2d[camera, :, 1]
        a, b, c = seen.conics[camera].unbind(-1)
        alpha = seen.opacities[camera] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy) * drawn
        assert max(counts) > 256 and min(counts) > 0
        assert int((alpha > torch_form.ALPHA_MAX).sum()) > 3, "clamped alphas"
        assert bool((alpha > 1 / 255).flatten(0, 1).all(0).any()), "a Gaussian that covers everything"
        assert 0 < int((~drawn).sum()) < 10
        assert int(((1 - alpha.clamp(max=0.999)).prod(-1) < 1e-4).sum()) > 50, "finished pixels"


@pytest.mark.parametrize(("alpha_max", "crowd", "antialiased"), [(0.999, 270, False), (0.99, 270, False), (0.999, 30, True)])
def test_the_scene_of_splats_has_tiles_that_are_dark_before_their_lists_end(alpha_max: float, crowd: int, antialiased: bool) -> None:
    """For each camera the crowded tile, with more behind the last Gaussian that counts than the 16 rows that a block zeroes at once."""
    from lathe.pipelines.ops.splat_raster import proof, torch_form
    from lathe.pipelines.ops.splat_raster.projection import project

    parts, (viewmats, Ks), across = proof.scene(alpha_max, crowd, False), proof.cameras(), 4
    seen = project(*parts[:4], viewmats, Ks, proof.WIDTH, proof.HEIGHT, near=0.01, far=1e10, eps2d=0.3, antialiased=antialiased)
    for means2d, depths, radii, conics, opacities in zip(seen.means2d, seen.depths, seen.radii, seen.conics, seen.opacities, strict=True):
        owners, counts = torch_form.tile_lists(means2d, depths, radii, proof.WIDTH, proof.HEIGHT)
        tile = max(range(len(counts)), key=counts.__getitem__)
        place, ids = torch.arange(256), owners.split(counts)[tile]
        dx = tile % across * 16 + place[:, None] % 16 + 0.5 - means2d[ids, 0]
        dy = tile // across * 16 + place[:, None] // 16 + 0.5 - means2d[ids, 1]
        a, b, c = conics[ids].unbind(-1)
        alpha = (opacities[ids] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(max=alpha_max)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        counted = (alpha > 0) & (torch.cumprod(1 - alpha, 1) > torch_form.TRANSMITTANCE_MIN)
        furthest = int((counted * (torch.arange(len(ids)) + 1)).max())
        assert crowd < furthest < len(ids) - 16


def test_free_memory_is_poisoned_before_each_drawing(small_crowd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a form that leaves a part of its sums unwritten finds the right ones, of the drawing before."""
    proof = importlib.import_module("lathe.pipelines.ops.splat_raster.proof")
    form, events = importlib.import_module("lathe.pipelines.ops.splat_raster.numba_form"), []
    full = torch.full

    def made(size: tuple[int, ...], value: float, **options: Any) -> Tensor:
        if value != value:
            events.append("NaN")
        return full(size, value, **options)

    def draw(*given: Any, **options: Any) -> Any:
        events.append("draw")
        return form.draw(*given, **options)

    monkeypatch.setattr(torch, "full", made)
    proof.prove(types.SimpleNamespace(draw=draw), CPU)
    drawings = [before for before, now in zip(events, events[1:], strict=False) if now == "draw"]
    assert drawings == ["NaN"] * 4


def snapped(grid: float, moved: float = 0.0, **declared: Any) -> Any:
    """The oracle of the mesh rasteriser with corners on a grid of parts of a pixel, as graphics hardware draws."""
    from lathe.pipelines.ops.mesh_raster import torch_form

    def visibility(pos: Tensor, tri: Tensor, height: int, width: int, behind: Tensor | None = None) -> Tensor:
        if behind is None:
            pos = pos.double().clone()
            for axis, pixels in ((0, width), (1, height)):
                place = pos[..., axis] / pos[..., 3] * pixels / 2
                pos[..., axis] = ((place / grid).round() * grid + moved) * 2 / pixels * pos[..., 3]
        return torch_form.visibility(pos, tri, height, width, behind)

    names = ("barycentrics", "interpolate", "crossings")
    return types.SimpleNamespace(visibility=visibility, **{name: getattr(torch_form, name) for name in names}, **declared)


def test_faces_must_be_the_oracles_or_within_the_declared_part_of_a_pixel() -> None:
    with pytest.raises(Disproved, match="faces: .* differ"):
        prove("mesh_raster", snapped(1 / 16))
    prove("mesh_raster", snapped(1 / 16, SNAP=1 / 16))
    for wrong in (snapped(1 / 2, SNAP=1 / 16), snapped(1 / 16, 0.5, SNAP=1 / 16)):
        with pytest.raises(Disproved, match="of the pixels show another"):
            prove("mesh_raster", wrong)


@pytest.mark.parametrize(
    ("name", "function", "change", "what"),
    [
        ("mesh_raster", "visibility", lambda face: face.roll(1, 2), "faces"),
        ("mesh_raster", "barycentrics", lambda made: (made[0] * 1.01, made[1]), "barycentrics"),
        ("mesh_raster", "barycentrics", lambda made: (made[0], made[1] * 1.01), "depths"),
        ("mesh_raster", "barycentrics", lambda made: (made[0].detach(), made[1]), "gradient of positions"),
        ("mesh_raster", "interpolate", lambda made: made * 1.01, "attributes"),
        ("mesh_raster", "crossings", lambda rows: rows.flip(0), "crossings"),
        ("hash_grid", "encode", lambda made: made * torch.tensor([1.0] * (made.shape[1] - 1) + [1.01]), "features of level 4"),
        ("ray_march", "march", lambda made: (made[0] + 1, *made[1:]), "rays"),
        ("ray_march", "march", lambda made: (made[0], made[1] + 0.01, *made[2:]), "points"),
        ("ray_march", "march", lambda made: (*made[:2], made[2] + 0.01, made[3]), "depths"),
        ("ray_march", "march", lambda made: (*made[:3], made[3].roll(1)), "slots"),
        ("gaussian_density", "sum_of", lambda ask: lambda points: (ask(points)[0] * 1.01, ask(points)[1]), "sums"),
        ("gaussian_density", "sum_of", lambda ask: lambda points: (ask(points)[0], ask(points)[1].roll(1)), "sums of values"),
        ("silhouette_contours", "rim_misses", lambda misses: misses * 1.001, "misses"),
    ],
)
def test_wrong_numbers_are_disproved(name: str, function: str, change: Any, what: str) -> None:
    class Other(Bent):
        def bend(self, usual: Any, *given: Any, **options: Any) -> Any:
            return change(usual(*given, **options))

    with pytest.raises(Disproved, match=f"^{what}: "):
        prove(name, Other(name, 0, function=function))


def test_nan_and_other_shapes_are_never_close() -> None:
    choose_backend.must_be_close("it", torch.ones(3), torch.ones(3) * (1 + 5e-4))
    for wrong in (torch.full((3,), float("nan")), torch.ones(3) * 1.01, torch.ones(1)):
        with pytest.raises(Disproved, match="^it: "):
            choose_backend.must_be_close("it", wrong, torch.ones(3))


@pytest.mark.parametrize("name", choose_backend.OPERATIONS)
def test_a_proof_leaves_no_trace(name: str) -> None:
    operation = choose_backend.OPERATIONS[name]
    before = torch.get_rng_state()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        assert choose(operation, CPU).__name__ == f"{operation.package}.numba_form"
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_proof_needs_no_gradient_mode_of_its_caller() -> None:
    with torch.no_grad():
        assert choose(choose_backend.SPLAT, CPU) is choose_backend.SPLAT.module("numba")


def test_the_worker_imports_nothing_before_it_runs() -> None:
    heavy = {"torch", "numpy", "numba"} & set(vars(prove_worker))
    assert not heavy
