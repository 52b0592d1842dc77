"""These tests import ComfyUI into the test process, without a server."""

import comfy_source
import pytest

if not comfy_source.add_to_path():
    pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR", allow_module_level=True)
