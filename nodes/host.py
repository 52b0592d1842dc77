"""What ComfyUI lends to a stage: device, memory, precision, attention, progress, cancel, and folders for files.

Pipelines get these as plain arguments; they never import this module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ..pipelines.data.progress import Tick
from ..pipelines.nets.attention import Attention

MODEL_FOLDER = "lathe"
MINI = "mini (bundled)"
EXAMPLES = Path(__file__).resolve().parents[1] / "example_workflows" / "inputs"
PREVIEW_SECONDS = 0.5
PREVIEW_PIXELS = 512

Net = TypeVar("Net")

# ---- device, precision, attention ------------------------------------------------------------------------------------


def device() -> torch.device:
    """Where ComfyUI computes."""
    return mm.get_torch_device()


def compute_dtype(*allowed: torch.dtype) -> torch.dtype:
    """The precision ComfyUI would use here (its flags included) among `allowed`, in order of preference; else float32."""
    choice = mm.unet_dtype(device=device(), supported_dtypes=[*allowed, torch.float32])
    return choice if choice in allowed else torch.float32


def attention() -> Attention | None:
    """ComfyUI's chosen attention as a function of (B, heads, L, D) tensors; None where PyTorch's own serves as well.

    On the CPU core falls back to a sub-quadratic loop that is slower than PyTorch's kernel at our lengths.
    """
    if mm.is_device_cpu(device()) or mm.pytorch_attention_enabled():
        return None
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(q, k, v, heads=q.shape[1], skip_reshape=True, skip_output_reshape=True)

    return attend


MAIN_MEMORY = torch.device("cpu")


def free_memory(need: int, where: torch.device | None = None) -> None:
    """Asks ComfyUI to unload models until `need` bytes are free where it computes, or on another device."""
    mm.free_memory(need, where or device())


def memory_left(where: torch.device | None = None) -> int:
    """Bytes that are free where ComfyUI computes, or on another device."""
    return int(mm.get_free_memory(where or device()))


class NotEnoughMemory(ValueError):
    """Something takes more memory than there is."""


def make_room(need: int, what: str, remedy: str, where: torch.device | None = None) -> None:
    """Asks ComfyUI for the memory that `what` will take, before it starts.

    Args:
        where: the device whose memory it is; None is where ComfyUI computes, `MAIN_MEMORY` for what always runs on the CPU.

    Raises:
        NotEnoughMemory: there is not so much; the message ends with the remedy.
    """
    free_memory(need, where)
    free = memory_left(where)
    if need > free:
        raise NotEnoughMemory(f"{what} takes about {need / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. {remedy}")


# ---- networks --------------------------------------------------------------------------------------------------------


def _same_device(a: torch.device, b: torch.device) -> bool:
    return a.type == b.type and (a.index or 0) == (b.index or 0)


class _Holder(nn.Module):
    """Stands between core's patcher, which writes attributes into its module, and networks that forbid some of them."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


class LoadedNet(Generic[Net]):
    """A loaded network under ComfyUI's memory management; what a loader node hands on.

    Args:
        build: makes the network in the precision it shall run in, on the CPU. Called once, outside inference mode.
        parts: the modules of a network that is not a module itself; by default the network is the module.
    """

    def __init__(self, build: Callable[[], Net], parts: Callable[[Net], list[nn.Module]] | None = None) -> None:
        with torch.inference_mode(False):
            self._net = build()
            modules = parts(self._net) if parts is not None else [self._net]
            self._module = _Holder(modules).eval().requires_grad_(False)  # type: ignore[arg-type]
        # Core keeps only a weak reference to the patcher: both live here, as long as each other.
        self.patcher = comfy.model_patcher.ModelPatcher(self._module, load_device=device(), offload_device=mm.unet_offload_device())

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self._module.parameters()).dtype

    @contextmanager
    def use(self, memory_required: int = 0) -> Iterator[Net]:
        """The network on its device, with `memory_required` bytes kept free for its activations.

        Core leaves a module behind without a word under --novram; plain layers cannot run split, so it is moved whole then, and back
        again afterwards.
        """
        mm.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)
        target = self.patcher.load_device
        tensors = [*self._module.parameters(), *self._module.buffers()]
        left_behind = not all(_same_device(t.device, target) for t in tensors)
        try:
            if left_behind:
                self._module.to(target)
            yield self._net
        finally:
            if left_behind:
                self._module.to(self.patcher.offload_device)
                mm.soft_empty_cache()


# ---- gradients -------------------------------------------------------------------------------------------------------


