"""The statements of a Wavefront OBJ as arrays (Wavefront "Object Files", version 3.0, appendix B1: polygonal geometry)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.progress import Tick, no_tick
from .file_text import one_encoding, plain_text, without_continuations

_CHUNK = 1 << 22  # bytes between two ticks
_NEWLINE, _SPACE, _COMMA, _POINT, _SLASH, _HASH = b"\n ,./#"
_BLANKS = bytes.maketrans(b"\t\v\f", b"   ")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CORNER = re.compile(rb"[+-]?\d+(/([+-]?\d+)?(/([+-]?\d+)?)?)?")
_INVALID = -2  # an index that names nothing; -1 stands for one that was not given


@dataclass
class Rows:
    """All statements of one kind, such as v: their numbers one after the other, and for each its line and how many it has."""

    values: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)
    number: int = 0

    def add(self, values: np.ndarray, counts: np.ndarray, lines: np.ndarray) -> None:
        self.values.append(values)
        self.counts.append(counts)
        self.lines.append(lines)
        self.number += len(counts)

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """values, counts, lines."""
        none = [np.zeros(0, np.int64)]
        return np.concatenate(self.values or [np.zeros(0)]), np.concatenate(self.counts or none), np.concatenate(self.lines or none)


@dataclass
class Statements:
    """What an OBJ says.

    Attributes:
        numbers: the rows of v, vt and vn.
        corners: the rows of f; their values are (C, 3) places among v, vt and vn from 0 on, -1 where not given, -2 impossible.
        surfaces: which of `materials` each polygon has, -1 for none, in pieces like `corners`.
        polypaint: the hexadecimal colours of ZBrush's #MRGB comments.
        dropped: names of statements of other geometry, as they read in a sentence.
    """

    numbers: dict[str, Rows] = field(default_factory=lambda: {"v": Rows(), "vt": Rows(), "vn": Rows()})
    corners: Rows = field(default_factory=Rows)
    surfaces: list[np.ndarray] = field(default_factory=list)
    materials: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    polypaint: list[bytes] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    decimal_commas: bool = False


def read_statements(data: bytes, tick: Tick = no_tick) -> Statements:
    """Reads the bytes of an OBJ.

    Numbers may have decimal commas if none of the file has a decimal point. Lines end as on any system, and go on after a backslash.

    Raises:
        ValueError: no text, or a statement that cannot be read, with the number of its line.
    """
    reader = _Reader()
    for start, chunk in _chunks(_plain(data)):
        tick(start, len(data))
        reader.take(chunk)
    if reader.comma_at and reader.point_at:
        raise ValueError(
            f"line {reader.comma_at} has numbers with commas and line {reader.point_at} with points; write all with decimal points"
        )
    reader.found.decimal_commas = bool(reader.comma_at)
    return reader.found


def _plain(data: bytes) -> bytes:
    data = one_encoding(data)
    if b"\0" in data:
        raise ValueError("it holds zero bytes, so it is no OBJ text; save it as UTF-8 (a compiled program's .obj is no mesh)")
    return without_continuations(data.translate(_BLANKS))


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Pieces of whole lines, each ended by a newline, and where they begin."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + _CHUNK) + 1 or len(data)
        chunk = data[start:end]
        yield start, chunk if chunk.endswith(b"\n") else chunk + b"\n"
        start = end


class _Reader:
    """Takes chunk after chunk."""

    def __init__(self) -> None:
        self.found = Statements()
        self.line = 1  # of the next chunk
        self.material = -1
        self.ids: dict[str, int] = {}
        self.comma_at = self.point_at = 0  # lines

    def take(self, chunk: bytes) -> None:
        if chunk.startswith(b" ") or b"\n " in chunk:
            chunk = re.sub(rb"^ +", b"", chunk, flags=re.MULTILINE)
        chars = np.frombuffer(chunk + b"\n\n", np.uint8)
        ends = np.flatnonzero(chars[:-2] == _NEWLINE) + 1
        starts = np.append(0, ends[:-1])
        first, second, third = (_small(chars[starts + i]) for i in range(3))
        one, two = second <= _SPACE, third <= _SPACE
        v = first == ord("v")
        kinds = {"v": v & one, "vt": v & (second == ord("t")) & two, "vn": v & (second == ord("n")) & two}
        polygons = (first == ord("f")) & (one | ((second == ord("o")) & two))
        so_far = {}
        for word, chosen in kinds.items():
            rows = self.found.numbers[word]
            so_far[word] = rows.number + np.cumsum(chosen)
            self._take_numbers(word, _Text(chars, starts, ends, chosen, self.line, word))
        for letter, name in (("l", "lines (l)"), ("p", "points (p)")):
            if bool(((first == ord(letter)) & one).any()):
                self.found.dropped.add(name)
        switches = [(-1, self.material)]
        for row in np.flatnonzero(np.isin(first, np.frombuffer(b"umcs#", np.uint8)) & ~one).tolist():
            self._take_words(chunk[starts[row] : ends[row]], row, switches)
        self.material = switches[-1][1]
        self._take_polygons(_Text(chars, starts, ends, polygons, self.line, "f"), so_far, switches)
        self.line += len(starts)

    def _take_words(self, line: bytes, row: int, switches: list[tuple[int, int]]) -> None:
        word, _, rest = line.strip().partition(b" ")
        word = word.lower()
        if word == b"usemtl":
            name = plain_text(rest.strip())
            if name and name not in self.ids:
                self.ids[name] = len(self.ids)
                self.found.materials.append(name)
            switches.append((row, self.ids.get(name, -1)))
        elif word == b"mtllib":
            self.found.libraries.append(plain_text(rest.strip()))
        elif word == b"#mrgb":
            self.found.polypaint.append(rest.strip())
        elif word in (b"curv", b"curv2", b"surf"):
            self.found.dropped.add("free-form curves and surfaces (convert them to polygons)")

    def _take_numbers(self, word: str, text: _Text) -> None:
        if not len(text.lines):
            return
        counts, data = text.counts(), text.data()
        if not self.comma_at and (text.chars == _COMMA).any():
            self.comma_at = text.line_with(b",")
        if not self.point_at and (text.chars == _POINT).any():
            self.point_at = text.line_with(b".")
        if self.comma_at:
            data = data.replace(b",", b".")
        values = _parsed(data, np.float64, int(counts.sum()))
        if values is None:
            raise ValueError(f"{text.bad_line(data, _NUMBER)} is no row of numbers")
        self.found.numbers[word].add(values, counts, text.lines)

    def _take_polygons(self, text: _Text, so_far: dict[str, np.ndarray], switches: list[tuple[int, int]]) -> None:
        if not len(text.lines):
            return
        counts, chars = text.counts(), text.chars
        slash = chars == _SLASH
        blank = (chars == _SPACE) | (chars == _NEWLINE)
        sign = (chars == ord("-")) | (chars == ord("+"))
        digit = (chars >= ord("0")) & (chars <= ord("9"))
        # A sign stands before a digit and begins an index; a slash stands behind an index or another slash.
        wrong = ~(slash | blank | sign | digit)
        wrong[1:] |= (sign[1:] & ~(slash | blank)[:-1]) | (slash[1:] & ~(digit | slash)[:-1]) | (~digit[1:] & sign[:-1])
        data = text.data()
        if b"//" in data:
            data = data.replace(b"//", b"/0/")
        if b"/ " in data or b"/\n" in data:
            data = data.replace(b"/ ", b"/0 ").replace(b"/\n", b"/0\n")
        at = np.flatnonzero(~blank & np.append(True, blank[:-1]))  # where corners begin
        slashes = np.add.reduceat(slash.view(np.uint8), at, dtype=np.int64) if len(at) else np.zeros(0, np.int64)
        values = None if wrong.any() or (slashes > 2).any() else _parsed(data.replace(b"/", b" "), np.int64, len(at) + int(slashes.sum()))
        if values is None:
            raise ValueError(f"{text.bad_line(text.data(), _CORNER)} is no polygon: its corners are written as v, v/vt, v//vn or v/vt/vn")
        given = np.zeros((len(at), 3), dtype=np.int64)
        place = np.cumsum(slashes + 1) - (slashes + 1)
        for i in range(3):
            has = slashes >= i
            given[has, i] = values[place[has] + i]
        for i, word in enumerate(("v", "vt", "vn")):
            given[:, i] = _from_zero(given[:, i], np.repeat(so_far[word][text.rows], counts), i == 0)
        self.found.corners.add(given, counts, text.lines)
        rows, ids = (np.array(column) for column in zip(*switches, strict=True))
        self.found.surfaces.append(ids[np.searchsorted(rows, text.rows, side="right") - 1])


def _small(letters: np.ndarray) -> np.ndarray:
    """Capital letters of ASCII made small: some exporters write keywords in capitals."""
    return np.where((letters >= ord("A")) & (letters <= ord("Z")), letters | 0x20, letters)


def _from_zero(given: np.ndarray, so_far: np.ndarray, needed: bool) -> np.ndarray:
    """OBJ's indices, which begin at 1 or count back from the last row so far, as places from 0 on; 0 is one not given."""
    back = np.where(given < -so_far, _INVALID, given + so_far)
    return np.where(given > 0, given - 1, np.where(given < 0, back, _INVALID if needed else -1))


