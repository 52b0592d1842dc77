"""These tests talk to a real ComfyUI over HTTP, as the page does."""

import comfy_source
import pytest
from comfy_server import Server
from shared_server import shared_server


@pytest.fixture(scope="session")
def comfy() -> Server:
    """The server all tests share."""
    if comfy_source.comfyui_dir() is None:
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    return shared_server()


@pytest.fixture(scope="session")
def lathe_nodes(comfy: Server) -> dict[str, dict]:
    """What /object_info says about each of the pack's nodes."""
    return {name: info for name, info in comfy.get("/object_info").items() if info["python_module"] == "custom_nodes.lathe"}
