"""These tests import ComfyUI into the test process, without a server; without a ComfyUI they are skipped and say so."""

import comfy_source
import pytest

HAVE_COMFYUI = comfy_source.add_to_path()


class Skipped(pytest.File):
    """A test file that is not even imported."""

    def collect(self):
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return None if HAVE_COMFYUI else Skipped.from_parent(parent, path=module_path)
