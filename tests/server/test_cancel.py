"""Progress, previews and Cancel while a node works."""

import time
from io import BytesIO

import pytest
from comfy_server import Run, Server
from PIL import Image
from shared_server import FIT_SPLATS, Graph, load_prompt

# Long nodes, a workflow they are in, and a changed widget that makes them run anew: each is cancelled at its first sign of progress.
LONG: list[tuple[str, str, dict]] = [
    ("image_to_mesh", "LatheGenerateViews", {"seed": 77, "steps": 60}),
    ("image_to_mesh", "LatheReconstruct", {}),
    ("image_to_mesh", "LatheFieldToMesh", {"resolution": 96}),
    ("image_to_mesh", "LatheUnwrapMesh", {"texture_size": "4096"}),
    ("image_to_mesh", "LatheBakeFieldTexture", {"size": "4096"}),
    ("image_to_mesh", "LatheRenderViews", {"width": 768}),
    ("views_upscaled_by_core_then_baked", "LatheBakeViewsTexture", {"size": "4096"}),
    ("turntable_to_splat", "LatheEstimateElevation", {"lowest": -40.0}),
    ("turntable_to_splat", "LatheFitSplats", {"steps": 3000}),
    ("image_to_splat_mini", "LatheRenoiseRefine", {"fit_iterations": 1500}),
    ("image_to_splat_mini", "LatheRenoiseViews", {"steps": 90}),
    ("splat_to_mesh", "LatheFitMesh", {"steps": 600}),
    ("magic123_mini", "LatheDistilField", {"steps": 3000}),
    ("magic123_mini", "LatheDistilMesh", {"steps": 3000}),
    ("views_to_splat_mini", "LatheProposeVoxels", {"threshold": 0.45}),
    ("views_to_splat_mini", "LatheReconstructSplats", {"seed": 9}),
]
KEEP_WHAT_WAS_REACHED = {"LatheFitSplats", "LatheRenoiseRefine", "LatheFitMesh", "LatheDistilField", "LatheDistilMesh"}
START_FIRST = {"LatheFitSplats", "LatheDistilMesh"}  # a start is made, with progress of its own: before the steps nothing is reached


def slow(steps: int, seed: int) -> dict:
    graph = Graph()
    image = graph.add("LatheTestSlow", steps=steps, seed=seed)
    graph.add("PreviewImage", images=image[0])
    return graph.prompt


def cancel_in(comfy: Server, prompt: dict, node: str, least: int = 0) -> tuple[Run, float]:
    """Runs, presses Cancel at the node's first progress of `least` steps or more; the run, and the seconds from Cancel to its end."""
    pressed: list[float] = []

    def watch(run: Run, event: str, data: dict) -> None:
        if event == "progress" and data.get("node") == node and least <= data["max"] > data["value"] and not pressed:
            pressed.append(time.monotonic())
            comfy.interrupt()

    run = comfy.run(prompt, watch)
    assert pressed, "the node ended without telling of its progress"
    return run, time.monotonic() - pressed[0]


def test_progress_and_previews_move(comfy: Server):
    run = comfy.run(slow(steps=60, seed=1))
    assert run.status == "success"
    steps = [step for node, step, _ in run.progress if node == "1"]
    assert steps == sorted(steps) and steps[-1] == 60 and len(steps) > 20
    pictures = [Image.open(BytesIO(data)) for node, data in run.previews if node == "1"]
    assert 4 <= len(pictures) <= 10, "a picture about each half second"
    red_first, red_last = (sum(p.convert("RGB").resize((1, 1)).getpixel((0, 0))) for p in (pictures[0], pictures[-1]))
    assert red_last > red_first + 100


def test_cancel_ends_a_tick_loop_at_once(comfy: Server):
    run, seconds = cancel_in(comfy, slow(steps=4000, seed=2), "1")
    assert run.status == "interrupted" and seconds < 2
    assert comfy.run(slow(steps=3, seed=3)).status == "success"


@pytest.mark.parametrize(("workflow", "node_class", "change"), LONG, ids=[row[1] for row in LONG])
def test_cancel_in_a_long_node(comfy: Server, workflow: str, node_class: str, change: dict):
    prompt = load_prompt(workflow)
    (id,) = (i for i, node in prompt.items() if node["class_type"] == node_class)
    assert set(change) <= set(prompt[id]["inputs"])
    if not change:  # nothing of its own to change: what comes before it changes
        (views,) = (node for node in prompt.values() if node["class_type"] == "LatheGenerateViews")
        views["inputs"]["seed"] = 78
    prompt[id]["inputs"].update(change)
    before = written(comfy)
    run, seconds = cancel_in(comfy, prompt, id, change["steps"] if node_class in START_FIRST else 0)
    assert run.status == "interrupted" and seconds < 10
    if node_class in KEEP_WHAT_WAS_REACHED:
        assert written(comfy) == before, "a file of a run that was cancelled"
        again = comfy.run(prompt)
        assert again.status == "success", again.error.get("exception_message")
        assert id in again.cached and id not in again.executed


def written(comfy: Server) -> set[str]:
    """All files in the output folder."""
    return {str(path) for path in (comfy.base / "output").rglob("*") if path.is_file()}


def fit(steps: int) -> tuple[dict, str]:
    """Splats of a box from 8 views of 64 px, and a probe behind; the prompt and the fitting node's id."""
    graph = Graph()
    views = graph.add("LatheTestPicture", kind="box", width=64, height=64, count=8)
    cameras = graph.add("LatheOrbitCameras", views=8, elevation=20.0, radius=4.0, fov=30.0, start=0.0, turn=360.0, endpoint=False)
    splat = graph.add("LatheFitSplats", images=views[0], masks=views[1], cameras=cameras[0], **{**FIT_SPLATS, "steps": steps})
    graph.add("LatheTestFingerprint", value=splat[0], salt="")
    return graph.prompt, splat[0][0]


def test_a_cancelled_fit_keeps_its_last_good_state(comfy: Server):
    """The prompt ends as cancelled; queued once more it goes on behind the fit, with what the fit had reached."""
    prompt, node = fit(steps=3000)
    run, seconds = cancel_in(comfy, prompt, node, least=3000)
    assert run.status == "interrupted" and seconds < 10
    again = comfy.run(prompt)
    assert again.status == "success"
    assert node in again.cached and node not in again.executed
    assert any("fingerprint" in output for output in again.outputs.values())
    fresh, node = fit(steps=20)
    done = comfy.run(fresh)
    assert done.status == "success" and node in done.executed


def test_a_fit_is_cancelled_while_its_start_is_made(comfy: Server):
    prompt, node = fit(steps=21)
    run, seconds = cancel_in(comfy, prompt, node)
    assert run.status == "interrupted" and seconds < 5
    assert [total for id, _, total in run.progress if id == node and total == 21] == []
    again = comfy.run(prompt)
    assert again.status == "success" and node in again.executed
