"""Help pages and languages say what the nodes are: nothing missing, nothing stale."""

import asyncio
import json
import re

import pytest
from lathe.nodes import LatheExtension
from lathe_root import ROOT

NODES = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in asyncio.run(LatheExtension().get_node_list())}
LANGUAGES = ("en", "zh")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def texts(language: str, name: str = "nodeDefs") -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def page(node: str, language: str) -> str:
    return (ROOT / "web" / "docs" / node / f"{language}.md").read_text(encoding="utf-8")


def inputs_of(info: dict) -> dict:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_is_a_text_for_every_node_and_for_nothing_else(language):
    assert set(texts(language)) == set(NODES)
    assert {path.parent.name for path in (ROOT / "web" / "docs").glob(f"*/{language}.md")} == set(NODES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_and_output_has_its_words(language):
    for node, info in NODES.items():
        entry = texts(language)[node]
        assert set(entry["inputs"]) == set(inputs_of(info)), node
        assert set(entry["outputs"]) == {str(i) for i in range(len(info["output"]))}, node
        assert all(words["name"] and words["tooltip"] for group in ("inputs", "outputs") for words in entry[group].values()), node


def test_english_is_what_the_nodes_themselves_say():
    for node, info in NODES.items():
        entry = texts("en")[node]
        assert (entry["display_name"], entry["description"]) == (info["display_name"], info["description"]), node
        for key, spec in inputs_of(info).items():
            assert entry["inputs"][key]["tooltip"] == spec[1]["tooltip"], f"{node}.{key}"
        assert [entry["outputs"][str(i)]["tooltip"] for i in range(len(info["output"]))] == list(info["output_tooltips"]), node


def test_chinese_is_chinese():
    for node, entry in texts("zh").items():
        words = [entry["description"]] + [w["tooltip"] for group in ("inputs", "outputs") for w in entry[group].values()]
        assert all(CHINESE.search(text) for text in words), node


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_describe_every_input_with_its_default_and_every_output(language):
    for node, info in NODES.items():
        text, entry = page(node, language), texts(language)[node]
        assert text.startswith(f"# {entry['display_name']}\n") and len(text) > 300, node

        def row(words: dict, text: str = text, node: str = node) -> str:
            found = [r for r in text.splitlines() if r.startswith(f"| **{words['name']}** |") and words["tooltip"].replace("|", "\\|") in r]
            assert found, f"{node}: no row for {words['name']}"
            return found[0]

        for key, spec in inputs_of(info).items():
            default, line = spec[1].get("default"), row(entry["inputs"][key])
            if isinstance(default, int | float) and not isinstance(default, bool):
                assert f"`{default:g}`" in line, f"{node}.{key}: the page has another default"
            elif isinstance(default, str) and default:
                assert f"`{default}`" in line, f"{node}.{key}: the page has another default"
        for words in entry["outputs"].values():
            row(words)


def test_both_languages_have_the_same_sections():
    for node in NODES:
        headings = {language: re.findall(r"^#+ ", page(node, language), re.MULTILINE) for language in LANGUAGES}
        assert headings["en"] == headings["zh"], node


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_are_translated(language):
    parts = {part for info in NODES.values() for part in info["category"].split("/")[1:]}
    assert parts == set(texts(language, "main")["nodeCategories"])
