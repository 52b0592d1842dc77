"""Drives ComfyUI's page in a real browser: opens it, loads workflows, exports prompts, runs them, takes pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from comfy_server import Server
from PIL import Image
from shared_server import ARTIFACTS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# What the page says that is no fault of the pack: optional user files, its own requests to the outside, which the server forbids.
EXPECTED_NOISE = (
    *("user.css", "comfy.templates.json", "userdata", "404", "reading 'id'", "THREE"),
    *("Content Security Policy", "api.comfy.org", "ERR_NAME_NOT_RESOLVED", "graph accessed before initialization"),
)
READY = "Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types?.KSampler)"

WATCH = """() => {
  window.lathe = { done: null, previews: 0, progress: [] };
  for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(end, e => { window.lathe.done = { status: end, detail: e.detail }; });
  app.api.addEventListener('b_preview_with_metadata', () => { window.lathe.previews += 1; });
  app.api.addEventListener('progress', e => { window.lathe.progress.push(e.detail.value); });
}"""


def find_browser() -> str | None:
    """A Chromium on the PATH."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


class ComfyPage:
    """One tab with ComfyUI's page, ready for work."""

    def __init__(self, tab: Any, server: Server) -> None:
        self.tab, self.server = tab, server
        self.complaints: list[str] = []
        tab.on("console", lambda m: self._note(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: self._note(str(e)))
        tab.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        tab.goto(server.url)
        tab.wait_for_function(READY, timeout=120_000)
        tab.evaluate(WATCH)

    def _note(self, text: str) -> None:
        if not any(noise in text for noise in EXPECTED_NOISE):
            self.complaints.append(text)

    def load(self, workflow: dict[str, Any]) -> None:
        """Shows a workflow (what the page saves) on the canvas."""
        self.tab.evaluate("async w => { await app.loadGraphData(w); }", workflow)
        self.tab.wait_for_function("n => app.graph.nodes.length === n", arg=len(workflow["nodes"]), timeout=30_000)

    def load_prompt(self, prompt: dict[str, Any]) -> None:
        """Shows an API prompt on the canvas."""
        self.tab.evaluate("async p => { await app.loadApiJson(p, 'prompt'); }", prompt)

    def prompt(self) -> dict[str, Any]:
        """The API prompt of what is on the canvas, as the page would post it."""
        return dict(json.loads(self.tab.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)")))

    def saved(self) -> dict[str, Any]:
        """What is on the canvas, as the page would save it."""
        return dict(json.loads(self.tab.evaluate("() => JSON.stringify(app.graph.serialize())")))

    def alerts(self) -> list[str]:
        """The page's pop-up messages, now on screen."""
        return list(self.tab.locator(".p-toast-message").all_inner_texts())

    def fit(self) -> None:
        """Brings the whole graph into view."""
        self.tab.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.tab.wait_for_timeout(800)

    def centre_on(self, node_type: str) -> None:
        """Brings the first node of this type into view, at full size."""
        self.tab.evaluate(
            """t => { const n = app.graph.nodes.find(n => n.type === t); const d = app.canvas.ds; d.scale = 1;
            d.offset = [innerWidth / 2 - n.pos[0] - n.size[0] / 2, innerHeight / 2 - n.pos[1] - n.size[1] / 2];
            app.graph.setDirtyCanvas(true, true); }""",
            node_type,
        )
        self.tab.wait_for_timeout(800)

    def start(self) -> None:
        """Presses Run."""
        self.tab.evaluate("() => { Object.assign(window.lathe, { done: null, previews: 0, progress: [] }); app.queuePrompt(0, 1); }")

    def wait_until_done(self, timeout: float = 300) -> str:
        """execution_success, execution_error or execution_interrupted."""
        self.tab.wait_for_function("window.lathe.done", timeout=timeout * 1000)
        return str(self.tab.evaluate("window.lathe.done.status"))

    def viewer_pictures(self) -> list[Image.Image]:
        """What the 3D viewers on the canvas show now."""
        canvases = self.tab.locator("canvas:not(#graph-canvas)").all()
        views = [c for c in canvases if c.is_visible() and (c.bounding_box() or {}).get("width", 0) > 64]
        return [Image.open(BytesIO(view.screenshot())).convert("RGB") for view in views]

    def picture(self, name: str) -> Path:
        """A screenshot in artifacts/."""
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.tab.screenshot(path=str(path))
        return path


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless browser; its tabs are 1280 x 800."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(),
            args=[
                *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


def new_tab(browser: Any) -> Any:
    """An empty tab. Without its API nodes ComfyUI sends a policy that keeps the viewer from the textures inside a GLB: it is set aside."""
    return browser.new_page(viewport={"width": 1280, "height": 800}, bypass_csp=True)


def as_text(prompt: dict[str, Any]) -> str:
    """A prompt as it is kept in a file: nodes by number, one form only."""
    ordered = {key: prompt[key] for key in sorted(prompt, key=lambda k: [int(p) if p.isdigit() else 0 for p in k.split(":")])}
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"
