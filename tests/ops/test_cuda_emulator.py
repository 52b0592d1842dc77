"""The emulator of CUDA: right kernels give the right numbers, and each fault that it is there to find is found."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_emulator
import pytest
import torch
from cuda_emulator import EmulatedCard, EmulatorError, fresh_memory_is_nan
from cuda_margins import MarginError
from lathe.pipelines.ops.cuda.driver import DriverError, Program
from lathe_root import ROOT
from torch import Tensor

pytestmark = pytest.mark.skipif(bool(cuda_emulator.unavailable()), reason=cuda_emulator.unavailable())

SEEDS = (1, 2, 3)
HEAD = 'extern "C" __global__ void'

TOTAL = """
#define THREADS 256
extern "C" __global__ void __launch_bounds__(THREADS) total(const float* x, int n, float* y) {  // one sum a block, by halves
    __shared__ float sums[THREADS];
    float own = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) own += x[i];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = sums[0];
}
"""

Make = Callable[..., Program]


@pytest.fixture
def program(tmp_path: Path) -> Make:
    """A program of a text, in a thread order of this seed."""

    def make(text: str, seed: int = 1, options: tuple[str, ...] = ()) -> Program:
        file = tmp_path / "text.cu"
        file.write_text(text)
        return EmulatedCard(seed).program(file, options)

    return make


def numbers(count: int) -> Tensor:
    """Whole numbers: their sums are exact in any order."""
    return torch.randint(-50, 50, (count,), generator=torch.Generator().manual_seed(0)).float()


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def differs_or_fails(run: Callable[[int], Tensor], expected: Tensor) -> bool:
    """Whether one of the seeds gives something else, or an error."""
    for seed in SEEDS:
        try:
            if not torch.equal(run(seed), expected):
                return True
        except (DriverError, EmulatorError, MarginError):
            return True
    return False


# ---- right kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_block_sums(program: Make, seed: int) -> None:
    x, y = numbers(1000), torch.zeros(2)
    program(TOTAL, seed).launch("total", 2, 256, [x, 1000, y])
    blocks = torch.nn.functional.pad(x, (0, 24)).view(2, 2, 256)
    assert torch.equal(y, blocks.sum((0, 2)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_warp_sums_shuffles_and_votes(program: Make, seed: int) -> None:
    """70 threads: two warps and a part of one."""
    text = f"""
        {HEAD} warps(const int* x, int* out) {{
            int t = threadIdx.x, lane = t % 32, sum = x[t];
            unsigned here = t < 64 ? 0xffffffffu : 0x3fu;
            for (int step = 16; step; step /= 2) {{
                int other = __shfl_xor_sync(here, sum, step);
                if (here >> (lane ^ step) & 1) sum += other;
            }}
            out[t] = sum;
            out[70 + t] = __shfl_sync(here, x[t], 3);
            out[140 + t] = __shfl_down_sync(here, x[t], 2);
            out[210 + t] = __any_sync(here, x[t] > 48);
            out[280 + t] = __all_sync(here, x[t] > -50);
            out[350 + t] = (int)__ballot_sync(here, x[t] > 0);
        }}"""
    x, out = numbers(70).int(), torch.zeros(6, 70, dtype=torch.int32)
    program(text, seed).launch("warps", 1, 70, [x, out])
    warps = [x[:32], x[32:64], x[64:]]
    assert out[0, :64].tolist() == [int(warp.sum()) for warp in warps[:2] for _ in warp]
    assert out[1].tolist() == [int(warp[3]) for warp in warps for _ in warp]
    assert out[2, :64].tolist() == [int(warp[min(i + 2, 31)] if i < 30 else warp[i]) for warp in warps[:2] for i in range(32)]
    assert out[3].tolist() == [int((warp > 48).any()) for warp in warps for _ in warp]
    assert out[4].tolist() == [int((warp > -50).all()) for warp in warps for _ in warp]
    ballots = [sum(1 << i for i, value in enumerate(warp.tolist()) if value > 0) for warp in warps]
    assert [bits % 2**32 for bits in out[5].tolist()] == [bits for bits, warp in zip(ballots, warps, strict=True) for _ in warp]


def test_lanes_of_a_part_of_a_warp_exchange_among_themselves(program: Make) -> None:
    """Odd lanes take one branch with their mask, even lanes the other."""
    text = f"""
        {HEAD} parts(int* out) {{
            int lane = threadIdx.x;
            if (lane % 2) out[lane] = __shfl_xor_sync(0xaaaaaaaau, lane, 2);
            else out[lane] = __shfl_xor_sync(0x55555555u, lane, 4);
            __syncwarp();
        }}"""
    out = torch.zeros(32, dtype=torch.int32)
    program(text).launch("parts", 1, 32, [out])
    assert out.tolist() == [lane ^ (2 if lane % 2 else 4) for lane in range(32)]


def test_barriers_count_and_vote_and_atomics_add_up(program: Make) -> None:
    text = f"""
        {HEAD} block(const float* x, int* out, float* sum, unsigned long long* large) {{
            __shared__ int most;
            if (threadIdx.x == 0) most = -1000;
            __syncthreads();
            atomicMax(&most, (int)x[threadIdx.x]);
            int count = __syncthreads_count(x[threadIdx.x] > 0), all = __syncthreads_and(x[threadIdx.x] > -60);
            int any = __syncthreads_or(x[threadIdx.x] > 60);
            if (threadIdx.x == 0) {{ out[0] = most; out[1] = count; out[2] = all; out[3] = any; }}
            atomicAdd(sum, x[threadIdx.x]);
            atomicAdd(large, 1ull << 40);
        }}"""
    x, out, total, large = numbers(100), torch.zeros(4, dtype=torch.int32), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    program(text).launch("block", 1, 100, [x, out, total, large])
    assert out.tolist() == [int(x.max()), int((x > 0).sum()), 1, 0]
    assert float(total) == float(x.sum()) and int(large) == 100 << 40


def test_vectors_constants_and_options(program: Make) -> None:
    text = f"""
        __constant__ float weights[4] = {{1.0f, 10.0f, 100.0f, 1000.0f}};
        template <int N> __device__ __forceinline__ float dot(const float4& v) {{
            float sum = 0.0f;
            const float* p = &v.x;
            #pragma unroll
            for (int i = 0; i < N; i++) sum += p[i] * weights[i];
            return sum;
        }}
        {HEAD} vectors(const float4* __restrict__ v, float2* out, double2* precise, float factor) {{
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            out[i] = make_float2(dot<WIDTH>(v[i]) * factor, fmaxf(fminf(v[i].x, 1.0f), 0.5f));
            precise[i] = make_double2(max(1, 2), rsqrtf(4.0f));
        }}"""
    v, out, precise = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.empty(2, 2), torch.empty(2, 2, dtype=torch.float64)
    program(text, options=("-DWIDTH=3", "--fmad=false")).launch("vectors", 2, 1, [v, out, precise, 2.0])
    assert out.tolist() == [[642.0, 1.0], [1530.0, 1.0]] and precise.tolist() == [[2.0, 0.5]] * 2


def test_threads_and_blocks_run_in_an_order_of_the_seed(program: Make) -> None:
    text = f"{HEAD} order(int* next, int* out) {{ out[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x; }}"

    def orders(seed: int) -> list[list[int]]:
        runs, made = program(text, seed), []
        for _ in range(2):
            out = torch.empty(4 * 64, dtype=torch.int32)
            runs.launch("order", 4, 64, [torch.zeros(1, dtype=torch.int32), out])
            made.append(out.tolist())
        return made

    first, again, other = orders(1), orders(1), orders(2)
    assert first == again and first[0] != first[1] and first[0] != other[0]
    assert all(sorted(order) == list(range(256)) for order in (*first, *other))
    places = torch.stack([torch.argsort(torch.tensor(order)) for seed in range(50) for order in orders(seed)]).float()
    assert float((places.mean(0) / 255 - 0.5).abs().max()) < 0.15  # no thread runs early or late as a rule


def test_views_of_one_tensor_are_one_memory_where_they_overlap(program: Make) -> None:
    text = (
        f"{HEAD} twice(const float* x, float* y, float* z) {{ y[threadIdx.x] = x[threadIdx.x] + 1.0f; z[threadIdx.x] += y[threadIdx.x]; }}"
    )
    whole = torch.arange(9.0)
    program(text).launch("twice", 1, 3, [whole[:3], whole[3:6], whole[3:6]])
    assert whole.tolist() == [0, 1, 2, 2, 4, 6, 6, 7, 8]


def test_fresh_memory_can_be_made_to_show(program: Make) -> None:
    with fresh_memory_is_nan():
        made, counted = torch.empty(1000), torch.empty(1000, dtype=torch.int32)
        like = torch.empty_like(made)
    assert bool(made.isnan().all()) and bool(like.isnan().all()) and bool((counted == 2**31 - 1).all())
    assert not torch.are_deterministic_algorithms_enabled()


# ---- faults of kernels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barrier", [0, 1])
def test_a_missing_barrier_shows(program: Make, barrier: int) -> None:
    x = numbers(1000)

    def run(text: str, seed: int) -> Tensor:
        y = torch.zeros(2)
        program(text, seed).launch("total", 2, 256, [x, 1000, y])
        return y

    parts = TOTAL.split("__syncthreads();")
    assert len(parts) == 3
    broken = parts[0] + ("" if barrier == 0 else "__syncthreads();") + parts[1] + ("" if barrier == 1 else "__syncthreads();") + parts[2]
    expected = run(TOTAL, 1)
    assert not differs_or_fails(lambda seed: run(TOTAL, seed), expected)
    assert differs_or_fails(lambda seed: run(broken, seed), expected)


def test_a_warp_far_ahead_of_the_others_shows(program: Make) -> None:
    """A barrier is missing at the end of a loop whose turns have exchanges: one warp may be in the next turn already."""
    text = f"""
        {HEAD} turns(const float* x, float* out) {{
            __shared__ float batch[64];
            float sum = 0.0f;
            for (int turn = 0; turn < 3; turn++) {{
                batch[threadIdx.x] = x[turn * 64 + threadIdx.x];
                __syncthreads();
                for (int i = 0; i < 64; i++) sum += __any_sync(0xffffffffu, batch[i] > 0.0f) ? batch[i] : 0.0f;
                __syncthreads();  // missing
            }}
            out[threadIdx.x] = sum;
        }}"""
    x = numbers(192)

    def run(text: str, seed: int) -> Tensor:
        out = torch.zeros(64)
        program(text, seed).launch("turns", 1, 64, [x, out])
        return out

    expected = x.clamp(min=0).sum().expand(64)
    assert not differs_or_fails(lambda seed: run(text, seed), expected)
    assert differs_or_fails(lambda seed: run(text.replace("__syncthreads();  // missing", ""), seed), expected)


FAULTS = {  # what the third line of the text is, and what is said of it
    "a barrier in a branch": (
        "if (threadIdx.x < 7) __syncthreads();",
        r"thread 0: waits at __syncthreads in line 3 for thread 7, which has ended; threads missing there: 57",
    ),
    "two barriers in two branches": (
        "if (threadIdx.x < 7) __syncthreads();\n else __syncthreads();",
        r"thread 0: waits at __syncthreads in line 3 for thread 7, which waits at __syncthreads in line 4",
    ),
    "a return before a barrier": ("if (threadIdx.x == 9) return; __syncthreads();", r"line 3 for thread 9, which has ended"),
    "an exchange in a branch": (
        "if (threadIdx.x % 3) x[0] = __shfl_xor_sync(0xffffffffu, x[1], 1);",
        r"thread 1: waits at a shuffle in line 3 for thread 0, which has ended; threads missing there: 11",
    ),
    "a vote without one lane": (
        "if (threadIdx.x != 40) __any_sync(0xffffffffu, true); __syncthreads();",
        r"thread 32: waits at a vote in line 3 for thread 40, which waits at __syncthreads",
    ),
    "a mask without the own lane": (
        "__shfl_sync(0xfffffffeu, 1, 1);",
        r"thread (0|32): a shuffle in line 3 has a mask, fffffffe, without the lane itself",
    ),
    "a shared array one too small": (
        "__shared__ float s[63]; s[threadIdx.x] = 1.0f; x[threadIdx.x] = s[threadIdx.x];",
        r"thread 63: index 63 is outside of 'float \[63\]' in line 3",
    ),
    "a local array, before its begin": (
        "float a[4] = {0}; a[(int)x[0] - 1] = 1.0f; x[threadIdx.x] = a[0];",
        r"index -1 is outside of 'float \[4\]' in line 3",
    ),
    "a shared array by its address": (
        "__shared__ float s[60]; float* p = s; p[threadIdx.x] = 1.0f; x[0] = p[5];",
        r"'float' outside of its variable in line 3",
    ),
    "a far address": ("x[threadIdx.x + 1000000] = 1.0f;", r"reads or writes .* where there is no memory"),
    "a wild address": ("x[(long long)1e15 + threadIdx.x] = 1.0f;", r"reads or writes .* where there is no memory"),
    "numbers that are not aligned": (
        "*(float4*)(x + 1 + threadIdx.x) = make_float4(0, 0, 0, 0);",
        r"'struct float4' at an address that is no multiple of 16 bytes in line 3",
    ),
    "a division by zero": ("x[0] = 7 / (int)x[threadIdx.x];", r"divides an integer by zero"),
    "endless recursion": ("x[0] = deep((int)x[0]);", r"overruns its stack"),
}


def as_line_3(kernels: list[str]) -> str:
    """A text of these kernels, each in a third line, so that one build serves them all."""
    return "".join(f'#line 2 "text.cu"\n\n{kernel}\n' for kernel in kernels)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_kernel_fails_with_words_and_the_next_runs(program: Make, fault: str) -> None:
    deep = "__device__ __noinline__ int deep(int n) { volatile int here[64] = {n}; return here[0] < 0 ? 0 : deep(n + 1) + here[n % 64]; }"
    right = f"{HEAD} right(float* x) {{ __syncthreads(); x[threadIdx.x] = threadIdx.x; }}"
    faulty = [f"{HEAD} faulty_{i}(float* x) {{ {body} }}" for i, (body, _) in enumerate(FAULTS.values())]
    made, name, message = program(as_line_3([deep, *faulty, right])), f"faulty_{list(FAULTS).index(fault)}", FAULTS[fault][1]
    x = torch.zeros(64)
    with pytest.raises(DriverError) as caught:
        made.launch(name, 1, 64, [x])
    assert re.search(rf"kernel {name}, block 0, thread \d+: ", str(caught.value)) and re.search(message, str(caught.value)), str(
        caught.value
    )
    assert not x.any()
    made.launch("right", 1, 64, [x])
    assert torch.equal(x, torch.arange(64.0))


WRITES = {
    "one past the end": ("x[threadIdx.x + 1] = 0.0f;", "wrote beyond the tensor of 256 bytes, 0 after its end"),
    "one before the begin": ("x[(int)threadIdx.x - 1] = 0.0f;", "wrote beyond the tensor of 256 bytes, 4 before its begin"),
    "an addition past the end": ("x[threadIdx.x + 64] += 1.0f;", "wrote beyond the tensor of 256 bytes, 0 after its end"),
    "a few rows too far": ("x[threadIdx.x + 5 * 64] = 0.0f;", "wrote beyond the tensor of 256 bytes, 1024 after its end"),
    "into a constant": ("((float*)c)[5] = 2.0f;", "argument 0: the kernel wrote into what it declares const, at byte 20 of 32"),
}


@pytest.mark.parametrize("fault", WRITES)
def test_writing_where_nothing_may_be_written_is_an_error(program: Make, fault: str) -> None:
    kernels = [f"{HEAD} writes_{i}(const float* c, float* x) {{ {body} }}" for i, (body, _) in enumerate(WRITES.values())]
    c, around = torch.zeros(8), torch.zeros(3, 64)
    with pytest.raises(MarginError, match=WRITES[fault][1]):
        program("\n".join(kernels)).launch(f"writes_{list(WRITES).index(fault)}", 1, 64, [c, around[1]])
    assert not c.any() and not around.any()


def test_reading_past_the_end_gives_nan_even_where_another_view_lies(program: Make) -> None:
    x, y, i, j = torch.ones(8), torch.zeros(4), torch.ones(8, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    text = (
        f"{HEAD} reads(const float* x, float* y, const int* i, int* j) {{ int t = threadIdx.x; y[t] = 2.0f * x[t + 1]; j[t] = i[t - 1]; }}"
    )
    program(text).launch("reads", 1, 4, [x[:4], y, i[4:], j])
    assert y[:3].tolist() == [2.0, 2.0, 2.0] and bool(y[3].isnan()) and j.tolist() == [-1, 1, 1, 1]


def test_shared_memory_is_new_for_each_block(program: Make) -> None:
    text = f"{HEAD} stale(float* x) {{ __shared__ float s; x[blockIdx.x] = s; __syncthreads(); s = 1.0f; }}"
    x = torch.zeros(3)
    program(text).launch("stale", 3, 1, [x])
    assert bool((x.isnan() | (x > 1e38)).all())


def test_what_a_lane_gives_that_is_not_there_is_nan(program: Make) -> None:
    x = torch.zeros(32)
    program(f"{HEAD} half(float* x) {{ x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 8); }}").launch("half", 1, 8, [x])
    assert bool(x[:8].isnan().all())


def test_local_memory_that_nobody_wrote_is_not_zero(program: Make) -> None:
    if "-ftrivial-auto-var-init=pattern" not in cuda_emulator.compiler().wishes:
        pytest.skip("this compiler cannot fill local variables")
    x = torch.zeros(4)
    text = f"{HEAD} sums(float* x) {{ float s[4]; for (int i = 0; i < 4; i++) s[i] += i; x[threadIdx.x] = s[threadIdx.x]; }}"
    program(text).launch("sums", 1, 4, [x])
    assert bool((x.abs() > 1e9).all())


# ---- faults of launches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD} broken(float* x) {{ x[0] = y; }}", r"(?s)text.cu does not compile.*text.cu:1:54: "),
        (
            f"{HEAD} large(float* x) {{ __shared__ float s[12 * 1024 + 1]; s[threadIdx.x] = *x; }}",
            r"kernel large has 49,156 bytes .* 49,152",
        ),
        ("__device__ void f(int i) { __shared__ double s[6145]; s[i] = 1.0; }" + f"{HEAD} g(int i) {{ f(i); }}", r"kernel g has 49,160"),
    ],
)
def test_texts_that_no_card_takes_are_refused(program: Make, text: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        program(text)


def test_each_kernel_has_its_own_shared_memory(program: Make) -> None:
    text = "".join(f"{HEAD} k{i}(float* x) {{ __shared__ float s[10000]; s[threadIdx.x] = *x; *x = s[threadIdx.x]; }}" for i in range(3))
    x = torch.full((1,), 7.0)
    program(text).launch("k2", 1, 1, [x])
    assert float(x) == 7.0


REFUSED: dict[str, tuple[str, int, list[Any], type[Exception], str]] = {
    "an unknown kernel": ("sum", 256, ["x", 8, "y"], DriverError, r"not found \(500\)"),
    "a kernel without extern C": ("hidden", 256, ["x"], DriverError, r"not found \(500\)"),
    "no threads": ("total", 0, ["x", 8, "y"], DriverError, r"invalid argument \(1\)"),
    "more threads than its bounds": ("total", 257, ["x", 8, "y"], DriverError, r"invalid argument \(1\)"),
    "too many threads": ("unbounded", 1025, ["y"], DriverError, r"invalid argument \(1\)"),
    "one argument less": ("total", 256, ["x", 8], EmulatorError, "takes 3 arguments, not 2"),
    "a float for an int": (
        "total",
        256,
        ["x", 8.0, "y"],
        EmulatorError,
        "argument 1: .* takes a number of type i4, not a number of type f4",
    ),
    "a tensor of doubles": ("total", 256, ["doubles", 8, "y"], EmulatorError, "argument 0: .*tensor of type f4, not a tensor of type f8"),
    "a tensor for an int": ("total", 256, ["x", "x", "y"], EmulatorError, "argument 1: .* takes a number of type i4, not a tensor"),
    "a tensor of another device": ("total", 256, ["meta", 8, "y"], EmulatorError, "argument 0: .*not of meta"),
    "strides": ("total", 256, ["turned", 8, "y"], ValueError, "contiguous"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_launches_that_are_wrong_are_refused(tmp_path: Path, fault: str) -> None:
    kernel, threads, arguments, error, message = REFUSED[fault]
    x = numbers(8)
    tensors = {"x": x, "y": torch.zeros(1), "doubles": x.double(), "meta": x.to("meta"), "turned": x.view(2, 4).T}
    (tmp_path / "text.cu").write_text(f"{TOTAL} __global__ void hidden(float* x) {{}} {HEAD} unbounded(float* x) {{}}")
    card = EmulatedCard()
    with pytest.raises(error, match=message):
        card.program(tmp_path / "text.cu").launch(kernel, 1, threads, [tensors[a] if isinstance(a, str) else a for a in arguments])
    assert len(card.faults) == 1 and re.search(message, card.faults[0])


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_emulator.shutil, "which", lambda name: None)
    cuda_emulator.compiler.cache_clear()
    try:
        assert "apt-get install g++" in cuda_emulator.unavailable()
    finally:
        cuda_emulator.compiler.cache_clear()


@pytest.mark.parametrize(
    ("here", "root", "fails", "asked"),
    [("g++", True, False, False), ("apt-get", True, False, True), ("apt-get", True, True, True), ("apt-get", False, False, False)],
)
def test_dev_py_installs_a_compiler_where_it_can(
    here: str, root: bool, fails: bool, asked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("lathe_dev", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    commands: list[list[str]] = []

    def run(command: list[str], hint: str) -> None:
        commands.append(command)
        if fails:
            raise dev.SetupError(hint)

    monkeypatch.setattr(dev.shutil, "which", lambda name: name if name == here else None)
    monkeypatch.setattr(dev.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(dev, "run_logged", run)
    dev.get_cpp_compiler()
    assert bool(commands) == asked and (fails or not asked or commands[-1][-1] == "g++")
    missing = here != "g++" and (fails or not asked)
    assert ("install g++ to run them" in capsys.readouterr().out) == missing
