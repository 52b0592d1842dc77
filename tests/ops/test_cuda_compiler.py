"""NVRTC: where it is looked for, what it is asked for, and that every shipped text compiles for every architecture. No GPU is needed."""

import importlib.metadata
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_emulator
import pytest
from lathe.pipelines.ops.cuda import nvrtc
from lathe_root import ROOT

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="tests/requirements.txt brings NVRTC on Linux only")

TEXTS = sorted((ROOT / "pipelines").rglob("*.cu"))
CASES = [(file, features) for file in TEXTS for features in ((3, 12) if "FEATURES" in file.read_text(encoding="utf-8") else (0,))]
ARCHITECTURES = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)
DOUBLED = 'extern "C" __global__ void doubled(float* x) { x[threadIdx.x] *= 2.0f; }'


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The compiler is looked for anew."""
    nvrtc.compiler.cache_clear()
    yield
    nvrtc.compiler.cache_clear()


def wheel() -> Path:
    """The NVRTC of pip's wheel."""
    (found,) = [file for file in importlib.metadata.files("nvidia-cuda-nvrtc") or [] if file.name == "libnvrtc.so.13"]
    return Path(str(found.locate())).resolve()


# ---- the shipped texts -----------------------------------------------------------------------------------------------


class Cubin:
    """What a cubin, which is an ELF file, says of its kernels."""

    def __init__(self, image: bytes) -> None:
        assert image[:4] == b"\x7fELF"
        self.image = image
        (table,) = struct.unpack_from("<Q", image, 40)
        size, count, names = struct.unpack_from("<HHH", image, 58)
        heads = [struct.unpack_from("<IIQQQQIIQQ", image, table + i * size) for i in range(count)]
        self.sections = {self._string(heads[names][4] + head[0]): (head[4], head[5]) for head in heads}

    def _string(self, at: int) -> str:
        return self.image[at : self.image.index(b"\0", at)].decode()

    def shared_bytes(self, kernel: str) -> int:
        """Static shared memory; from sm_90 on with 1 KiB that the driver takes."""
        return self.sections.get(f".nv.shared.{kernel}", (0, 0))[1]

    def frame_bytes(self) -> dict[str, int]:
        """Local memory of each function: arrays and spilled registers."""
        EIATTR_FRAME_SIZE, SIZED = 0x11, 4
        at, size = self.sections[".nv.info"]
        end, frames = at + size, {}
        while at < end:
            kind, attribute, length = struct.unpack_from("<BBH", self.image, at)
            if kind == SIZED and attribute == EIATTR_FRAME_SIZE:
                symbol, frame = struct.unpack_from("<II", self.image, at + 4)
                (name,) = struct.unpack_from("<I", self.image, self.sections[".symtab"][0] + 24 * symbol)
                frames[self._string(self.sections[".strtab"][0] + name)] = frame
            at += 4 + (length if kind == SIZED else 0)
        return frames


@on_linux
@pytest.mark.parametrize(("file", "features"), CASES, ids=lambda value: value.stem if isinstance(value, Path) else str(value))
def test_every_text_compiles_for_every_architecture(file: Path, features: int) -> None:
    """And needs no local memory, which is slow."""
    text, compiler = file.read_text(encoding="utf-8"), nvrtc.opened(str(wheel()))
    assert compiler.architectures == ARCHITECTURES and compiler.version == (13, 0)
    for architecture in ARCHITECTURES:
        made = Cubin(compiler.compile(text, file.name, f"sm_{architecture}", (f"-DFEATURES={features}",)))
        frames = made.frame_bytes()
        assert set(cuda_emulator.kernels_of(text)) <= set(frames) and not any(frames.values()), f"sm_{architecture}: {frames}"


