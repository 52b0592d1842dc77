"""The materials of an OBJ: its files, their pictures, and where these lie on the surface."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .beside import find_beside
from .mtl import Described, PictureOf, numbers, read_mtl
from .obj_looks import USED, looks
from .parts import Contents, Look
from .pictures import decode_picture

_LIBRARY = re.compile(r"\S.*?\.mtl(?=\s|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Finish:
    """A material of an OBJ.

    Attributes:
        look: with pictures; `plain`: without, for polygons that have no texture coordinates.
        scale, offset: (2,) what the file's texture coordinates are multiplied by, then shifted by, before v is turned.
        clamp: the pictures do not repeat.
    """

    name: str | None = None
    look: Look = field(default_factory=Look)
    plain: Look = field(default_factory=Look)
    scale: np.ndarray = field(default_factory=lambda: np.ones(2))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))
    clamp: bool = False


class Materials:
    """The materials that polygons of one OBJ use, read from the files of its mtllib statements, else from the .mtl of its own name."""

    def __init__(self, path: Path, libraries: list[str], used: list[str], contents: Contents) -> None:
        self._folder, self._contents = path.parent, contents
        self._described: dict[str, Described] = {}
        self._pictures: dict[Path, np.ndarray] = {}
        if not used:
            return
        files, missing = self._libraries(libraries)
        if not files:
            own = find_beside(self._folder, f"{path.stem}.mtl")
            if own is not None:
                files, missing = [own], []
                contents.note(f"its materials are taken from {own.name}, which bears its name: no other that it names is there")
        if missing or not files:
            names = ", ".join(missing) or f"{path.stem}.mtl"
            contents.note(f"its material file {names} is missing; put it beside the .obj, else what it describes is plain white")
        for file in files:
            try:
                for name, described in read_mtl(file.read_bytes()).items():
                    self._described.setdefault(name, described)
            except (OSError, ValueError) as error:
                contents.note(f"its material file {file.name} cannot be read: {error}")
        unknown = [repr(name) for name in used if name not in self._described]
        if files and unknown:
            shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            contents.note(f"its material file does not describe {shown}; the polygons with it are plain white")

    def _libraries(self, statements: list[str]) -> tuple[list[Path], list[str]]:
        """The files of mtllib statements, each one name or several; names may hold blanks."""
        files: list[Path] = []
        missing: list[str] = []
        for statement in statements:
            whole = find_beside(self._folder, statement)
            for name in [statement] if whole is not None else _LIBRARY.findall(statement) or [statement]:
                found = find_beside(self._folder, name)
                if found is None and name not in missing:
                    missing.append(name)
                elif found is not None and found not in files:
                    files.append(found)
        return files, missing

    def finish(self, name: str | None) -> Finish:
        """The material of this name; plain white where there is none."""
        described = None if name is None else self._described.get(name)
        if name is None or described is None:
            return Finish(name)
        images = {word: image for word in USED if (image := self._image(name, word, described.pictures)) is not None}
        look, plain = looks(name, described, images, self._contents)
        return Finish(name, look, plain, *self._placement(name, {word: described.pictures[word] for word in images}))

    def _image(self, name: str, word: str, pictures: dict[str, PictureOf]) -> np.ndarray | None:
        """(H, W, 3 or 4) of a picture, its base and gain (-mm) applied; None, with a note, where it cannot be had."""
        picture = pictures.get(word)
        if picture is None:
            return None
        file = find_beside(self._folder, picture.file)
        if file is None:
            self._contents.note(f"material {name!r}: its picture {picture.file!r} ({word}) is missing; put it beside the .obj")
            return None
        try:
            if file not in self._pictures:
                self._pictures[file] = decode_picture(file.read_bytes(), file.name)
        except (OSError, ValueError) as error:
            self._contents.note(f"material {name!r}: its picture {picture.file!r} ({word}) is left out: {error}")
            return None
        image = self._pictures[file]
        change = numbers(" ".join(picture.options.get("-mm", []))) or [0.0, 1.0]
        if len(change) == 2 and change != [0.0, 1.0]:
            image = image.copy()
            image[..., :3] = (change[0] + change[1] * image[..., :3]).clip(0, 1)
        return image

    def _placement(self, name: str, pictures: dict[str, PictureOf]) -> tuple[np.ndarray, np.ndarray, bool]:
        """Scale, offset and clamping of the first picture, which count for all."""
        placed = []
        for picture in pictures.values():
            scale, offset = picture.numbers("-s", 1.0), picture.numbers("-o", 0.0)
            if scale is None or offset is None:
                self._contents.note(f"material {name!r}: the options -s and -o of {picture.file!r} are no numbers and left out")
                scale, offset = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
            placed.append((scale[:2], offset[:2], picture.on("-clamp")))
            if any(picture.numbers("-t", 0.0) or (1.0,)):
                self._contents.note(f"material {name!r}: the turbulence (-t) of {picture.file!r} is left out")
        if len(set(placed)) > 1:
            first = next(iter(pictures))
            self._contents.note(f"material {name!r}: its pictures lie differently (-s, -o, -clamp); all are placed as {first} is")
        if not placed:
            return np.ones(2), np.zeros(2), False
        return np.array(placed[0][0]), np.array(placed[0][1]), placed[0][2]