@contextmanager
def differentiable() -> Iterator[None]:
    """Leaves the inference mode nodes run under and turns gradients on.

    Tensors from sockets stay inference tensors: clone each one that enters the graph, and `heal` networks that are differentiated.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _poisoned(tensor: Tensor) -> bool:
    if tensor.is_inference():
        return True
    try:
        return tensor._version < 0
    except RuntimeError:  # moved outside inference mode after it was made inside
        return True


def heal(module: nn.Module) -> None:
    """Replaces parameters and buffers that core's loading turned into inference tensors. Call it inside `differentiable`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and _poisoned(parameter):
                part._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and _poisoned(buffer):
                part._buffers[name] = buffer.detach().clone()


# ---- progress and cancel ---------------------------------------------------------------------------------------------


def _picture(image: Tensor) -> Any:
    """(H, W, 3) in [0, 1] -> a PIL image no larger than PREVIEW_PIXELS."""
    from PIL import Image

    pixels = (image.detach().to("cpu", torch.float32).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    return picture


def check_cancelled() -> None:
    """Raises ComfyUI's interrupt if the user pressed Cancel; never catch it."""
    mm.throw_exception_if_processing_interrupted()


@contextmanager
def keeps_result_on_cancel() -> Iterator[None]:
    """For the loop of a node that can return its last good state: Cancel leaves the loop, and still ends the prompt.

    The interrupt is set again, so ComfyUI stops before the next node; the state that this node then returns stays in its cache, and
    queueing once more goes on from there.
    """
    try:
        yield
    except mm.InterruptProcessingException:
        mm.interrupt_current_processing(True)


def tick_for(node: Any) -> Tick:
    """The tick of a running node (pass `cls`): a progress bar, a JPEG preview each half second, and cancel."""
    bar = comfy.utils.ProgressBar(1, node_id=node.hidden.unique_id)
    shown = 0.0

    def tick(step: int, total: int, preview: Tensor | None = None) -> None:
        nonlocal shown
        check_cancelled()
        now = time.monotonic()
        frame = None
        if preview is not None and (now - shown >= PREVIEW_SECONDS or step >= total):
            frame, shown = ("JPEG", _picture(preview), None), now
        bar.update_absolute(step, total, frame)

    return tick


# ---- folders ---------------------------------------------------------------------------------------------------------


def register_model_folder() -> None:
    """Makes models/lathe known beside the folders that extra_model_paths.yaml may name for `lathe`."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))


def model_folders() -> list[Path]:
    """The folders that may hold Lathe's weights; the first is where downloads go."""
    return [Path(p) for p in folder_paths.get_folder_paths(MODEL_FOLDER)]


def model_files(*suffixes: str) -> list[str]:
    """Names, relative to the model folders, of the files with one of these suffixes (".safetensors", ".ckpt", ...)."""
    return [name for name in folder_paths.get_filename_list(MODEL_FOLDER) if name.endswith(suffixes)]


def model_path(name: str) -> Path:
    """The file or folder of this name in the model folders.

    Raises:
        ValueError: the name leads out of the model folders, or nothing is there.
    """
    for folder in model_folders():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{name!r} leads out of the model folder {folder}.")
        if path.exists():
            return path
    places = ", ".join(str(f) for f in model_folders())
    raise ValueError(f"There is no {name!r} in {places}; put it there, or choose another in the loader.")


def weight_choices(stage: str, *suffixes: str, folders: bool = False) -> list[str]:
    """What a loader offers: the bundled mini model, the catalogue's models of this stage, then what else lies in the model folders.

    Catalogue names are offered whether their files are there or not: the loader says what is missing when it runs.
    """
    from ..pipelines.weights import catalog

    rows = [row for row in catalog.entries() if row.stage == stage]
    known = {row.path for row in catalog.entries()}
    if folders:
        parts = [folder.glob("*/unet/config.json") for folder in _diffusers_folders()]
        own = sorted({found.parent.parent.name for part in parts for found in part})
    else:
        own = model_files(*suffixes)
    return [MINI, *(row.name for row in rows), *(name for name in own if name not in known)]


def catalogue_name(stage: str, choice: str) -> str | None:
    """The loader's choice where it is a row of the catalogue, None where it is a file of the user's."""
    from ..pipelines.weights import catalog

    return choice if any(row.name == choice and row.stage == stage for row in catalog.entries()) else None


def weights_path(stage: str, choice: str, download: bool, tick: Tick) -> Path:
    """The file or folder a loader's choice names; fetched where the user asked for that.

    Raises:
        ValueError: it is not there; the message says where to get it, where to put it and what its licence asks.
    """
    from ..pipelines.weights import catalog

    if catalogue_name(stage, choice) is None:
        for folder in _diffusers_folders():
            if (folder / choice / "unet" / "config.json").is_file() and (folder / choice).parent == folder:
                return folder / choice
        return model_path(choice)
    row = catalog.entry(choice)
    found = catalog.locate(row, _diffusers_folders())
    if found is not None:
        return found
    place = model_folders()[0]
    if not download:
        raise ValueError(
            f"{row.title} is not on this machine. Turn on `download` in the loader, or fetch it from {row.page} and put it at "
            f"{place / row.path}. Licence: {row.licence}. {row.licence_note}".strip()
        )
    from ..pipelines.weights.download import download as fetch

    return fetch(row, place, tick=tick)


def _diffusers_folders() -> list[Path]:
    """Where folders in diffusers' layout may lie: our own model folders, then core's."""
    return model_folders() + [Path(p) for p in folder_paths.get_folder_paths("diffusers")]


def precision(choice: str) -> torch.dtype:
    """The dtype of a loader's precision widget; auto asks ComfyUI."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return named[choice] if choice in named else compute_dtype(torch.bfloat16, torch.float16)


def remembered(name: str) -> Path:
    """A file in which the pack keeps what it found out, in ComfyUI's user folder, or in its temp folder where that cannot be written."""
    for folder in (folder_paths.get_user_directory(), folder_paths.get_temp_directory()):
        path = Path(folder) / "lathe"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path / name
    return Path(folder_paths.get_temp_directory()) / name


# ---- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputFile:
    """A file to write, and how the page finds it."""

    path: Path
    subfolder: str

    @property
    def result(self) -> dict[str, str]:
        """The entry of a node's ui for this file."""
        return {"filename": self.path.name, "subfolder": self.subfolder, "type": "output"}


def output_files(prefix: str, suffix: str, count: int) -> list[OutputFile]:
    """`count` new file names under ComfyUI's output folder: prefix_00001_.glb and on; `prefix` may name subfolders.

    Raises:
        ValueError: the prefix leads out of the output folder, or the folder cannot be made or written.
    """
    root = Path(os.path.abspath(folder_paths.get_output_directory()))
    plain = os.path.normpath(prefix.strip().replace("\\", "/"))
    folder = Path(os.path.abspath(root / os.path.dirname(plain)))
    if not folder.is_relative_to(root) or os.path.basename(plain) in ("", ".", ".."):
        raise ValueError(f"The file name {prefix!r} leads out of the output folder {root}; use a plain name such as lathe/mesh.")
    try:
        where, name, counter, subfolder, _ = folder_paths.get_save_image_path(plain, str(root))
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be made: {error.strerror or error}.") from error
    if not os.access(where, os.W_OK):
        raise ValueError(f"The folder {where} cannot be written to; check its permissions or choose another.")
    return [OutputFile(Path(where) / f"{name}_{counter + i:05}_{suffix}", subfolder) for i in range(count)]


def relative_names(files: list[OutputFile]) -> list[str]:
    """The files' names relative to the output folder: what core's nodes that take a file name (Preview 3D) expect."""
    return ["/".join(filter(None, (file.subfolder.replace("\\", "/"), file.path.name))) for file in files]


def _asset_roots() -> list[tuple[Path, str, str]]:
    """Folder, the part of it that loaders search, and what marks its files in their lists.

    Of the output folder only lathe/ is searched: it may hold very many files.
    """
    return [
        (Path(folder_paths.get_input_directory()), "", ""),
        (Path(folder_paths.get_output_directory()), "lathe", " [output]"),
        (EXAMPLES, "", " [example]"),
    ]


def asset_files(*suffixes: str) -> list[str]:
    """What a loader offers: files with these suffixes in the input folder, in output/lathe and among the pack's examples."""
    names = []
    for root, start, mark in _asset_roots():
        for folder, _, found in os.walk(root / start):
            where = os.path.relpath(folder, root).replace(os.sep, "/")
            names += [("" if where == "." else where + "/") + name + mark for name in found if name.lower().endswith(suffixes)]
    return sorted(names)


def asset_path(name: str) -> Path:
    """The file a loader's entry names: "name" or "name [input]", "name [output]", "name [example]".

    Raises:
        ValueError: the name leads out of that folder, or no such file is there.
    """
    plain, folder = name.removesuffix(" [input]"), Path(folder_paths.get_input_directory())
    for root, _, mark in _asset_roots():
        if mark and name.endswith(mark):
            plain, folder = name.removesuffix(mark), root
    path = (folder / plain).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of the folder {folder}.")
    if not path.is_file():
        raise ValueError(f"There is no file {plain!r} in {folder}: put it there, or choose another.")
    return path


def file_stamp(name: str) -> str:
    """Changes when the file of this loader entry does: what `fingerprint_inputs` of a loader returns."""
    status = asset_path(name).stat()
    return f"{status.st_mtime_ns} {status.st_size}"