def _parsed(data: bytes, kind: Any, count: int) -> np.ndarray | None:
    """Numbers between blanks, or None where these are not just `count` numbers."""
    if count == 0:
        return np.zeros(0, kind)  # numpy makes -1 of blanks alone
    try:
        values: np.ndarray = np.fromstring(data, dtype=kind, sep=" ")
    except ValueError:
        return None
    return values if len(values) == count else None


class _Text:
    """The lines of one kind in a chunk, the word they begin with and comments blanked out.

    Attributes:
        rows: their places among the chunk's lines.
        lines: their numbers in the file.
        chars: (n,) uint8, the text.
    """

    def __init__(self, chars: np.ndarray, starts: np.ndarray, ends: np.ndarray, chosen: np.ndarray, first_line: int, word: str) -> None:
        self.rows = np.flatnonzero(chosen)
        self.lines, self.word = self.rows + first_line, word
        if not len(self.rows):
            return
        lengths = (ends - starts)[self.rows]
        if self.rows[-1] - self.rows[0] + 1 == len(self.rows):
            text = chars[starts[self.rows[0]] : ends[self.rows[-1]]].copy()
        else:
            text = chars[:-2][np.repeat(chosen, ends - starts)]
        begin = np.cumsum(lengths) - lengths
        text[begin] = _SPACE
        text[begin[text[begin + 1] > _SPACE] + 1] = _SPACE  # the second letter of vt, vn and fo
        if (text == _HASH).any():
            text = np.frombuffer(re.sub(rb"#[^\n]*", b"", text.tobytes()), np.uint8)
        self.chars = text

    def data(self) -> bytes:
        return self.chars.tobytes()

    def counts(self) -> np.ndarray:
        """How many words each line has."""
        blank = (self.chars == _SPACE) | (self.chars == _NEWLINE)
        words = np.flatnonzero(~blank & np.append(True, blank[:-1]))
        return np.diff(np.searchsorted(words, np.flatnonzero(self.chars == _NEWLINE)), prepend=0)

    def line_with(self, part: bytes) -> int:
        return int(self.lines[self.data().count(b"\n", 0, self.data().index(part))])

    def bad_line(self, data: bytes, pattern: re.Pattern[bytes]) -> str:
        """Names the first line of `data` with a word that is not as it should be."""
        for number, line in zip(self.lines.tolist(), data.split(b"\n"), strict=False):
            if not all(pattern.fullmatch(word) for word in line.split()):
                shown = plain_text(b" ".join(line.split()))
                return f"line {number} ({self.word} {shown[:60]}{'...' if len(shown) > 60 else ''})"
        return f"a line {self.word} between lines {self.lines[0]} and {self.lines[-1]}"
