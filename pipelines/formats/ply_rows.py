"""The vertices of a PLY file as one table, read in blocks: text or binary of either byte order, numbers only."""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.progress import Tick, no_tick
from .ply_header import HEADER_BYTES, Element, Header, read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK, TEXT_BLOCK = 1 << 18, 1 << 13  # rows between two ticks


def open_header(path: Path) -> Header:
    """The header of a file. Raises ValueError where it is no PLY or its header cannot be read, OSError where it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    try:
        return read_header(start)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read as a PLY: {error}. It is no PLY file, or its header is cut short.") from None


def read_rows(path: Path, header: Header, name: str = "vertex", *, tick: Tick = no_tick) -> NDArray[Any]:
    """The rows of an element, a structured array in native order. The elements behind it are not looked at.

    Raises:
        ValueError: the file ends before, a row is no row of numbers, or lists stand in this element or before it.
    """
    import numpy

    index = next(i for i, element in enumerate(header.elements) if element.name == name)
    element, earlier = header.elements[index], header.elements[:index]
    if any(each.length is not None for one in (element, *earlier) for each in one.properties):
        raise ValueError(
            f"{path.name} has lists in or before its vertices, where rows of numbers are expected: save it again with another tool."
        )
    kind = numpy.dtype([(each.name, header.order + each.kind) for each in element.properties])
    if header.text:
        return _text(path, header, element, sum(one.count for one in earlier), kind, tick)
    start = header.body + sum(one.count * sum(int(each.kind[1]) for each in one.properties) for one in earlier)
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
    names = [each.name for each in element.properties]
    with open(path, "rb") as file:
        file.seek(header.body)
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
