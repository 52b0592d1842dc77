"""Values that come by a link to a widget, payloads that no socket takes, and spoiled fields, runs and conditioning."""

import ast
from types import SimpleNamespace

import numpy as np
import torch

NAN = float("nan")
VALUES = {
    "nan": lambda: NAN,
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "a tensor of 1": lambda: torch.tensor(1),
    "a tensor of three": lambda: torch.ones(3),
    "NUL": lambda: "a\0b",
    "a lone surrogate": lambda: "a\ud800b",
}
ANY_SOCKET = {
    "nothing": lambda: None,
    "a word": lambda: "a word",
    "a number": lambda: 7,
    "an empty list": list,
    "a dictionary": lambda: {"samples": torch.zeros(1, 4, 8, 8)},
    "an empty object": SimpleNamespace,
}


def value_of(text):
    """A name of VALUES, a Python literal, or "numpy" and one."""
    if text.startswith("numpy "):
        return np.asarray(ast.literal_eval(text[6:]))[()]
    return VALUES[text]() if text in VALUES else ast.literal_eval(text)


def with_bad_tensors(value, number, depth=3):
    """Every tensor of floats in an object full of `number`, where the object itself is not a network."""
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, number) if value.is_floating_point() else value
    if depth and isinstance(value, dict):
        return {name: with_bad_tensors(part, number, depth - 1) for name, part in value.items()}
    if depth and isinstance(value, list | tuple):
        return type(value)(with_bad_tensors(part, number, depth - 1) for part in value)
    if depth and hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module | type):
        for name, part in vars(value).items():
            object.__setattr__(value, name, with_bad_tensors(part, number, depth - 1))
    return value


FIELD = {
    "NaN in its numbers": lambda fields, draws: with_bad_tensors(fields, NAN),
    "1e30 in its numbers": lambda fields, draws: with_bad_tensors(fields, 1e30),
    "no surface": lambda fields, draws: with_bad_tensors(fields, 0.0),
    "not in a list": lambda fields, draws: fields[0],
    "a list of words": lambda fields, draws: ["a field"],
    "a list with nothing": lambda fields, draws: [None],
}


def run_with(**about):
    def spoil(run, draws):
        object.__setattr__(run, "about", {**run.about, **about})
        return run

    return spoil


RUN = {
    "NaN in its numbers": lambda run, draws: with_bad_tensors(run, NAN),
    "of another stage": run_with(stage="Distil Nothing"),
    "no stage": run_with(stage=None),
    "losses as a word": run_with(losses="low"),
    "no tensors": lambda run, draws: type(run)({}, run.about),
    "nothing about it": lambda run, draws: type(run)(run.tensors, {}),
}


def tokens(change):
    return lambda pairs, draws: [[change(pairs[0][0]), pairs[0][1]]]


CONDITIONING = {
    "NaN in its tokens": tokens(lambda t: t * NAN),
    "tokens of another width": tokens(lambda t: t[..., :-7]),
    "no tokens": tokens(lambda t: t[:, :0]),
    "tokens of two dimensions": tokens(lambda t: t[0]),
    "tokens as a word": tokens(lambda t: "an apple"),
    "no dictionary": lambda pairs, draws: [[pairs[0][0]]],
}
