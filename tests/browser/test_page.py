"""The page: the pack's templates, its workflows on the canvas, a run with moving previews, and the mesh in the viewer."""

import json

import pytest
from comfy_page import ComfyPage, as_text, new_tab
from PIL import Image, ImageChops
from shared_server import Graph, load_prompt, load_workflow, prompt_path, shared_server, workflow_names

UNKNOWN = "() => app.graph.nodes.map(n => n.type).filter(t => !LiteGraph.registered_node_types[t])"
VIEWERS = ("Preview3D", "LatheSaveMesh", "SaveGLB")


def slow(steps: int, seed: int) -> dict:
    graph = Graph()
    image = graph.add("LatheTestSlow", steps=steps, seed=seed)
    graph.add("PreviewImage", images=image[0])
    return graph.prompt


def test_previews_move_on_the_node(page: ComfyPage):
    page.load_prompt(slow(steps=120, seed=11))
    page.start()
    page.tab.wait_for_function("window.lathe.previews >= 2", timeout=30_000)
    page.centre_on("LatheTestSlow")
    page.picture("preview_while_running")
    assert page.wait_until_done() == "execution_success"
    seen = page.tab.evaluate("window.lathe")
    assert seen["previews"] >= 5
    assert seen["progress"] == sorted(seen["progress"]) and seen["progress"][-1] == 120


@pytest.mark.parametrize("name", workflow_names())
def test_the_kept_prompt_is_what_the_page_posts(page: ComfyPage, name: str):
    page.load(load_workflow(name))
    page.fit()
    page.picture(f"workflow_{name}")
    assert not page.alerts(), "the page does not like the file"
    assert not page.tab.evaluate(UNKNOWN), "nodes that nobody registered"
    assert as_text(page.prompt()) == prompt_path(name).read_text(encoding="utf-8"), "run `python dev.py export`"


@pytest.mark.parametrize("name", [n for n in workflow_names() if n == "image_to_mesh_mini"])
def test_a_workflow_runs_and_its_mesh_is_in_the_viewer(page: ComfyPage, name: str):
    classes = {node["class_type"] for node in load_prompt(name).values()}
    viewer = next(v for v in VIEWERS if v in classes)
    page.load(load_workflow(name))
    page.centre_on(viewer)
    empty = page.viewer_pictures()
    page.start()
    assert page.wait_until_done() == "execution_success", json.dumps(page.tab.evaluate("window.lathe.done"))[:2000]
    for _ in range(20):  # the file is fetched and drawn after the run has ended
        page.tab.wait_for_timeout(1500)
        page.centre_on(viewer)
        drawn = page.viewer_pictures()
        if max(changed(a, b) for a, b in zip(empty, drawn, strict=True)) > 0.05:
            break
    page.picture("mesh_in_viewer")
    assert max(changed(a, b) for a, b in zip(empty, drawn, strict=True)) > 0.05, "the viewer shows what it showed before the run"


def changed(before: Image.Image, after: Image.Image) -> float:
    """The share of the picture that differs clearly; both at 64 x 64."""
    difference = ImageChops.difference(before.resize((64, 64)), after.resize((64, 64))).convert("L")
    return sum(difference.histogram()[16:]) / 64**2


def test_templates_show_under_the_packs_name(browser):
    page = ComfyPage(new_tab(browser), shared_server())
    page.tab.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.tab.get_by_text("lathe", exact=True).first.click(timeout=60_000)
    page.tab.get_by_text(workflow_names()[0], exact=True).first.wait_for(timeout=30_000)
    page.tab.wait_for_timeout(1500)
    page.picture("templates")
    text = page.tab.locator("body").inner_text()
    assert not [name for name in workflow_names() if name not in text]
    page.tab.close()


def test_the_page_does_not_complain(page: ComfyPage):
    assert not page.complaints
