"""The statements of an MTL, the materials of OBJ (Wavefront "MTL material format", version 4.2, and its PBR extension)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .file_text import one_encoding, plain_text, without_continuations

# Options of a picture, and how many words follow them: at least, at most. Words beyond the least are taken while they are numbers.
_OPTIONS = {
    "-blendu": (1, 1), "-blendv": (1, 1), "-boost": (1, 1), "-bm": (1, 1), "-cc": (1, 1), "-clamp": (1, 1), "-colorspace": (1, 1),
    "-imfchan": (1, 1), "-mm": (2, 2), "-o": (1, 3), "-s": (1, 3), "-t": (1, 3), "-texres": (1, 1), "-type": (1, 1),
}  # fmt: skip
_OPTION = re.compile(rf"(?:^|\s)({'|'.join(_OPTIONS)})(?=\s|$)", re.IGNORECASE)
_PICTURES = {"bump": "map_bump", "map_kn": "norm", "map_normal": "norm", "norm_map": "norm", "map_opacity": "map_d"}


@dataclass
class PictureOf:
    """A picture of a material: its file as written, and the options before it by name."""

    file: str
    options: dict[str, list[str]] = field(default_factory=dict)

    def numbers(self, option: str, default: float) -> tuple[float, ...] | None:
        """The three numbers of -s or -o, filled up with `default`; None where they are no numbers."""
        given = numbers(" ".join(self.options.get(option, [])))
        return None if given is None else (*given, default, default, default)[:3]

    def on(self, option: str) -> bool:
        return self.options.get(option, ["off"])[0].lower() == "on"


@dataclass
class Described:
    """One material: each statement's words, and its pictures, by the statement's name in small letters."""

    words: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, PictureOf] = field(default_factory=dict)


def read_mtl(data: bytes) -> dict[str, Described]:
    """The materials by name; of several of one name, the first counts.

    Raises:
        ValueError: no text.
    """
    data = one_encoding(data)
    if b"\0" in data:
        raise ValueError("it holds zero bytes, so it is no text")
    found: dict[str, Described] = {}
    current = Described()
    for line in without_continuations(data).split(b"\n"):
        word, _, rest = plain_text(line).strip().replace("\t", " ").partition(" ")
        word, rest = word.lower(), rest.strip()
        if word == "newmtl":
            current = Described()
            found.setdefault(rest, current)
        elif word.startswith(("map_", "disp", "decal", "refl")) or word in _PICTURES or word == "norm":
            current.pictures[_PICTURES.get(word, word)] = _picture(rest)
        elif word and not word.startswith("#"):
            current.words[word] = rest
    return found


def numbers(words: str) -> list[float] | None:
    """The finite numbers that words are, decimal commas allowed; None where one is none."""
    try:
        values = [float(word.replace(",", ".")) for word in words.split()]
    except ValueError:
        return None
    return values if all(abs(value) < 1e30 for value in values) else None


def _picture(rest: str) -> PictureOf:
    """Options stand before the file's name; some exporters write them behind it. Names may hold blanks."""
    options: dict[str, list[str]] = {}
    name = ""
    while rest:
        found = _OPTION.search(rest)
        name += rest[: found.start()] if found else rest
        if found is None:
            break
        least, most = _OPTIONS[found[1].lower()]
        words = rest[found.end() :].split(maxsplit=most)
        count = min(least, len(words))
        while count < min(most, len(words)) and numbers(words[count]) is not None:
            count += 1
        options[found[1].lower()] = words[:count]
        rest = " ".join(rest[found.end() :].split(maxsplit=count)[count:])
    return PictureOf(name.strip().strip("\"'").strip(), options)
