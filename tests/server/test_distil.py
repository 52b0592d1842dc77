"""Distillation in the real server: runs that go on, priors and pictures that are no good, Cancel."""

import re
import time
from collections.abc import Callable

import pytest
from comfy_server import Run, Server
from shared_server import Graph

LOOP = {"preset": "mini", "seed": 0, "steps": 3, "size": 24, "reference_weight": 1.0, "elevation": 0.0, "radius": 1.8, "fov": 40.0}
MESH = {**LOOP, "surface": "dmtet", "grid": 16, "faces": 400, "texture_size": "512"}
WIDGETS = {"LatheDistilField": LOOP, "LatheDistilMesh": MESH, "LatheDistilSplat": {**LOOP, "points": 200}}


def distilled(g: Graph, node: str = "LatheDistilField", prior: str = "good", picture: dict | None = None, **changes) -> list:
    """A loop on a box before white and a prior that wants a ball; `picture`: of the test picture, or {} for none."""
    wired = {"prior": g.add("LatheTestBallPrior", kind=prior)[0]}
    if picture != {}:
        seen = g.add("LatheTestPicture", **{"kind": "box", "width": 64, "height": 64, "count": 1, **(picture or {})})
        wired |= {"image": seen[0], "mask": seen[1]}
    if node == "LatheDistilMesh":
        wired["start"] = g.add("LatheTestTetrahedra", count=1)[0]
    return g.add(node, **{**WIDGETS[node], **wired, **changes})


def finished(comfy: Server, g: Graph, last: list) -> Run:
    """Runs with a probe on the asset and one on the run."""
    for slot in (0, 3):
        g.add("LatheTestFingerprint", value=last[slot], salt="")
    return comfy.run(g.prompt)


def ended_well(run: Run) -> None:
    assert run.status == "success", run.error.get("exception_message")


def prints(run: Run) -> list[str]:
    ended_well(run)
    return [output["fingerprint"][0] for _, output in sorted(run.outputs.items(), key=lambda pair: int(pair[0])) if "fingerprint" in output]


@pytest.mark.parametrize("node", WIDGETS)
def test_a_run_that_was_saved_goes_on_as_if_it_had_never_stopped(comfy: Server, node: str):
    def saved(steps: int, go_on: list | None = None) -> tuple[list[str], str]:
        g = Graph()
        more = {} if go_on is None else {"run": g.add("LatheLoadDistillation", file=go_on)[0]}
        last = distilled(g, node, picture={}, steps=steps, **more)
        kept = g.add("LatheSaveDistillation", run=last[3], filename_prefix="lathe/run")
        shown = g.add("PreviewAny", source=kept[0])
        run = finished(comfy, g, last)
        return prints(run), run.outputs[shown[0][0]]["text"][0]

    short, file = saved(2)
    assert file.startswith("lathe/run_") and (comfy.base / "output" / file).stat().st_size > 1000
    longer, _ = saved(4, f"{file} [output]")
    assert longer[0] != short[0] and longer[1] != short[1]
    assert saved(4, f"{file} [output]")[0] == longer


def of_another_node(g: Graph) -> list:
    return distilled(g, "LatheDistilSplat", picture={}, run=distilled(g, picture={})[3])


def of_another_preset(g: Graph) -> list:
    return distilled(g, "LatheDistilMesh", picture={}, grid=24, run=distilled(g, "LatheDistilMesh", picture={})[3])


def an_empty_mask(g: Graph) -> list:
    return distilled(g, mask=g.add("LatheTestPicture", kind="white", width=64, height=64, count=1)[1])


def a_mask_alone(g: Graph) -> list:
    return distilled(g, picture={}, mask=g.add("LatheTestPicture", kind="box", width=64, height=64, count=1)[1])


def two_meshes(g: Graph) -> list:
    return distilled(g, "LatheDistilMesh", start=g.add("LatheTestTetrahedra", count=2)[0])


# What is given -> what the message must say.
CASES: dict[str, tuple[Callable[[Graph], list], str]] = {
    "two pictures": (lambda g: distilled(g, picture={"count": 2}), "one asset at a time, but 2 pictures"),
    "a picture that is not square": (lambda g: distilled(g, picture={"width": 96}), "96 x 64; it must be square"),
    "a picture of eight pixels": (lambda g: distilled(g, picture={"width": 8, "height": 8}), "8 pixels wide"),
    "pixels that are not numbers": (lambda g: distilled(g, picture={"kind": "nan"}), "NaN"),
    "an empty mask": (an_empty_mask, "mask is empty"),
    "a mask without a picture": (a_mask_alone, "needs the reference picture"),
    "two meshes": (two_meshes, "one asset at a time, but 2 arrived at start"),
    "views of eight pixels": (lambda g: distilled(g, size=8), "8 pixels are too small"),
    "a run of another node": (of_another_node, "run state is of 'Distil Field'"),
    "a run of another grid": (of_another_preset, "does not fit these settings"),
    "a prior that is never finite": (lambda g: distilled(g, prior="nan", picture={}, steps=60), "20 steps in a row .* half precision"),
    "no memory at any size": (lambda g: distilled(g, prior="starving", size=64), "Out of memory, at 64 and 32 pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_it(comfy: Server, case: str):
    build, says = CASES[case]
    g = Graph()
    run = finished(comfy, g, build(g))
    assert run.status == "error", "the run went through"
    assert run.error["exception_type"].rpartition(".")[2] in ("ValueError", "FitBroken"), run.error["exception_type"]
    assert re.search(says, run.error["exception_message"]), run.error["exception_message"]


@pytest.mark.parametrize(("prior", "says"), [
    ("first_nan", "it is skipped, and so are others like it"), ("hungry", "Out of memory at 32 pixels: this run goes on at 16"),
])  # fmt: skip
def test_what_a_run_survives_it_says_in_the_log(comfy: Server, prior: str, says: str):
    g = Graph()
    ended_well(finished(comfy, g, distilled(g, prior=prior, size=32)))
    assert says in comfy.log_text()


@pytest.mark.parametrize("node", WIDGETS)
def test_cancel_keeps_the_last_good_state(comfy: Server, node: str):
    """The prompt ends as cancelled, nothing is written; queued once more it goes on behind the loop, with what was reached."""
    g = Graph()
    last = distilled(g, node, steps=5000)
    g.add("LatheSaveDistillation", run=last[3], filename_prefix="lathe/cancelled")
    g.add("LatheTestFingerprint", value=last[0], salt="")
    id, pressed = last[0][0], []

    def watch(run: Run, event: str, data: dict) -> None:
        if event == "progress" and data.get("node") == id and data["max"] == 5000 and data["value"] >= 3 and not pressed:
            pressed.append(time.monotonic())
            comfy.interrupt()

    run = comfy.run(g.prompt, watch)
    assert pressed and run.status == "interrupted" and time.monotonic() - pressed[0] < 10
    kept = list((comfy.base / "output" / "lathe").glob("cancelled*"))
    again = comfy.run(g.prompt)
    ended_well(again)
    assert id in again.cached and id not in again.executed
    assert len(list((comfy.base / "output" / "lathe").glob("cancelled*"))) == len(kept) + 1
    fresh = Graph()
    ended_well(finished(comfy, fresh, distilled(fresh, node, steps=2, seed=7)))
