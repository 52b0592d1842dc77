"""Text files of other programs: their encodings, ends of lines, and lines that go on."""

from __future__ import annotations

import re

_JOINED = re.compile(rb"^(?! *#)(?:[^\n]*\\\n)+[^\n]*", re.MULTILINE)


def plain_text(data: bytes) -> str:
    """Text of an unknown encoding: UTF-8, else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def one_encoding(data: bytes) -> bytes:
    """UTF-16 with its mark as UTF-8; marks taken away; lines ended by a newline alone.

    Raises:
        ValueError: UTF-16 that is damaged.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            data = data.decode("utf-16").encode("utf-8")
        except UnicodeError as error:
            raise ValueError(f"it is UTF-16 and damaged: {error}") from None
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def without_continuations(data: bytes) -> bytes:
    """Lines that end in a backslash put together with the next; the count of lines stays. Comments do not go on."""
    if b"\\\n" not in data:
        return data
    return _JOINED.sub(lambda found: found[0].replace(b"\\\n", b" ") + b"\n" * found[0].count(b"\\\n"), data)
