"""Makes the project root importable as the package `lathe`, without putting the root on sys.path.

ComfyUI has a module called `nodes`, as this project does, so the root must never be on a path that also holds
ComfyUI. Tests, benchmarks and training import this module first and then `from lathe.pipelines import ...`.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if "lathe" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("lathe", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert _spec is not None and _spec.loader is not None
    _package = importlib.util.module_from_spec(_spec)
    sys.modules["lathe"] = _package
    _spec.loader.exec_module(_package)
