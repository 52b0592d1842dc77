"""Reads weight files without ever running what is in them: safetensors, and torch pickles through the restricted unpickler."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_HEADER_BYTES = 8
_ZIP, _PICKLE = b"PK", b"\x80"
_SLACK = 1 << 20  # bytes by which a zip's entries may be longer than the zip: torch compresses nothing
# What reading a damaged pickle can end in; RecursionError is a RuntimeError.
_FAILURES = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    AssertionError,
    MemoryError,
)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU and where possible mapped from the file: they cost memory only when touched. Never write to them.

    A torch file may hold the tensors themselves or, as Lightning's checkpoints do, under `state_dict`. The kind of file is told from its
    content, not its name.

    Raises:
        ValueError: no such file; a truncated or damaged one; a pickle that asks for more than tensors; a file without tensors.
    """
    path = _existing(path)
    if _is_torch_file(path):
        content = _read_pickle(path)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    else:
        tensors = _read_safetensors(path)[0]
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors: it is not a file of weights.")
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text entries in a safetensors file's header; empty for a torch file. Raises ValueError as `read_state_dict` does."""
    path = _existing(path)
    return {} if _is_torch_file(path) else _read_safetensors(path)[1]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file of weights is expected.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return path


def _is_torch_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}. Check its permissions, or fetch it again.") from error
    if len(start) < _HEADER_BYTES:
        raise ValueError(f"{path.name} is only {len(start)} bytes long: the download did not finish. Fetch it again.")
    # safetensors: eight bytes of length, of any value, then JSON
    return start.startswith((_ZIP, _PICKLE)) and start[_HEADER_BYTES:] != b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} cannot be read as safetensors ({error}): it is truncated, damaged, or another kind of file. Fetch it again."
        ) from error


def _read_pickle(path: Path) -> Any:
    _check_sizes(path)
    try:
        with path.open("rb") as file:
            # mapping needs the zip layout (older torch files are a bare pickle) and a name, which newer torch reads a meaning into
            if file.read(2) == _ZIP and path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"global:? (?:GLOBAL )?([\w.]+\.[\w.]+)", str(error), re.IGNORECASE)
        raise ValueError(
            f"{path.name} was not loaded: it asks Python for {named.group(1) if named else 'objects'}, which no tensor needs and which "
            "could run code. Get the file from its publisher, or a safetensors version of it."
        ) from error
    except _FAILURES as error:
        raise _damaged(path, error) from error


def _check_sizes(path: Path) -> None:
    """Refuses a zip whose entries would unpack to far more than the file: a few bytes could take all memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if unpacked > path.stat().st_size + _SLACK:
        raise ValueError(
            f"{path.name} was not loaded: its entries are compressed, to {unpacked >> 20} MiB, which no file of weights is. "
            "Get the file from its publisher."
        )


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path.name} is truncated or damaged ({_first_line(error)}). Fetch it again.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return text or type(error).__name__
