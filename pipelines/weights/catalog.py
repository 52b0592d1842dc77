"""The table of weights: `catalog.json` as typed rows, and where their files lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath


@dataclass(frozen=True)
class CatalogEntry:
    """One published model.

    Attributes:
        name: key of the row.
        title: for people.
        stage: "lrm", "geolrm", "views" (a folder) or "views_unet".
        folder: ComfyUI model folder it belongs in.
        path: file or folder inside that.
        repository, revision: where it is published on the Hugging Face hub.
        files: names or patterns of the files there; a single plain name is saved as `path`, more go into the folder `path`.
        sha256: of the single file; None where its publisher's value is not known to us.
        bytes: size of the download; None where not known.
        parameters: how many numbers the network has.
        licence, licence_note: of the weights.
    """

    name: str
    title: str
    stage: str
    folder: str
    path: str
    repository: str
    revision: str
    files: tuple[str, ...]
    sha256: str | None
    bytes: int | None
    parameters: int
    licence: str
    licence_note: str

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder of several files."""
        return len(self.files) > 1

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return f"https://huggingface.co/{self.repository}"


@cache
def entries() -> tuple[CatalogEntry, ...]:
    """All rows, in the file's order."""
    rows = json.loads((Path(__file__).parent / "catalog.json").read_text(encoding="utf-8"))["entries"]
    return tuple(CatalogEntry(**{**row, "files": tuple(row["files"])}) for row in rows)


def entry(name: str) -> CatalogEntry:
    """The row of this name. Raises ValueError where there is none."""
    for row in entries():
        if row.name == name:
            return row
    raise ValueError(f"The catalogue has no {name!r}; it has {', '.join(row.name for row in entries())}.")


def locate(row: CatalogEntry, folders: Sequence[Path]) -> Path | None:
    """The row's file or folder in the first of the model folders that has it."""
    return next((path for path in (inside(folder, row.path) for folder in folders) if path.exists()), None)


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises ValueError where the name would lead out of the folder, by either system's spelling."""
    for flavour in (PurePosixPath(name), PureWindowsPath(name)):
        if not name or flavour.is_absolute() or flavour.drive or flavour.root or ".." in flavour.parts:
            raise ValueError(f"The name {name!r} would lead out of {folder}; a plain name like model.safetensors is expected.")
    return folder / name
