"""The rooms of the pack, counted from its imports and drawn: `python dev.py rooms` (it writes docs/pictures/rooms.svg with --draw).

A room is a folder directly below `pipelines`, a loose module there, `nodes`, or a folder of `nodes`. An arrow goes from a room to one it
imports from. A circle is a set of rooms, or of modules, that import each other in a loop; an arrow runs up where it closes a circle.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
PACKAGE = "lathe"
WIDTH, HEIGHT, GAP, FLOOR = 250, 76, 26, 122  # of a box and between boxes, in the picture
LETTERS = 38  # in a line of a box


@dataclass(frozen=True)
class House:
    """What was counted.

    Attributes:
        rooms: lines of code by room.
        plan: networkx.DiGraph of the rooms and their arrows.
        circles: rooms that import each other in a loop.
        module_circles: modules that do.
        up: arrows that would have to go so that no circle is left.
        loose: modules directly below `pipelines`.
    """

    rooms: dict[str, int]
    plan: Any
    circles: list[list[str]]
    module_circles: list[list[str]]
    up: list[tuple[str, str]]
    loose: list[str]


def room_of(module: str) -> str | None:
    """The room a module of the package lies in; None outside the pack and for files that only hand names on."""
    parts = module.split(".")[1:]
    if parts[:1] == ["pipelines"]:
        return "/".join(parts[:2]) if len(parts) > 1 else None
    if parts[:1] == ["nodes"]:
        return "/".join(parts[:2]) if len(parts) > 2 else "nodes"
    return None


def measure() -> House:
    """Counts the package `lathe`, which must be importable under that name."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    modules, plan = nx.DiGraph(), nx.DiGraph()
    rooms: dict[str, int] = {}
    for module in graph.modules:
        room = room_of(module)
        if room is None:
            continue
        path = ROOT.joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        rooms[room] = rooms.get(room, 0) + len(file.read_text(encoding="utf-8").splitlines())
        for imported in graph.find_modules_directly_imported_by(module):
            if room_of(imported) is not None:
                modules.add_edge(module, imported)
                if room_of(imported) != room:
                    plan.add_edge(room, room_of(imported))
    plan.add_nodes_from(rooms)
    loose = sorted(room for room in rooms if room.startswith("pipelines/") and (ROOT / f"{room}.py").is_file())
    return House(dict(sorted(rooms.items())), plan, _loops(plan), _loops(modules), _closing(plan), loose)


def _loops(graph: Any) -> list[list[str]]:
    return sorted(sorted(loop) for loop in nx.strongly_connected_components(graph) if len(loop) > 1)


def _closing(plan: Any) -> list[tuple[str, str]]:
    """Arrows taken out of the circles one after the other, each the one on most of the shortest circles, until none is left."""
    rest, taken = plan.copy(), []
    while loops := _loops(rest):
        inside = rest.subgraph(loops[0])
        weight = nx.edge_betweenness_centrality(inside)
        arrow = max(sorted(weight), key=weight.__getitem__)
        rest.remove_edge(*arrow)
        taken.append(arrow)
    return taken


def about(room: str) -> str:
    """The first sentence a room says of itself."""
    path = ROOT / room / "__init__.py" if (ROOT / room).is_dir() else ROOT / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].split(". ")[0].removesuffix(".")


def draw(house: House) -> str:
    """The rooms as an SVG, each below all that import it. Arrows that follow from others are left out."""
    floors = [sorted(floor) for floor in nx.topological_generations(house.plan)]
    lines = nx.transitive_reduction(house.plan)
    place: dict[str, float] = {}
    for floor in floors:  # each room about below those that import it
        above = {room: [place[p] for p in lines.predecessors(room) if p in place] for room in floor}
        floor.sort(key=lambda room: (sum(above[room]) / len(above[room]) if above[room] else 0.5, room))
        place |= {room: (i + 0.5) / len(floor) for i, room in enumerate(floor)}
    width = max(map(len, floors)) * (WIDTH + GAP) + GAP
    spot: dict[str, tuple[float, float]] = {}
    for row, floor in enumerate(floors):
        left = (width - len(floor) * (WIDTH + GAP) + GAP) / 2
        spot |= {room: (left + i * (WIDTH + GAP), 16 + row * FLOOR) for i, room in enumerate(floor)}
    height = 16 + len(floors) * FLOOR
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#8a99a8"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
    ]
    for start, end in sorted(lines.edges):
        (x0, y0), (x1, y1) = spot[start], spot[end]
        x0, y0, x1 = x0 + WIDTH / 2, y0 + HEIGHT, x1 + WIDTH / 2
        bend = (y1 - y0) / 2
        path = f"M{x0:.0f} {y0}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1}"
        parts.append(f'<path d="{path}" fill="none" stroke="#8a99a8" marker-end="url(#tip)"/>')
    for room, (x, y) in sorted(spot.items()):
        name = room.removeprefix("pipelines/") + ("" if room in house.loose else "/")
        fill = "#fdf3e1" if room.startswith("nodes") else "#e8f1fa"
        parts.append(f'<rect x="{x:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}"/>')
        parts.append(f'<text x="{x + 12:.0f}" y="{y + 20}" font-weight="bold">{escape(name)}</text>')
        for i, line in enumerate(textwrap.wrap(about(room), LETTERS, max_lines=3, placeholder=" ...")):
            parts.append(f'<text x="{x + 12:.0f}" y="{y + 36 + 14 * i}" font-size="11" fill="#445">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Prints the counts, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help=f"write {PICTURE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    house = measure()
    for room, lines in house.rooms.items():
        print(f"{room:32}{lines:6} lines -> {', '.join(sorted(r.removeprefix('pipelines/') for r in house.plan.successors(room)))}")
    for title, loops in (("circle of rooms", house.circles), ("circle of modules", house.module_circles), ("arrow up", house.up)):
        for loop in loops:
            print(f"{title}: {', '.join(loop)}")
    if arguments.draw:
        PICTURE.write_text(draw(house), encoding="utf-8")
    counts = {
        "rooms": len(house.rooms), "arrows": house.plan.number_of_edges(), "circles": len(house.circles),
        "module_circles": len(house.module_circles), "arrows_up": len(house.up), "loose_modules": len(house.loose),
    }  # fmt: skip
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
