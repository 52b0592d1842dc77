"""The page: the pack's templates, its workflows on the canvas, a run with moving previews, and the mesh in the viewer."""

import json

import pytest
from comfy_page import ComfyPage, as_text
from shared_server import Graph, load_prompt, load_workflow, prompt_path, workflow_names


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
    assert as_text(page.prompt()) == prompt_path(name).read_text(encoding="utf-8"), "run `python dev.py export`"


def test_templates_show_under_the_packs_name(page: ComfyPage):
    if not workflow_names():
        pytest.skip("no workflow yet")
    page.tab.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.tab.get_by_text("lathe", exact=False).first.click(timeout=20_000)
    page.tab.wait_for_timeout(1500)
    page.picture("templates")
    text = page.tab.locator("body").inner_text()
    for name in workflow_names():
        assert name in text or name.replace("_", " ") in text.lower()
    page.tab.keyboard.press("Escape")


@pytest.mark.parametrize("name", [n for n in workflow_names() if n == "image_to_mesh_mini"])
def test_a_workflow_runs_and_its_mesh_is_in_the_viewer(page: ComfyPage, name: str):
    page.load(load_workflow(name))
    page.start()
    assert page.wait_until_done() == "execution_success", json.dumps(page.tab.evaluate("window.lathe.done"))[:2000]
    viewers = [n["class_type"] for n in load_prompt(name).values() if n["class_type"] in ("LatheSaveMesh", "Preview3D", "SaveGLB")]
    assert viewers
    page.centre_on(viewers[0])
    page.tab.wait_for_timeout(4000)
    page.picture("mesh_in_viewer")
    assert viewer_shows_something(page)


def viewer_shows_something(page: ComfyPage) -> bool:
    """True where a WebGL canvas of a node holds more than its background."""
    return bool(
        page.tab.evaluate(
            """async () => {
      for (const canvas of document.querySelectorAll('canvas')) {
        if (canvas.id === 'graph-canvas' || canvas.width < 64) continue;
        await new Promise(r => requestAnimationFrame(r));
        const copy = new OffscreenCanvas(64, 64), pen = copy.getContext('2d');
        const shot = await createImageBitmap(await (await fetch(canvas.toDataURL())).blob());
        pen.drawImage(shot, 0, 0, 64, 64);
        const pixels = pen.getImageData(0, 0, 64, 64).data, seen = new Set();
        for (let i = 0; i < pixels.length; i += 4) seen.add(pixels[i] >> 3 << 10 | pixels[i + 1] >> 3 << 5 | pixels[i + 2] >> 3);
        if (seen.size > 20) return true;
      }
      return false;
    }"""
        )
    )


def test_the_page_does_not_complain(page: ComfyPage):
    assert not page.complaints
