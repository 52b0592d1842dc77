"""Where weights lie: ComfyUI's model folders, what a loader offers of them, and the path behind a choice."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...pipelines.data.progress import Tick
from .schema import Names

MODEL_FOLDER = "lathe"
MINI = "mini (bundled)"


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


def weight_choices(stage: str, *suffixes: str, folders: bool = False) -> Names:
    """What a loader offers: the bundled mini model, the catalogue's models of this stage, then what else lies in the model folders.

    Catalogue names are offered whether their files are there or not: the loader says what is missing when it runs.
    """
    from ...pipelines.weights import catalog

    rows = [row for row in catalog.entries() if row.stage == stage]
    known = {row.path for row in catalog.entries()}
    if folders:
        parts = [folder.glob("*/unet/config.json") for folder in _diffusers_folders()]
        own = sorted({found.parent.parent.name for part in parts for found in part})
    else:
        own = model_files(*suffixes)
    return Names([MINI, *(row.name for row in rows), *(name for name in own if name not in known)])


def catalogue_name(stage: str, choice: str) -> str | None:
    """The loader's choice where it is a row of the catalogue, None where it is a file of the user's."""
    from ...pipelines.weights import catalog

    return choice if any(row.name == choice and row.stage == stage for row in catalog.entries()) else None


def weights_path(stage: str, choice: str, download: bool, tick: Tick) -> Path:
    """The file or folder a loader's choice names; fetched where the user asked for that.

    Raises:
        ValueError: it is not there; the message says where to get it, where to put it and what its licence asks.
    """
    from ...pipelines.weights import catalog

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
    from ...pipelines.weights.download import download as fetch

    return fetch(row, place, tick=tick)


def _diffusers_folders() -> list[Path]:
    """Where folders in diffusers' layout may lie: our own model folders, then core's."""
    return model_folders() + [Path(p) for p in folder_paths.get_folder_paths("diffusers")]


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
