"""Preview Splat draws splats in the page: the right way round, batch by batch, and a picture where there is no WebGL."""

import pytest
from comfy_page import ComfyPage, new_tab
from handed import letter_splats
from lathe.pipelines.formats.splats import save_splats
from PIL import Image
from shared_server import Graph, shared_server

DRAWN = """() => {
  const preview = app.graph.nodes.find(n => n.type === 'LathePreviewSplat').latheSplats;
  return Boolean(preview.viewer?.mesh) && preview.poster.style.display === 'none' && preview.viewer.frames === 0;
}"""
PREVIEW = "app.graph.nodes.find(n => n.type === 'LathePreviewSplat').latheSplats"


@pytest.fixture(scope="module")
def splat_file() -> str:
    save_splats(letter_splats(), shared_server().base / "input" / "lettered.ply")
    return "lettered.ply"


def graph(file: str) -> dict:
    graph = Graph()
    splat = graph.add("LatheLoadSplat", file=file, fit=False)
    graph.add("LathePreviewSplat", splat=splat[0])
    return graph.prompt


def run(page: ComfyPage, prompt: dict) -> None:
    page.load_prompt(prompt)
    page.centre_on("LathePreviewSplat")
    page.start()
    assert page.wait_until_done() == "execution_success", page.tab.evaluate("window.lathe.done")


