"""Launching through the CUDA driver, with the emulator in the driver's place, and the card that makes programs of files."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import cuda_emulator
import pytest
import torch
from cuda_emulator import EmulatedProgram, EmulatorError
from lathe.pipelines.ops.cuda import card as cards
from lathe.pipelines.ops.cuda.driver import DriverError, Program

emulated = pytest.mark.skipif(bool(cuda_emulator.unavailable()), reason=cuda_emulator.unavailable())

TEXT = """
extern "C" __global__ void echo(int a, float b, const float* x, int n, float* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + b;
}
extern "C" __global__ void stuck(float* out) { if (threadIdx.x) __syncthreads(); }
"""


@pytest.fixture
def library() -> ctypes.CDLL:
    return cuda_emulator.build(TEXT, "text.cu")


@pytest.fixture
def program(library: ctypes.CDLL) -> Program:
    """The product's own class: nothing of the emulator's looks at what it does."""
    return Program(library, b"emulated 1", 0, lambda: 0)


def launch(program: Program, kernel: str = "echo", blocks: int = 2, threads: int = 64, a: int = 3, b: float = 0.5) -> torch.Tensor:
    x, out = torch.arange(100.0), torch.zeros(100)
    program.launch(kernel, blocks, threads, [a, b, x, 100, out] if kernel == "echo" else [out])
    return out


@emulated
@pytest.mark.parametrize(("a", "b"), [(3, 0.5), (-7, -1e-30), (2**31 - 1, 0.0), (1 - 2**31, 3e38)])
def test_numbers_and_tensors_arrive(program: Program, a: int, b: float) -> None:
    assert torch.equal(launch(program, a=a, b=b), torch.tensor(a, dtype=torch.float32) * torch.arange(100.0) + b)


@emulated
@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**40])
def test_numbers_of_more_than_32_bits_are_refused(program: Program, number: int) -> None:
    with pytest.raises(ValueError, match=f"32 bits, not {number:,}"):
        launch(program, a=number)


@emulated
def test_tensors_with_gaps_are_refused(program: Program) -> None:
    with pytest.raises(ValueError, match=r"contiguous tensors, not \(4, 3\) with strides \(1, 4\)"):
        program.launch("echo", 1, 12, [1, 1.0, torch.zeros(3, 4).T, 12, torch.zeros(12)])


@emulated
def test_tensors_of_several_devices_are_refused(program: Program) -> None:
    """On a card the address of a CPU tensor would be a fault that takes the context with it."""
    with pytest.raises(ValueError, match="tensors of the kernel echo lie on several devices"):
        program.launch("echo", 1, 12, [1, 1.0, torch.zeros(3), 12, torch.zeros(12, device="meta")])


@emulated
def test_no_blocks_are_no_launch(program: Program) -> None:
    """Not even the kernel is looked up."""
    program.launch("no such kernel", 0, 64, [torch.zeros(3, 4).T])


@emulated
@pytest.mark.parametrize(
    ("kernel", "threads", "words"),
    [
        ("sum", 64, r"CUDA driver: named symbol not found \(500\)\."),
        ("echo", 1025, r"CUDA driver: invalid argument \(1\)\."),
        ("stuck", 64, r"CUDA driver: kernel stuck, .* for thread 0, which has ended.* \(719\)\."),
    ],
)
def test_a_launch_that_fails_says_so_and_leaves_no_context(
    program: Program, library: ctypes.CDLL, kernel: str, threads: int, words: str
) -> None:
    with pytest.raises(DriverError, match=words):
        launch(program, kernel, threads=threads)
    assert library.emulator_contexts() == 0
    assert float(launch(program)[99]) == 3 * 99 + 0.5


@emulated
@pytest.mark.parametrize(
    ("image", "index", "words"), [(b"a cubin", 0, r"image is invalid \(200\)"), (b"emulated 1", 1, r"invalid device ordinal \(101\)")]
)
def test_a_program_that_cannot_be_loaded_says_so(library: ctypes.CDLL, image: bytes, index: int, words: str) -> None:
    with pytest.raises(DriverError, match=words):
        Program(library, image, index, lambda: 0)
    assert library.emulator_contexts() == 0


@emulated
def test_the_context_is_current_while_launching(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch without it, and one that leaves it behind, are noticed."""
    program = EmulatedProgram(library, 1, lambda: 0, [])
    with monkeypatch.context() as patch:
        patch.setattr(Program, "_current", lambda self: nullcontext())
        with pytest.raises(DriverError, match=r"invalid device context \(201\)"):
            launch(program)

    @contextmanager
    def left_behind(self: Program) -> Iterator[None]:
        library.cuCtxPushCurrent_v2(self._context)
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Program, "_current", left_behind)
        with pytest.raises(EmulatorError, match="a context was pushed and not popped"):
            launch(program)
    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    assert library.emulator_contexts() == 0


