"""The elements of a PLY as columns (Turk, "The PLY Polygon File Format", 1994), of text and of either byte order.

plyfile reads the same, but takes whole seconds for lists and text, cannot be cancelled, and allocates what a header claims.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from ..data.progress import Tick, no_tick
from .ply_header import Element, Header, Property

_LETTERS = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f8": "d"}
_CHUNK = 1 << 22  # bytes of text between two ticks


@dataclass
class Table:
    """An element's rows.

    Attributes:
        columns: (count,) values by property.
        lists: of a list property all values one after the other, and how many each row has (count,).
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def read_tables(data: bytes, header: Header, wanted: set[str], tick: Tick = no_tick) -> dict[str, Table]:
    """The elements of these names and those before them; of several of one name the first.

    Raises:
        ValueError: cut short, or text that is no number.
    """
    body, order = data[header.body :], header.order
    if header.text:
        body, order = _numbers(body, tick).tobytes(), "="
    found: dict[str, Table] = {}
    at = 0
    for element in header.elements:
        table, at = _Rows(body, at, element, order, header.text, tick).read()
        found.setdefault(element.name, table)
        if wanted <= found.keys():
            break
    return found


def _numbers(text: bytes, tick: Tick) -> np.ndarray:
    """All numbers of a text (N,) float64."""
    pieces, start = [np.zeros(0)], 0
    while start < len(text):
        tick(start, len(text))
        end = text.find(b"\n", start + _CHUNK) + 1 or len(text)
        try:
            pieces.append(np.fromstring(text[start:end].strip(), sep=" ") if text[start:end].strip() else np.zeros(0))
        except ValueError:
            words = text[start:end].split()
            raise ValueError(f"its rows hold {_first_no_number(words)!r}, which is no number") from None
        start = end
    return np.concatenate(pieces)


def _first_no_number(words: list[bytes]) -> str:
    for word in words:
        try:
            float(word)
        except ValueError:
            return word[:40].decode("latin-1")
    return "a word"


class _Rows:
    """The rows of one element in `body`, from byte `at` on; those of text are float64 throughout, and stay so.

    Text may hold 1.0 where whole numbers are declared, or 300 for a byte.
    """

    def __init__(self, body: bytes, at: int, element: Element, order: str, text: bool, tick: Tick) -> None:
        self.body, self.at, self.element, self.tick = body, at, element, tick
        kinds = [(p.name, "f8", "f8" if p.length else None) if text else (p.name, p.kind, p.length) for p in element.properties]
        self.properties = [Property(*kind) for kind in kinds]
        self.order, self.end = order, at
        least = sum(np.dtype(p.length or p.kind).itemsize for p in self.properties)
        if element.count * least > len(body) - at:
            raise self.cut_short()

    def cut_short(self) -> ValueError:
        return ValueError(f"it is cut short: its header says {self.element.count:,} rows of {self.element.name!r}, more than are there")

    def read(self) -> tuple[Table, int]:
        """The table, and where the next element begins."""
        if not self.element.count or not self.properties:
            none = np.zeros(0, np.int64)
            scalars = {p.name: np.zeros(0, p.kind) for p in self.element.properties if p.length is None}
            return Table(scalars, {p.name: (none, none) for p in self.element.properties if p.length}), self.at
        table = self.equal_rows() or self.unequal_rows()
        return table, self.end

    def equal_rows(self) -> Table | None:
        """The rows if all have lists as long as the first's."""
        places, sizes, end = self.walk(1)
        stride, count = end - self.at, self.element.count
        if stride * count > len(self.body) - self.at:
            return None

        def column(kind: str, place: int, size: int) -> np.ndarray:
            whole = self.order + kind
            return np.ndarray((count, size), whole, self.body, place, (stride, np.dtype(kind).itemsize)).astype(kind).reshape(-1)

        table = Table()
        for own, place, size in zip(self.properties, places, sizes, strict=True):
            first, number = int(place[0]), int(size[0])
            if own.length is None:
                table.columns[own.name] = column(own.kind, first, 1)
            elif (column(own.length, first - np.dtype(own.length).itemsize, 1) != number).any():
                return None
            else:
                table.lists[own.name] = column(own.kind, first, number), np.full(count, number)
        self.end = self.at + stride * count
        return table

    def unequal_rows(self) -> Table:
        places, sizes, self.end = self.walk(self.element.count)
        chars, table = np.frombuffer(self.body, np.uint8), Table()
        for own, place, size in zip(self.properties, places, sizes, strict=True):
            width = np.dtype(own.kind).itemsize
            first = np.cumsum(size) - size
            starts = np.repeat(place - first * width, size) + np.arange(int(size.sum())) * width
            values = (
                np.ascontiguousarray(chars[starts[:, None] + np.arange(width)]).view(self.order + own.kind).reshape(-1).astype(own.kind)
            )
            if own.length is None:
                table.columns[own.name] = values
            else:
                table.lists[own.name] = values, size
        return table

    def walk(self, count: int) -> tuple[list[np.ndarray], list[np.ndarray], int]:
        """Row by row, for each property: where its values begin, and how many they are; and where the rows end."""
        places: list[list[int]] = [[] for _ in self.properties]
        sizes: list[list[int]] = [[] for _ in self.properties]
        readers = [struct.Struct(self.order + _LETTERS[p.length]) if p.length else None for p in self.properties]
        widths = [np.dtype(p.kind).itemsize for p in self.properties]
        at, limit, steps = self.at, len(self.body), list(zip(readers, widths, places, sizes, strict=True))
        for row in range(count):
            if row % 20_000 == 0:
                self.tick(row, count)
            for reader, width, place, size in steps:
                length = 1
                if reader is not None:
                    if at + reader.size > limit:
                        raise self.cut_short()
                    given = reader.unpack_from(self.body, at)[0]
                    if not 0 <= given < 1 << 31 or given != int(given):
                        raise ValueError(f"row {row} of {self.element.name!r} has a list of length {given}")
                    length, at = int(given), at + reader.size
                place.append(at)
                size.append(length)
                at += length * width
            if at > limit:
                raise self.cut_short()
        return [np.array(place, np.int64) for place in places], [np.array(size, np.int64) for size in sizes], at
