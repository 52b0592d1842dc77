"""The cases: every hostile input of the table at every place of the pack that takes its kind, and a choice among them."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared_server import Graph

from . import feeds, names, table
from .feeds import Feeder, Input
from .table import EITHER, Row

POWERS = {"2**40": 2**40, "2**65": 2**65, "-2**65": -(2**65)}
TYPED: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "None": None,
    "'a word'": "a word",
    "{}": {},
    "'2'": "2",
    "True": True,
}
HANDS_ON = {"LatheJoinViews", "LatheSelectViews", "LatheTileViews", "LatheSaveDistillation"}
FEW = 3  # inputs of each node and of each kind that come first
BAD_PRIORS = {
    "tokens of another width": table.REFUSE,
    "nan": table.SAID,
    "first_nan": EITHER | table.WARN,
    "hungry": EITHER | table.WARN,
    "starving": table.REFUSE,
}


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        id: kind/node/input/what, which `--case` repeats.
        node: class of the node that gets it.
        row: what is right (see `table`).
        write: builds the node's inputs in a graph and returns them.
        files: what lies in the input folder (or where `place` says) meanwhile, by name.
        place: folder below the server's base for `files`.
        slow: whether a run of any length is right, as long as Cancel ends it.
    """

    id: str
    node: str
    row: Row
    write: Callable[[Feeder], dict[str, Any]]
    files: dict[str, bytes] = field(default_factory=dict)
    place: str = "input"
    slow: bool = False

    @property
    def kind(self) -> str:
        """What comes first in the id: a socket's type, typed, linked, word, file, prior or sound."""
        return self.id.split("/", 1)[0]

    def prompt(self, info: dict[str, Any], salt: str) -> dict[str, Any]:
        """The API prompt: the node with its sources before it and the report behind it."""
        graph = Graph()
        found = graph.add(self.node, **self.write(Feeder(graph)))
        sockets = list(info["output"])
        values = {f"value_{i}": found[i] for i in range(len(sockets))}
        graph.add("LatheHostileReport", node=found[0][0], sockets=" ".join(sockets), salt=salt, **values)
        return graph.prompt


def seed_of(seed: int, id: str) -> int:
    """A case's own seed, the same however many others are made."""
    return zlib.crc32(f"{seed}/{id}".encode())


def with_value(node: str, info: dict[str, Any], name: str, value: Any) -> Callable[[Feeder], dict[str, Any]]:
    return lambda feeder: {**feeds.sound(feeder, node, info), name: value}


def with_link(node: str, info: dict[str, Any], name: str, text: str) -> Callable[[Feeder], dict[str, Any]]:
    return lambda feeder: {**feeds.sound(feeder, node, info), name: feeder.node("LatheHostileValue", text=text)[0]}


def bounds(entry: Input) -> dict[str, Any]:
    """Numbers on a widget's bounds and just outside them."""
    low, high = entry.options.get("min"), entry.options.get("max")
    if low is None or high is None:
        return {}
    step = 1 if entry.kinds[0] == "INT" else 1e-3 * max(1.0, abs(high - low))
    return {"below": low - step, "above": high + step, "lowest": low, "highest": high}


def widget_cases(node: str, info: dict[str, Any], entry: Input) -> Iterator[Case]:
    """What may be typed into a widget, and what may come by a link."""
    edge, kind = bounds(entry), entry.kinds[0]
    for how in ("typed", "linked"):
        for what, row in table.WIDGETS.get((kind, how), {}).items():
            if what in ("below", "above", "lowest", "highest") and what not in edge:
                continue
            value = edge[what] if what in edge else POWERS.get(what)
            if what == "the default as a NumPy number":
                what_text = f"numpy {feeds.small(node, entry)!r}"
                yield Case(f"{how}/{node}/{entry.name}/{what}", node, row, with_link(node, info, entry.name, what_text))
                continue
            if how == "linked":
                write = with_link(node, info, entry.name, what if value is None else repr(value))
            else:
                typed = TYPED[what] if what in TYPED else float(what) if value is None else value
                write = with_value(node, info, entry.name, typed)
            yield Case(f"{how}/{node}/{entry.name}/{what}", node, row, write, slow=what in table.SLOW)
    for what, (text, row) in names.KINDS.get(entry.name, {}).items() if kind == "STRING" else ():
        yield Case(f"word/{node}/{entry.name}/{what}", node, row, with_value(node, info, entry.name, text))


def row_of(node: str, info: dict[str, Any], entry: Input, kind: str, what: str, row: Row) -> Row | None:
    """The table's row for this place; None where the input is not hostile there."""
    others = [e for e in feeds.inputs_of(info) if e.name != entry.name and feeds.is_fed(node, e) and e.name not in feeds.ONE_PICTURE]
    if what in table.COUNTED:
        views = any(e.kinds[0] in ("IMAGE", "MASK", "LATHE_CAMERAS") for e in others)
        assets = any({"MESH", "SPLAT", "LATHE_FIELD"} & set(e.kinds) for e in others)
        return row if entry.name not in feeds.ONE_PICTURE and (views or (assets and what == "for three assets")) else None
    if what in table.LOOKED_AT and node in HANDS_ON:
        return EITHER | table.WARN
    if what == "nothing" and entry.optional:
        return EITHER | table.WARN
    return row


