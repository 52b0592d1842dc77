"""These tests drive ComfyUI's page in a real browser."""

import comfy_source
import pytest
from comfy_page import ComfyPage, find_browser, new_tab, open_browser
from shared_server import shared_server


@pytest.fixture(scope="session")
def browser():
    if comfy_source.comfyui_dir() is None:
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    if find_browser() is None:
        pytest.skip("no Chromium or Chrome on the PATH")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser):
    tab = new_tab(browser)
    yield ComfyPage(tab, shared_server())
    tab.close()