def reds_and_darks(picture: Image.Image) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Where the red and the dark pixels are, as fractions of the picture's width and height."""
    width, height = picture.size
    red, dark = [], []
    for i, (r, g, b) in enumerate(zip(*[iter(picture.tobytes())] * 3, strict=True)):
        place = (i % width / width, i // width / height)
        if r > 150 and g < 90 and b < 90:
            red.append(place)
        elif max(r, g, b) < 70:
            dark.append(place)
    return red, dark


def mean(places: list[tuple[float, float]], axis: int) -> float:
    return sum(place[axis] for place in places) / len(places)


def test_splats_are_drawn_the_right_way_round(page: ComfyPage, splat_file: str):
    run(page, graph(splat_file))
    page.tab.wait_for_function(DRAWN, timeout=120_000)
    page.picture("splat_viewer")
    views = page.viewer_pictures()
    assert len(views) == 1
    picture = views[0].crop((8, 28, views[0].width - 8, views[0].height - 40))  # without the words and buttons
    red, dark = reds_and_darks(picture)
    assert len(red) > 30 and len(dark) > 300, (len(red), len(dark))
    assert mean(red, 0) > 0.6, "the object's red left side is on the right"
    assert mean(dark, 0) < 0.5 and mean(dark, 1) < 0.5, "the F's stem is on the left, its bars at the top"


def test_the_drawing_is_what_the_node_rendered(page: ComfyPage):
    """The poster is Lathe's own rendering from the same camera."""
    poster = page.tab.evaluate(f"() => {PREVIEW}.poster.src")
    shown = page.viewer_pictures()[0]
    page.tab.evaluate(f"() => {{ {PREVIEW}.poster.style.display = 'block' }}")
    page.tab.wait_for_timeout(500)
    rendered = page.viewer_pictures()[0]
    page.tab.evaluate(f"() => {{ {PREVIEW}.poster.style.display = 'none' }}")
    assert "type=temp" in poster
    (red_a, dark_a), (red_b, dark_b) = reds_and_darks(shown), reds_and_darks(rendered)
    assert abs(mean(red_a, 0) - mean(red_b, 0)) < 0.02 and abs(mean(dark_a, 1) - mean(dark_b, 1)) < 0.02
    assert 0.7 < len(dark_a) / len(dark_b) < 1.4


def test_turning_with_the_mouse_and_back(page: ComfyPage):
    place = page.tab.locator(".lathe-splat-preview").bounding_box()
    before = page.tab.evaluate(f"() => {PREVIEW}.viewer.camera.position.toArray()")
    offset = page.tab.evaluate("() => [...app.canvas.ds.offset]")
    page.tab.mouse.move(place["x"] + 100, place["y"] + 100)
    page.tab.mouse.down()
    page.tab.mouse.move(place["x"] + 200, place["y"] + 120, steps=4)
    page.tab.mouse.up()
    page.tab.mouse.wheel(0, 200)
    page.tab.wait_for_timeout(500)
    after = page.tab.evaluate(f"() => {PREVIEW}.viewer.camera.position.toArray()")
    assert sum(abs(a - b) for a, b in zip(before, after, strict=True)) > 0.5
    assert page.tab.evaluate("() => [...app.canvas.ds.offset]") == offset and page.tab.evaluate("() => app.canvas.ds.scale") == 1
    page.tab.locator(".lathe-splat-preview button[title='first view']").click()
    back = page.tab.evaluate(f"() => {PREVIEW}.viewer.camera.position.toArray()")
    assert sum(abs(a - b) for a, b in zip(before, back, strict=True)) < 1e-3


def test_arrows_go_through_a_batch(page: ComfyPage):
    page.tab.evaluate(f"() => {PREVIEW}.show([{PREVIEW}.splats[0], {{...{PREVIEW}.splats[0], count: 7}}], [{PREVIEW}.posters[0]])")
    page.tab.wait_for_function(DRAWN, timeout=60_000)
    words = page.tab.locator(".lathe-splat-preview").inner_text
    assert "1 of 2" in words()
    page.tab.locator(".lathe-splat-preview button", has_text="›").click()
    page.tab.wait_for_function(DRAWN, timeout=60_000)
    assert "7 Gaussians, 2 of 2" in words()
    page.tab.locator(".lathe-splat-preview button", has_text="›").click()
    assert "1 of 2" in words()


def test_of_two_files_the_one_asked_for_last_stays(page: ComfyPage):
    """The first takes longer; a viewer that only notes what it shows stands in for the real one."""
    seen = page.tab.evaluate(f"""async () => {{
      const preview = {PREVIEW}, [real, splats, posters] = [preview.viewer, preview.splats, preview.posters], seen = [];
      const wait = (ms) => new Promise((done) => setTimeout(done, ms));
      preview.viewer = {{ show: async (url) => {{ await wait(url.includes('slow') ? 400 : 0); seen.push(url.match(/slow|quick/)[0]) }} }};
      const files = ['slow', 'quick', 'quick'].map((filename) => ({{ ...splats[0], filename }}));
      const first = preview.show(files, posters, 0);
      await wait(50);
      await Promise.all([first, preview.show(files, posters, 1), preview.show(files, posters, 2)]);
      preview.viewer = real;
      await preview.show(splats, posters, 0);
      return seen;
    }}""")
    assert seen == ["slow", "quick"], "one after the other, and those passed over not at all"


def test_the_viewer_is_no_part_of_the_workflow(page: ComfyPage, splat_file: str):
    (inputs,) = [node["inputs"] for node in page.prompt().values() if node["class_type"] == "LathePreviewSplat"]
    assert set(inputs) == {"splat"}
    (saved,) = [node for node in page.saved()["nodes"] if node["type"] == "LathePreviewSplat"]
    assert not [value for value in saved.get("widgets_values") or [] if value]


def test_removing_the_node_closes_the_viewer(page: ComfyPage):
    page.tab.evaluate(f"() => {{ window.closing = {PREVIEW} }}")
    page.tab.evaluate("() => app.graph.remove(app.graph.nodes.find(n => n.type === 'LathePreviewSplat'))")
    assert page.tab.evaluate("() => window.closing.viewer === null")
    page.tab.wait_for_timeout(2500)
    assert not page.complaints


def test_fetched_when_needed_under_comfyuis_own_policy(browser, splat_file: str):
    """`--disable-api-nodes` makes ComfyUI forbid all connections but to itself; the viewer's parts need none."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    page = ComfyPage(tab, shared_server())
    page.load_prompt(graph(splat_file))
    assert any(url.endswith("splat_preview.js") for url in asked) and not any("splat_viewer.mjs" in url for url in asked)
    asked.clear()
    run(page, graph(splat_file))
    page.tab.wait_for_function(DRAWN, timeout=120_000)
    assert any("splat_viewer.mjs" in url for url in asked)
    ours = [url for url in asked if "api.comfy.org" not in url]  # the page asks there about every pack's nodes, and is forbidden to
    assert ours and not [url for url in ours if not url.startswith((shared_server().url, "blob:", "data:"))]
    tab.close()


def test_without_webgl_there_is_a_picture(browser, splat_file: str):
    tab = new_tab(browser)
    tab.add_init_script(
        "const real = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...o) { return /webgl/.test(kind) ? null : real.call(this, kind, ...o) }"
    )
    page = ComfyPage(tab, shared_server())
    run(page, graph(splat_file))
    page.tab.wait_for_function(f"() => {PREVIEW}.poster.complete && /no WebGL 2/.test({PREVIEW}.words.textContent)", timeout=60_000)
    page.picture("splat_viewer_without_webgl")
    poster = page.tab.locator(".lathe-splat-preview img")
    assert poster.is_visible() and page.tab.evaluate(f"() => {PREVIEW}.poster.naturalWidth") == 512
    tab.close()