@emulated
def test_threads_launch_with_contexts_of_their_own(program: Program, library: ctypes.CDLL) -> None:
    """As autograd's do. Several at once give what one gives."""
    expected, made = launch(program), []

    def work() -> None:
        for _ in range(20):
            made.append(torch.equal(launch(program), expected) and library.emulator_contexts() == 0)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [True] * 80


@emulated
def test_the_stream_is_asked_at_each_launch(library: ctypes.CDLL) -> None:
    handles = iter((7, 2**40, 9))
    program = Program(library, b"emulated 1", 0, lambda: next(handles))
    for handle in (7, 2**40, 9):
        launch(program)
        assert library.emulator_last_stream() == handle
    with pytest.raises(StopIteration):
        launch(program)
    assert library.emulator_contexts() == 0


# ---- the card --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "hip"), [("cpu", None), ("cuda:0", "6.4")])
def test_only_nvidias_cards_run_cuda(device: str, hip: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    with pytest.raises(RuntimeError, match="need an NVIDIA card and a CUDA build of PyTorch"):
        cards.Card(torch.device(device))


class FakeCompiler:
    """Compiles nothing and notes what it was asked for."""

    path, version = "/somewhere/libnvrtc.so.13", (13, 0)

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def target(self, capability: tuple[int, int]) -> str:
        return f"sm_{capability[0]}{capability[1]}"

    def compile(self, *asked: Any) -> bytes:
        self.asked.append(asked)
        return b"emulated 1"


@pytest.fixture
def compiler(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """A card of compute capability 8.6 whose driver is the emulator."""
    made = FakeCompiler()
    monkeypatch.setattr(cards, "compiler", lambda: made)
    monkeypatch.setattr(cards, "driver", lambda: library)
    monkeypatch.setattr(torch.version, "hip", None)
    fakes: dict[str, Callable[..., Any]] = {
        "get_device_capability": lambda device: (8, 6),
        "init": lambda: None,
        "current_stream": lambda device: SimpleNamespace(cuda_stream=1234, synchronize=lambda: None),
        "memory_reserved": lambda device: 1000,
        "memory_allocated": lambda device: 600,
        "mem_get_info": lambda device: (5000, 9000),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


@emulated
def test_a_card_compiles_each_file_once_for_itself_and_launches_on_pytorchs_stream(
    compiler: FakeCompiler, library: ctypes.CDLL, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.cu", tmp_path / "second.cu"
    first.write_text(TEXT)
    second.write_text(TEXT)
    card = cards.Card(torch.device("cuda:0"))
    program = card.program(first, ("-DN=3",))
    assert card.program(first, ("-DN=3",)) is program
    assert card.program(first, ("-DN=4",)) is not program and card.program(second) is not program
    expected = [("first.cu", ("-DN=3",)), ("first.cu", ("-DN=4",)), ("second.cu", ())]
    assert compiler.asked == [(TEXT, name, "sm_86", options) for name, options in expected]
    assert card.words == f"NVRTC 13.0 ({compiler.path}) for sm_86"
    assert float(launch(program)[99]) == 3 * 99 + 0.5 and library.emulator_last_stream() == 1234


@emulated
def test_what_pytorch_holds_unused_is_free(compiler: FakeCompiler) -> None:
    assert cards.Card(torch.device("cuda:0")).free_bytes() == 5000 + 1000 - 600
