"""The header of a PLY: which elements it holds, and of what properties (Turk, "The PLY Polygon File Format", 1994)."""

from __future__ import annotations

from dataclasses import dataclass, field

HEADER_BYTES = 1 << 20  # longer headers are no PLY's
_KINDS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "int64": "i8", "uint64": "u8", "half": "f2", "float16": "f2",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class Property:
    """Its name, numpy's code of its values such as u1, and that of a list's length; None where it is no list."""

    name: str
    kind: str
    length: str | None = None


@dataclass
class Element:
    """Rows of one kind: how many, and their properties in order."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    def names(self) -> set[str]:
        return {each.name for each in self.properties}


@dataclass
class Header:
    """What a PLY says it holds; its rows begin at byte `body`."""

    order: str
    text: bool
    elements: list[Element]
    comments: list[str]
    body: int


def read_header(data: bytes) -> Header:
    """The header at the beginning of a PLY's bytes.

    Raises:
        ValueError: no PLY, or a header that is cut short or cannot be understood.
    """
    if data[:3] != b"ply":
        raise ValueError("it does not begin as a PLY does")
    end = data.find(b"end_header", 0, HEADER_BYTES)
    if end < 0:
        raise ValueError("its header has no end; it may be cut short")
    body = end + len(b"end_header")
    body += 2 if data[body : body + 2] == b"\r\n" else 1
    form, elements, comments = "", [], []
    for line in data[:end].decode("latin-1").replace("\r", "\n").split("\n")[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            comments.append(line.strip()[len("comment") :].strip())
        elif words[0] == "format" and len(words) > 1:
            form = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal() and words[2].isascii() and len(words[2]) < 19:
            elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property" and elements and len(words) in (3, 5):
            if any(word not in _KINDS for word in words[1:-1] if word != "list") or (len(words) == 5) != (words[1] == "list"):
                raise ValueError(f"its header has {line.strip()!r}, a kind of property that PLY does not have")
            length = _KINDS[words[2]] if len(words) == 5 else None
            if length is not None and length.startswith("f"):
                raise ValueError(f"its header has {line.strip()!r}, but the length of a list is a whole number")
            if words[-1] in elements[-1].names():
                raise ValueError(f"its header names the property {words[-1]!r} twice")
            elements[-1].properties.append(Property(words[-1], _KINDS[words[-2]], length))
        else:
            raise ValueError(f"its header has a line {line.strip()[:60]!r} that no PLY has")
    if form not in ORDERS:
        raise ValueError(f"its format is {form!r}, not one of {', '.join(ORDERS)}")
    return Header(ORDERS[form], form == "ascii", elements, comments, body)
