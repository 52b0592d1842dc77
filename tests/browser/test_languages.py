"""The page in Chinese: our nodes have their Chinese names on old pages, too, which forget packs' texts."""

import json

import pytest
from comfy_page import ComfyPage, new_tab
from lathe_root import ROOT
from shared_server import shared_server

INPUTS = "() => LiteGraph.createNode('LatheRenderViews').inputs.map(input => input.localized_name)"
TITLES = "() => Object.fromEntries(Object.entries(LiteGraph.registered_node_types).map(([name, type]) => [name, type.title]))"


@pytest.fixture
def chinese_page(browser):
    server = shared_server()
    settings = server.base / "user" / "default" / "comfy.settings.json"
    before = settings.read_text()
    settings.write_text(json.dumps({**json.loads(before), "Comfy.Locale": "zh"}))
    tab = new_tab(browser)
    yield ComfyPage(tab, server)
    tab.close()
    settings.write_text(before)


def test_nodes_have_their_chinese_names(chinese_page: ComfyPage):
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    shown = chinese_page.tab.evaluate(TITLES)
    assert {name: shown[name] for name in texts} == {name: entry["display_name"] for name, entry in texts.items()}
    assert texts["LatheRenderViews"]["inputs"]["asset"]["name"] in chinese_page.tab.evaluate(INPUTS)
    assert shown["KSampler"] != "KSampler", "the page itself is not in Chinese"
    assert not chinese_page.complaints
