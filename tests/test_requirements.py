"""requirements.txt: few, unpinned, all of them used, and harmless to the ComfyUI they are installed into."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import comfy_source
import pytest
from lathe_root import ROOT

# Imported where they are installed, never required. pytorch_msssim serves benchmarks and tests.
OPTIONAL = {"nvdiffrast", "gsplat", "onnxruntime", "rembg", "torch_directml", "kiui", "accelerate", "tinycudann", "pytorch_msssim"}
COMFYUI_MODULES = {"comfy", "comfy_api", "folder_paths", "latent_preview", "nodes", "execution", "server"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(path: Path) -> set[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {plain(re.split(r"[\s<>=!~\[;]", line)[0]) for line in lines if line and not line.startswith("#")}


def imported_distributions() -> set[str]:
    """Distributions the pack's own rooms import anywhere, also inside functions."""
    modules = set()
    for path in [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    modules -= set(sys.stdlib_module_names) | COMFYUI_MODULES | OPTIONAL
    owners = importlib.metadata.packages_distributions()
    return {plain(owners.get(module, [module])[0]) for module in modules}


def comfyui_requirements() -> set[str]:
    folder = comfy_source.comfyui_dir()
    if folder is None:
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    return listed(folder / "requirements.txt")


def with_what_they_need(names: set[str]) -> set[str]:
    """These distributions and all they require, without extras."""
    found, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting |= {plain(re.split(r"[\s<>=!~\[;(]", need)[0]) for need in needs if "extra ==" not in need} - found
    return found


def test_nothing_is_pinned_or_built_and_torch_is_comfyuis():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[\w-]+", line) for line in lines), "plain names only"
    assert len(lines) <= 10
    assert not set(map(plain, lines)) & {"torch", "torchvision", "torchaudio", "numpy", "transformers"}


def test_every_import_is_required_and_every_requirement_imported():
    ours, imports = listed(ROOT / "requirements.txt"), imported_distributions()
    assert imports <= with_what_they_need(ours | comfyui_requirements()), "imported, but neither ours nor ComfyUI's"
    assert ours <= imports, "required, but never imported"


def test_installing_the_requirements_changes_no_installed_version():
    """pip, asked inside the ComfyUI environment, would replace nothing."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--dry-run", "--report", "-", "-r"]
    answer = subprocess.run([*command, str(ROOT / "requirements.txt")], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert answer.returncode == 0, answer.stderr[-2000:]
    report = json.loads(answer.stdout[answer.stdout.index("{") :])
    installed = {plain(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    new = {plain(item["metadata"]["name"]): item["metadata"]["version"] for item in report["install"]}
    assert not {name: (installed[name], version) for name, version in new.items() if name in installed}


def test_comfyuis_versions_are_still_those_it_was_proven_with():
    """After the pack's requirements were installed, ComfyUI's packages are what tests/constraints.txt says."""
    folder = comfy_source.comfyui_dir()
    if folder != ROOT / ".comfyui" / "ComfyUI":
        pytest.skip("this ComfyUI was not prepared by dev.py")
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    proven = dict(line.split("==") for line in lines if "==" in line)
    installed = {plain(d.metadata["Name"]): d.version.split("+")[0] for d in importlib.metadata.distributions()}
    changed = {n: (v, installed[plain(n)]) for n, v in proven.items() if plain(n) in installed and installed[plain(n)] != v}
    assert not changed


def test_no_package_of_a_lent_environment_is_shadowed_by_another_version():
    versions: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        versions.setdefault(plain(distribution.metadata["Name"]), set()).add(distribution.version)
    assert not {n: v for n, v in versions.items() if len(v) > 1 and n not in ("pip", "setuptools")}
