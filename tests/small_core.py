"""The server tests' small core models, for tests that import ComfyUI into their own process."""

import importlib
import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "server" / "tiny_models"


def module(name: str):
    """A module of the tests' own pack, e.g. module("core"). ComfyUI has a `server` of its own, so it is not imported by that path."""
    if "lathe_tiny_models" not in sys.modules:
        spec = importlib.util.spec_from_file_location("lathe_tiny_models", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
        pack = importlib.util.module_from_spec(spec)
        sys.modules["lathe_tiny_models"] = pack
        spec.loader.exec_module(pack)
    return importlib.import_module(f"lathe_tiny_models.{name}")
