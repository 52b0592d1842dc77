"""Values of widgets, checked against a node's schema. Core checks typed ones only, and not for NaN; what is linked can be anything."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ...pipelines.disk.file_names import check_text
from .schema import Names

CHECK = "Check the widget, or the node wired to it."


def checked(schema: io.Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a node was given, every widget's value as the plain bool, int, float or str that its schema asks for.

    A FLOAT without a fraction serves as an INT; numbers of numpy and PyTorch become Python's. Other sockets pass as they are; what they
    carry is the matter of those who read it.

    Raises:
        ValueError: a value of another kind, a number that is not finite or out of the widget's range, a choice that is not offered, or
            nothing where something is needed. It names the node, the widget, the value and what is right.
    """
    inputs = {one.id: one for one in schema.inputs}
    values = {}
    for name, value in given.items():
        known = inputs.get(name)
        if known is None:
            values[name] = value
        elif schema.is_input_list:
            values[name] = [_value(schema, known, one) for one in value]
        else:
            values[name] = _value(schema, known, value)
    return values


def _value(schema: io.Schema, widget: Any, value: Any) -> Any:
    where = f"{schema.display_name or schema.node_id}: {widget.display_name or widget.id}"
    if value is None:
        if widget.optional:
            return None
        raise ValueError(f"{where} got nothing: the node wired to it gave no value.")
    for kind, check in _CHECKS:
        if isinstance(widget, kind):
            return check(where, widget, value)
    return value


def _integer(where: str, widget: Any, value: Any) -> int:
    number = _number(value)
    if number is None or not _finite(number) or number != int(number) or not _inside(widget, number):
        raise ValueError(f"{where} takes whole numbers{_range(widget)}, not {_shown(value)}. {CHECK}")
    return int(number)


def _float(where: str, widget: Any, value: Any) -> float:
    number = _number(value)
    if number is not None and _finite(number):
        number = _on_bound(widget, number)
    if number is None or not _finite(number) or not _inside(widget, number):
        raise ValueError(f"{where} takes numbers{_range(widget)}, not {_shown(value)}. {CHECK}")
    return float(number)


def _boolean(where: str, widget: Any, value: Any) -> bool:
    plain = _plain(value)
    if isinstance(plain, numbers.Real) and plain in (0, 1):  # other packs' logic nodes hand on 0 and 1
        return bool(plain)
    if not isinstance(plain, bool):
        raise ValueError(f"{where} is on or off (true or false), not {_shown(value)}. {CHECK}")
    return plain


def _choice(where: str, widget: Any, value: Any) -> Any:
    options = widget.options or []
    if isinstance(options, Names) and isinstance(value, str):
        check_text(value)
        return value
    if not isinstance(value, (str, int)) or value not in options:
        raise ValueError(f"{where} is one of {', '.join(map(str, options))}; not {_shown(value)}. {CHECK}")
    return value


def _text(where: str, widget: Any, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} takes text, not {_shown(value)}. {CHECK}")
    return value


_CHECKS = (
    (io.Int.Input, _integer),
    (io.Float.Input, _float),
    (io.Boolean.Input, _boolean),
    (io.Combo.Input, _choice),
    (io.String.Input, _text),
)


def _plain(value: Any) -> Any:
    """The Python number in a scalar, array or tensor of one element; other things as they are."""
    one = (isinstance(value, torch.Tensor) and value.numel() == 1) or (isinstance(value, (np.ndarray, np.generic)) and value.size == 1)
    return value.item() if one else value


def _number(value: Any) -> Any:
    """A real number, or None. Truth values are none."""
    plain = _plain(value)
    return plain if isinstance(plain, numbers.Real) and not isinstance(plain, bool) else None


def _finite(number: Any) -> bool:
    return isinstance(number, numbers.Rational) or math.isfinite(number)


def _inside(widget: Any, number: Any) -> bool:
    return (widget.min is None or number >= widget.min) and (widget.max is None or number <= widget.max)


def _on_bound(widget: Any, number: Any) -> Any:
    """A bound in single precision, as other nodes hand it on, may lie just outside the range: it is the bound itself."""
    for bound in (widget.min, widget.max):
        if bound is not None and isinstance(number, float) and number == float(np.float32(bound)):
            return bound
    return number


def _range(widget: Any) -> str:
    low, high = (
        None if bound is None else f"{bound:.12g}" if isinstance(bound, float) else str(bound) for bound in (widget.min, widget.max)
    )
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of {low} or more" if low is not None else f" up to {high}" if high is not None else ""


def _shown(value: Any) -> str:
    """A value in a few words, however large it is."""
    plain = _plain(value)
    if isinstance(plain, (torch.Tensor, np.ndarray)):
        return f"{type(plain).__name__} of shape {tuple(plain.shape)}"
    if isinstance(plain, int) and abs(plain) >= 10**30:
        return f"a whole number of {plain.bit_length()} bits"
    if isinstance(plain, float) and math.isnan(plain):
        return "NaN (not a number)"
    if isinstance(plain, (list, tuple)):
        return f"a {type(plain).__name__} of {len(plain)} values"
    if isinstance(plain, (bool, int, float, str)):
        return f"{reprlib.repr(plain)} ({type(plain).__name__})"
    return f"an object of type {type(plain).__name__}"