@on_linux
def test_the_widest_kernels_fit_the_oldest_and_the_newest_card() -> None:
    """64 features: shared memory is cut to what a block has, and the emulator counts it as the compiler does."""
    (file,) = [file for file in TEXTS if file.name == "cuda_blending.cu"]
    text, options = file.read_text(encoding="utf-8"), ("-DFEATURES=64",)
    compiler, kernels = nvrtc.opened(str(wheel())), list(cuda_emulator.kernels_of(text))
    cubins = [Cubin(compiler.compile(text, file.name, f"sm_{architecture}", options)) for architecture in (75, 121)]
    shared = {kernel: cubins[0].shared_bytes(kernel) for kernel in kernels}
    assert 40_000 < max(shared.values()) <= cuda_emulator.SHARED_MAX
    assert all(cubins[1].shared_bytes(kernel) == shared[kernel] + 1024 for kernel in kernels)
    if not cuda_emulator.unavailable():
        library = cuda_emulator.build(text, file.name, options)
        counted = cuda_emulator.shared_bytes(Path(library._name), kernels)  # without gaps between variables
        assert all(0 <= shared[kernel] - counted[kernel] < 16 for kernel in kernels)


# ---- compiling -------------------------------------------------------------------------------------------------------


class Counted:
    """A library that counts programs made and destroyed."""

    def __init__(self, library: Any) -> None:
        self.library, self.calls = library, []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.library, name)


@on_linux
def test_a_text_that_does_not_compile_gives_the_compilers_words_and_leaves_nothing() -> None:
    good = nvrtc.opened(str(wheel()))
    counted = Counted(good.library)
    compiler = nvrtc.Compiler(counted, good.path, good.version, good.architectures)  # type: ignore[arg-type]
    with pytest.raises(nvrtc.CompilerError, match=r"(?s)could not compile bad.cu for sm_75: bad.cu\(2\): error: .*\"y\" is undefined"):
        compiler.compile('extern "C" __global__ void bad(float* x)\n{ x[0] = y; }', "bad.cu", "sm_75")
    with pytest.raises(nvrtc.CompilerError, match=r"could not compile doubled.cu for sm_76: .*invalid value for --gpu-architecture"):
        compiler.compile(DOUBLED, "doubled.cu", "sm_76")
    assert compiler.compile(DOUBLED, "doubled.cu", "sm_75")[:4] == b"\x7fELF"
    assert counted.calls.count("nvrtcCreateProgram") == counted.calls.count("nvrtcDestroyProgram") == 3


@on_linux
def test_options_and_ptx() -> None:
    compiler = nvrtc.opened(str(wheel()))
    ptx = compiler.compile(DOUBLED.replace("2.0f", "BY"), "doubled.cu", "compute_90", ("-DBY=1024.0f",)).decode()
    assert ".target sm_90" in ptx and ".entry doubled" in ptx and "0f44800000" in ptx


@pytest.mark.parametrize(
    ("capability", "target"),
    [((8, 6), "sm_86"), ((7, 5), "sm_75"), ((8, 7), "compute_86"), ((12, 1), "compute_120"), ((13, 0), "compute_120")],
)
def test_machine_code_for_cards_that_are_known_ptx_for_newer_ones(capability: tuple[int, int], target: str) -> None:
    assert nvrtc.Compiler(None, "", (12, 9), (75, 80, 86, 89, 90, 120)).target(capability) == target  # type: ignore[arg-type]


def test_cards_that_are_too_old_are_refused_in_words() -> None:
    with pytest.raises(nvrtc.CompilerError, match=r"NVRTC 13.0 compiles for compute capability 7.5 and newer, this card has 6.1"):
        nvrtc.Compiler(None, "", (13, 0), (75, 80)).target((6, 1))  # type: ignore[arg-type]


# ---- finding ---------------------------------------------------------------------------------------------------------

BUILTINS = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import lathe_root
from lathe.pipelines.ops.cuda import nvrtc
plain = nvrtc.Compiler(ctypes.CDLL(sys.argv[2]), sys.argv[2], (13, 0), (75,))
plain.library.nvrtcGetErrorString.restype = ctypes.c_char_p
try:
    plain.compile(nvrtc.TRIAL, "trial.cu", "sm_75")
    print("plain: compiled")
except nvrtc.CompilerError as error:
    print("plain:", " ".join(str(error).split()))
