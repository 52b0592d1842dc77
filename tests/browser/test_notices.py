"""Warnings of a node, as text on it in the page."""

from comfy_page import ComfyPage
from shared_server import FIT_SPLATS, Graph

TEXT = (
    "() => app.graph.nodes.filter(n => n.type === 'LatheFitSplats').flatMap(n => n.widgets.filter(w => w.name === '$$node-text-preview'))"
)


def fit(views: int, seed: int) -> dict:
    g = Graph()
    turn = g.add("LatheOrbitCameras", views=views, elevation=20.0, radius=4.0, fov=30.0, start=0.0, turn=360.0, endpoint=False)
    drawn = g.add("LatheTestPicture", kind="box", width=64, height=64, count=views)
    made = g.add("LatheFitSplats", images=drawn[0], masks=drawn[1], cameras=turn[0], **{**FIT_SPLATS, "seed": seed})
    g.add("LathePreviewSplat", splat=made[0])
    return g.prompt


def test_a_warning_stands_on_the_node_until_it_runs_again(page: ComfyPage):
    page.load_prompt(fit(1, seed=1))
    for seed in (1, 2):
        page.tab.evaluate(
            "(seed) => { app.graph.nodes.find(n => n.type === 'LatheFitSplats').widgets.find(w => w.name === 'seed').value = seed }", seed
        )
        page.start()
        assert page.wait_until_done() == "execution_success"
        page.tab.wait_for_function(f"({TEXT})().length === 1", timeout=10_000)
        assert "one view alone" in page.tab.evaluate(f"({TEXT})()[0].value")
    page.picture("warning_on_the_node")
