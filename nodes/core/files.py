"""Files the user sees: names in the output folder, and what asset loaders find in the input and output folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...pipelines.disk.file_names import check_file_name
from .schema import Names

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows" / "inputs"


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
        ValueError: the prefix leads out of the output folder or is no name for every system, or the folder cannot be made or written.
    """
    check_file_name(prefix.strip())
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


def asset_files(*suffixes: str) -> Names:
    """What a loader offers: files with these suffixes in the input folder, in output/lathe and among the pack's examples."""
    names = []
    for root, start, mark in _asset_roots():
        for folder, _, found in os.walk(root / start):
            where = os.path.relpath(folder, root).replace(os.sep, "/")
            names += [("" if where == "." else where + "/") + name + mark for name in found if name.lower().endswith(suffixes)]
    return Names(sorted(names))


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
