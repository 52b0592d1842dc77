"""The vertices of a PLY file as one table, read in blocks: text or binary of either byte order, numbers only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.progress import Tick, no_tick

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_BYTES = 1 << 16
BLOCK, TEXT_BLOCK = 1 << 18, 1 << 13  # rows between two ticks
KINDS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2", "int": "i4",
    "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}


@dataclass(frozen=True)
class Element:
    """Rows of one kind: how many, and the type of each property by name ("list" for lists)."""

    name: str
    count: int
    properties: dict[str, str]


@dataclass(frozen=True)
class Header:
    """What a PLY says it holds, and where that begins in the file, in bytes."""

    order: str
    elements: tuple[Element, ...]
    size: int


def read_header(path: Path) -> Header:
    """Raises ValueError where the file is no PLY or its header cannot be read, OSError where it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    before, found, after = start.partition(b"end_header")
    line_end = after.find(b"\n")
    if not start.startswith(b"ply") or not found or line_end < 0:
        raise ValueError(f"{path.name} is no PLY file, or its header is cut short.")
    order, elements = None, []
    for line in before.decode("latin-1").splitlines():
        match line.split():
            case ["format", kind, *_]:
                order = kind
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(Element(name, int(count), {}))
            case ["property", "list", *_, name] if elements:
                elements[-1].properties[name] = "list"
            case ["property", kind, name] if elements and kind in KINDS and name not in elements[-1].properties:
                elements[-1].properties[name] = KINDS[kind]
            case ["element" | "property", *_]:
                raise ValueError(f"{path.name} cannot be read as a PLY: its header says {line.strip()[:80]!r}.")
    if order not in ORDERS:
        raise ValueError(f"{path.name} cannot be read as a PLY: its format is {order!r}, not one of {', '.join(ORDERS)}.")
    return Header(order, tuple(elements), len(before) + len(found) + line_end + 1)


def read_rows(path: Path, header: Header, name: str = "vertex", *, tick: Tick = no_tick) -> NDArray[Any]:
    """The rows of an element, a structured array in native order. The elements behind it are not looked at.

    Raises:
        ValueError: the file ends before, a row is no row of numbers, or lists stand in this element or before it.
    """
    import numpy

    index = next(i for i, element in enumerate(header.elements) if element.name == name)
    element, earlier = header.elements[index], header.elements[:index]
    if any("list" in one.properties.values() for one in (element, *earlier)):
        raise ValueError(
            f"{path.name} has lists in or before its vertices, where rows of numbers are expected: save it again with another tool."
        )
    kind = numpy.dtype([(key, ORDERS[header.order] + form) for key, form in element.properties.items()])
    if header.order == "ascii":
        return _text(path, header, element, sum(one.count for one in earlier), kind, tick)
    start = header.size + sum(one.count * sum(int(form[1]) for form in one.properties.values()) for one in earlier)
    there = (path.stat().st_size - start) // kind.itemsize
    if there < element.count:
        raise ValueError(f"{path.name} is cut short or damaged: it says {element.count:,} vertices and has {max(there, 0):,}.")
    rows = numpy.empty(element.count, kind.newbyteorder("="))
    with open(path, "rb") as file:
        file.seek(start)
        for first in range(0, element.count, BLOCK):
            tick(first, element.count)
            count = min(BLOCK, element.count - first)
            rows[first : first + count] = numpy.fromfile(file, kind, count)
    return rows


def _text(path: Path, header: Header, element: Element, skip: int, kind: Any, tick: Tick) -> NDArray[Any]:
    import numpy

    shortest = 2 * len(element.properties)  # a digit and a space or line end for each number
    if element.count * shortest > path.stat().st_size:
        raise ValueError(f"{path.name} is cut short or damaged: {element.count:,} vertices do not fit into it.")
    rows = numpy.empty(element.count, kind)
    names = list(element.properties)
    with open(path, "rb") as file:
        file.seek(header.size)
        for _ in range(skip):
            file.readline()
        for first in range(0, element.count, TEXT_BLOCK):
            tick(first, element.count)
            lines = list(islice(file, min(TEXT_BLOCK, element.count - first)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # older numpy warns of words where newer raises; the count tells both
                try:
                    table = numpy.fromstring(b" ".join(lines), sep=" ")
                except ValueError:
                    table = numpy.empty(0)
            if len(lines) < min(TEXT_BLOCK, element.count - first) or table.size != len(lines) * len(names):
                raise ValueError(f"{path.name} is cut short or damaged: a vertex is no row of {len(names)} numbers.")
            for column, key in enumerate(names):
                rows[key][first : first + len(lines)] = table.reshape(len(lines), -1)[:, column]
    return rows