print("opened:", nvrtc.opened(sys.argv[2]).version)
"""


@on_linux
def test_the_wheel_whose_builtins_are_not_found_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-cuda-nvrtc 13.0.88 says nowhere where its builtins lie; in a process of its own, for here they may be loaded already."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    command = [sys.executable, "-c", BUILTINS, str(ROOT / "support"), str(wheel())]
    plain, opened = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "failed to open libnvrtc-builtins" in plain and opened == "opened: (13, 0)"


@on_linux
def test_without_a_cuda_build_of_pytorch_the_wheel_is_found() -> None:
    """Here PyTorch may be a CPU build; a CUDA build's own NVRTC comes first."""
    found = nvrtc.compiler()
    assert Path(found.path).is_absolute() and str(wheel()) in nvrtc.candidates()
    assert nvrtc.torch.version.cuda or Path(found.path) == wheel()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty site-packages, the only place to look."""
    find = importlib.util.find_spec
    nvidia = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr(nvrtc.torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(nvrtc.torch.version, "cuda", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: nvidia if name == "nvidia" else find(name, *rest))
    monkeypatch.setattr(nvrtc, "_loaded", lambda: iter(()))
    return tmp_path


def put(site: Path, *names: str) -> list[str]:
    """Files that are called like libraries and are none."""
    for name in names:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("not a library")
    return [str(site / name) for name in names]


@on_linux
def test_a_broken_compiler_is_passed_over(site: Path) -> None:
    broken = put(site, "torch/lib/libnvrtc.so.13", "torch/lib/libnvrtc.alt.so.13")
    folder = site / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    for file in wheel().parent.glob("libnvrtc*"):
        (folder / file.name).symlink_to(file)
    assert nvrtc.candidates() == [broken[0], str(folder / "libnvrtc.so.13")]
    assert nvrtc.compiler().path == str(folder / "libnvrtc.so.13")


def test_without_any_compiler_the_message_says_what_was_tried(site: Path) -> None:
    with pytest.raises(nvrtc.CompilerError, match=r"No NVRTC compiles here. None was found."):
        nvrtc.compiler()
    name = "nvrtc64_130_0.dll" if sys.platform == "win32" else "libnvrtc.so.13"
    (broken,) = put(site, f"torch/lib/{name}")
    with pytest.raises(nvrtc.CompilerError) as caught:
        nvrtc.compiler()
    assert f"Tried: {broken}: " in str(caught.value)


@on_linux
def test_the_version_that_pytorch_was_built_with_comes_first(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thirteen, twelve = put(site, "nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    monkeypatch.setattr(nvrtc.torch.version, "cuda", "12.8")
    assert nvrtc.candidates() == [twelve, thirteen, "libnvrtc.so.12"]
    monkeypatch.setattr(nvrtc.torch.version, "cuda", "13.0")
    assert nvrtc.candidates() == [thirteen, twelve, "libnvrtc.so.13"]


@pytest.fixture
def on_windows(site: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as Windows sees it: only names of files, for nothing can be loaded here."""
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("nvrtc_on_windows", nvrtc.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_names_on_windows(site: Path, on_windows: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVIDIA's and PyTorch's Windows wheels name them: builtins and .alt libraries are no compilers."""
    in_torch = put(site, "torch/lib/nvrtc64_130_0.dll", "torch/lib/nvrtc-builtins64_130.dll", "torch/lib/nvrtc64_130_0.alt.dll")
    in_wheels = put(
        site,
        "nvidia/cu13/bin/x86_64/nvrtc64_130_0.dll",
        "nvidia/cuda_nvrtc/bin/nvrtc64_120_0.dll",
        "nvidia/cuda_nvrtc/bin/nvrtc64_120_0.alt.dll",
        "nvidia/cuda_nvrtc/bin/nvrtc-builtins64_129.dll",
    )
    assert on_windows.candidates() == [in_torch[0], in_wheels[0], in_wheels[1]]
    monkeypatch.setattr(on_windows.torch.version, "cuda", "12.9")
    assert on_windows.candidates() == [in_wheels[1], in_torch[0], in_wheels[0], "nvrtc64_120_0.dll"]
    matched = [name for name in (*in_torch, *in_wheels) if fnmatch(Path(name).name, on_windows.BUILTINS)]
    assert matched == [in_torch[1], in_wheels[3]]
