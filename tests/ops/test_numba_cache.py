"""Compiled kernels are cached once, whatever name the package is loaded under."""

import subprocess
import sys

from lathe_root import ROOT

DRAW = """
import importlib.util, logging, sys, torch
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2] + "/__init__.py", submodule_search_locations=[sys.argv[2]])
sys.modules[sys.argv[1]] = importlib.util.module_from_spec(spec)
for kind in ("mesh", "splat"):
    raster = importlib.import_module(f"{sys.argv[1]}.pipelines.ops.{kind}_raster.dispatch")
    print(raster.backend_for(torch.device("cpu")).__name__)
"""


def test_a_cache_made_under_one_name_serves_another(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    made = []
    for name in ("one_name", "/another/name"):
        done = subprocess.run([sys.executable, "-c", DRAW, name, str(ROOT)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        used = [line.split(".")[-2:] for line in done.stdout.split()]
        assert used == [["mesh_raster", "numba_form"], ["splat_raster", "numba_form"]], done.stdout + done.stderr
        made.append({path.name for path in tmp_path.rglob("*.nbc")})
    assert made[0] and made[0] == made[1]