def socket_cases(node: str, info: dict[str, Any], entry: Input, seed: int) -> Iterator[Case]:
    """What may come into a socket."""
    for kind in entry.kinds:
        if kind.startswith("FILE_3D"):  # of newer cores; the loaders' files are the same
            continue
        for what, row in {**table.SOCKETS.get(kind, {}), **table.NO_PAYLOAD}.items():
            right = row_of(node, info, entry, kind, what, row)
            id = f"{kind}/{node}/{entry.name}/{what}"
            if right is not None:
                yield Case(id, node, right, spoiled(node, info, entry, kind, what, seed_of(seed, id)))
        for what, row in BAD_PRIORS.items() if kind == "LATHE_PRIOR" and "Distil" in node else ():
            yield Case(f"prior/{node}/{entry.name}/{what}", node, row, prior(node, info, entry.name, what))


def spoiled(node: str, info: dict[str, Any], entry: Input, kind: str, what: str, seed: int) -> Callable[[Feeder], dict[str, Any]]:
    def write(feeder: Feeder) -> dict[str, Any]:
        values = feeds.sound(feeder, node, info)
        source = feeder.source(node, entry.name, kind)
        return {**values, entry.name: feeder.node("LatheHostileSpoil", value=source, socket=kind, how=what, seed=seed)[0]}

    return write


def prior(node: str, info: dict[str, Any], name: str, what: str) -> Callable[[Feeder], dict[str, Any]]:
    """`what` of the tests' own prior, or a prior around core's MODEL with a spoiled CONDITIONING."""

    def write(feeder: Feeder) -> dict[str, Any]:
        values = feeds.sound(feeder, node, info)
        if what in table.CONDITIONING:
            sources = {name: feeder.source("", name, name.upper()) for name in ("model", "vae")}
            sources |= {name: feeder.source("", name, "CONDITIONING") for name in ("positive", "negative")}
            for side in ("positive", "negative"):
                spoiled = {"value": sources[side], "socket": "CONDITIONING", "how": what, "seed": 0}
                sources[side] = feeder.node("LatheHostileSpoil", **spoiled)[0]
            settings = {"preset": "threestudio", "strength": 1.0, "guidance": 0.0, "resolution": 64}
            return {**values, name: feeder.node("LathePriorFromModel", **sources, **settings)[0]}
        return {**values, name: feeder.node("LatheTestBallPrior", kind=what)[0]}

    return write


def all_cases(nodes: dict[str, Any], files: dict[str, dict[str, Any]], seed: int) -> list[Case]:
    """Every case there is.

    Args:
        nodes: what /object_info says of the pack's nodes.
        files: hostile files by node: name of the case to (ending, content, row).
        seed: of what is drawn.
    """
    cases = []
    for node, info in nodes.items():
        cases.append(Case(f"sound/{node}", node, table.VALUE | table.WARN, partial(feeds.sound, node=node, info=info)))
        for entry in feeds.inputs_of(info):
            if feeds.is_widget(entry):
                cases += widget_cases(node, info, entry)
            elif entry.name not in feeds.NEVER.get(node, ()):
                cases += socket_cases(node, info, entry, seed)
        for what, (ending, content, row) in files.get(node, {}).items():
            id, widget = f"file/{node}/{what}", "model" if "model" in info["input"]["required"] else "file"
            name = f"hostile_{zlib.crc32(id.encode()):08x}{ending}"
            place = "models/lathe" if widget == "model" else "input"
            cases.append(Case(id, node, row, with_value(node, info, widget, name), {name: content}, place))
    return cases


def chosen(cases: list[Case], count: int, seed: int, slow: frozenset[str] = frozenset()) -> list[Case]:
    """`count` of the cases, drawn so that all nodes, places and kinds of input come about equally often; the sound ones first.

    `slow` nodes come last, but for one case each.
    """
    rest = sorted(cases, key=lambda case: case.id)
    random.Random(seed).shuffle(rest)
    used: Counter[tuple[str, ...]] = Counter()
    levels: list[tuple[int, int]] = []
    for number, case in enumerate(rest):
        kind, node, *where = case.id.split("/")
        keys = [("how", kind, where[-1] if where else ""), ("place", kind, node, *where[:-1]), ("node", node), ("kind", kind)]
        how, place, of_node, of_kind = (used[key] for key in keys)
        used.update(keys)
        level = min(how, place) + (of_node * 4 if node in slow else of_node // 8)
        if min(of_node, of_kind) < FEW:
            level = -1
        levels.append((-2 if kind == "sound" else level, number))
    return [rest[number] for _, number in sorted(levels)[:count]]
