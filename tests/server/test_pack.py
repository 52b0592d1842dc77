"""The pack as ComfyUI sees it: loads fast, and every node brings its texts, pages, languages and a workflow."""

import json
import re

import pytest
from comfy_server import Server
from lathe_root import ROOT
from shared_server import WORKFLOWS, load_workflow, prompt_path, workflow_names

LANGUAGES = ("en", "zh")


def inputs_of(info: dict) -> dict[str, list]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def missing(wanted: dict[str, bool]) -> list[str]:
    return [what for what, there in wanted.items() if not there]


def test_the_pack_loads(comfy: Server, lathe_nodes: dict):
    log = comfy.log_text()
    assert "IMPORT FAILED" not in log and "Error while calling comfy_entrypoint" not in log
    assert lathe_nodes, "the pack registered no node"


def test_loading_takes_less_than_half_a_second(comfy: Server):
    seconds = re.search(r"([\d.]+) seconds: \S*custom_nodes/lathe\b", comfy.log_text())
    assert seconds, "ComfyUI's log does not say how long the pack took"
    assert float(seconds[1]) < 0.5


def test_every_module_registers_its_nodes(lathe_nodes: dict):
    written = set()
    for path in (ROOT / "nodes").glob("*.py"):
        written |= set(re.findall(r'node_id="(\w+)"', path.read_text(encoding="utf-8")))
    assert written == set(lathe_nodes)


def test_every_input_and_output_has_a_tooltip(lathe_nodes: dict):
    wanted = {}
    for name, info in lathe_nodes.items():
        for key, spec in inputs_of(info).items():
            wanted[f"{name}.{key}"] = len(spec) > 1 and bool(spec[1].get("tooltip"))
        for key, tooltip in zip(info["output_name"], info["output_tooltips"], strict=True):
            wanted[f"{name} -> {key}"] = bool(tooltip)
        wanted[f"{name}: description"] = bool(info["description"])
        wanted[f"{name}: category below 3d"] = info["category"].startswith("3d/")
    assert not missing(wanted)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page(comfy: Server, lathe_nodes: dict, language: str):
    wanted = {}
    for name in lathe_nodes:
        status, body = comfy.request(f"/extensions/lathe/docs/{name}/{language}.md")
        wanted[name] = status == 200 and len(body) > 300
    assert not missing(wanted)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_translated(comfy: Server, lathe_nodes: dict, language: str):
    texts = comfy.get("/i18n").get(language, {}).get("nodeDefs", {})
    wanted = {}
    for name, info in lathe_nodes.items():
        entry = texts.get(name, {})
        wanted[f"{name}.display_name"] = bool(entry.get("display_name"))
        wanted[f"{name}.description"] = bool(entry.get("description"))
        for key in inputs_of(info):
            words = entry.get("inputs", {}).get(key, {})
            wanted[f"{name}.{key}"] = bool(words.get("name") and words.get("tooltip"))
        for index in range(len(info["output"])):
            wanted[f"{name} -> {index}"] = bool(entry.get("outputs", {}).get(str(index), {}).get("name"))
    assert not missing(wanted)
    assert not set(texts) & {"LatheTestSlow"}


def test_every_node_is_in_a_workflow(lathe_nodes: dict):
    used = set()
    for name in workflow_names():
        used |= set(re.findall(r'"type":\s*"(\w+)"', json.dumps(load_workflow(name))))
    assert not set(lathe_nodes) - used


def test_templates_are_offered_with_a_thumbnail(comfy: Server):
    assert sorted(comfy.get("/api/workflow_templates").get("lathe", [])) == workflow_names()
    for name in workflow_names():
        status, body = comfy.request(f"/api/workflow_templates/lathe/{name}.jpg")
        assert status == 200 and body[:2] == b"\xff\xd8", f"{name}.jpg"
        assert len(body) < 300_000, f"{name}.jpg is too heavy for a gallery"


def test_every_workflow_has_its_prompt_and_the_other_way_round():
    assert {p.stem for p in prompt_path("x").parent.glob("*.json")} == set(workflow_names())


def test_every_input_picture_is_shipped():
    for name in workflow_names():
        prompt = json.loads(prompt_path(name).read_text(encoding="utf-8"))
        for node in prompt.values():
            if node["class_type"] == "LoadImage":
                assert (WORKFLOWS / "inputs" / node["inputs"]["image"]).is_file(), f"{name}: {node['inputs']['image']}"
