"""The values in JSON files of other programs."""

from __future__ import annotations

import math
from typing import Any

from ..data.cameras import LARGEST

KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def kind_of(value: Any) -> str:
    """What a value of JSON is, for messages."""
    return KINDS.get(type(value), "a number")


def readable(text: str) -> str:
    """The text with a question mark for what no text file can hold: halves of UTF-16 pairs, which JSON can escape."""
    return text.encode("utf-8", "replace").decode("utf-8")


def number(value: Any, name: str, place: str) -> float:
    """A finite number of at most `LARGEST`; a text that is one counts as one.

    Args:
        value: as JSON gives it.  name: of the entry.  place: the file, and where in it; messages begin with it.

    Raises:
        ValueError: null, something else than a number, NaN, infinity, or too large.
    """
    if type(value) is float and -LARGEST <= value <= LARGEST:  # nearly all of them
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{place}: {name} is {kind_of(value)}, where a number is expected.")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    except ValueError:
        raise ValueError(f"{place}: {name} is the text {readable(str(value))[:40]!r}, where a number is expected.") from None
    if not abs(result) <= LARGEST:
        raise ValueError(f"{place}: {name} is {_shown(result)}, where a number between {-LARGEST:g} and {LARGEST:g} is expected.")
    return result


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite or beyond floating point" if math.isinf(value) else f"{value:g}"
