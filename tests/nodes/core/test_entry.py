"""Every node's entry: values of widgets are checked before the node runs, and what the pack warns of is shown on the node."""

import asyncio
import logging
import math
import sys
import threading
import types
from fractions import Fraction

import numpy as np
import pytest
import torch
from comfy_api.latest import io
from lathe.nodes import LatheExtension
from lathe.nodes.core.entry import entered
from lathe.nodes.core.schema import Names, schema

NODES = {node.GET_SCHEMA().node_id: node for node in asyncio.run(LatheExtension().get_node_list())}


def widgets(*kinds):
    return [
        pytest.param(node, one, id=f"{name}-{one.id}")
        for name, node in NODES.items()
        for one in node.SCHEMA.inputs
        if isinstance(one, kinds)
    ]


def arrives(node, name, value):
    """What `name` of the node is called with when it is given `value`; the node itself is replaced."""
    seen = {}

    def execute(cls, **given):
        seen.update(given)
        return io.NodeOutput()

    silent = type("Silent", (node.__bases__[0],), {"execute": classmethod(execute)})
    entered(silent).execute(**{name: value})
    return seen[name]


def wrong_numbers(widget):
    values = [math.nan, math.inf, -math.inf, 2**65, -(2**65), 10**5000, "seven", "1", None, True, [1], [10**5000], {}, 1j, object()]
    values += [np.float32("nan"), np.array([1, 2]), torch.tensor([1.0, 2.0]), torch.tensor(math.nan), torch.tensor(True), np.bool_(True)]
    values += [2**40, widget.min - 1, widget.max + 1]
    return values + ([widget.min + 0.5, "0.5"] if isinstance(widget, io.Int.Input) else [np.nextafter(widget.max, math.inf)])


@pytest.mark.parametrize(("node", "widget"), widgets(io.Int.Input, io.Float.Input))
def test_numbers(node, widget):
    for value in wrong_numbers(widget):
        with pytest.raises(ValueError) as refused:
            arrives(node, widget.id, value)
        words = str(refused.value)
        assert words.startswith(f"{node.SCHEMA.display_name}: {widget.id} ") and len(words) < 300
        if value is not None:
            assert f"from {widget.min:.12g} to {widget.max:.12g}" in words or f"from {widget.min} to {widget.max}" in words
    kind = int if isinstance(widget, io.Int.Input) else float
    for value in (widget.min, widget.max, widget.default):
        for given in (
            value,
            float(value),
            Fraction(value),
            np.float64(value),
            np.array([value]),
            torch.tensor([[value]], dtype=torch.float64),
        ):
            got = arrives(node, widget.id, given)
            assert type(got) is kind and got == value


@pytest.mark.parametrize(("node", "widget"), widgets(io.Boolean.Input))
def test_truth_values(node, widget):
    for value in (2, 0.5, "true", None, math.nan, [True], torch.ones(2)):
        with pytest.raises(ValueError, match=f": {widget.id} "):
            arrives(node, widget.id, value)
    assert arrives(node, widget.id, True) is True and arrives(node, widget.id, np.bool_(False)) is False
    assert arrives(node, widget.id, 1) is True and arrives(node, widget.id, 0) is False  # of other packs' logic nodes


def test_a_bound_rounded_to_single_precision_is_the_bound():
    assert arrives(NODES["LatheOrbitCameras"], "radius", np.float32(0.01)) == 0.01


@pytest.mark.parametrize(("node", "widget"), widgets(io.Combo.Input))
def test_choices(node, widget):
    for value in (math.nan, 7, None, ["auto"], torch.zeros(2), {"a": 1}):
        with pytest.raises(ValueError, match=f": {widget.id} "):
            arrives(node, widget.id, value)
    if isinstance(widget.options, Names):
        assert arrives(node, widget.id, "made a moment ago.glb") == "made a moment ago.glb"  # the node looks it up
    else:
        with pytest.raises(ValueError, match="not 'sideways'"):
            arrives(node, widget.id, "sideways")
        assert [arrives(node, widget.id, option) for option in widget.options] == list(widget.options)


def test_names_of_files_are_the_loaders_own():
    found = {
        f"{name}.{one.id}" for name, node in NODES.items() for one in node.SCHEMA.inputs if isinstance(getattr(one, "options", 0), Names)
    }
    loaders = ("Cameras.file", "Distillation.file", "Field.file", "GeoLRM.model", "LRM.model", "Mesh.file", "Splat.file", "ViewModel.model")
    assert found == {f"LatheLoad{name}" for name in (*loaders, "ViewModel.unet")} | {"LatheEstimateDepth.model"}


@pytest.mark.parametrize(("node", "widget"), widgets(io.String.Input))
def test_texts(node, widget):
    for value in (math.nan, 7, None, ["a"], b"a"):
        with pytest.raises(ValueError, match=f": {widget.id} "):
            arrives(node, widget.id, value)
    assert arrives(node, widget.id, "any") == "any"


def test_a_socket_without_a_value_is_named_and_an_optional_one_is_left():
    with pytest.raises(ValueError, match="Fit Splats: images got nothing"):
        arrives(NODES["LatheFitSplats"], "images", None)
    assert arrives(NODES["LatheFitSplats"], "start", None) is None
    images = torch.zeros(1, 16, 16, 3)
    assert arrives(NODES["LatheFitSplats"], "images", images) is images


def test_lists_are_checked_one_by_one():
    class Listed(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return schema(node_id="Listed", is_input_list=True, inputs=[io.Int.Input("n", min=0, max=9)], outputs=[io.Int.Output()])

        @classmethod
        def execute(cls, n):
            return io.NodeOutput(n)

    assert entered(Listed).execute(n=[1, 2.0]).args == ([1, 2],)
    with pytest.raises(ValueError, match="n takes whole numbers from 0 to 9, not 11"):
        entered(Listed).execute(n=[1, 11])


class Talkative(io.ComfyNode):
    """Warns of what it is asked to."""

    own_ui = None

    @classmethod
    def define_schema(cls):
        return schema(node_id="Talkative", inputs=[io.String.Input("words")], outputs=[io.String.Output()])

    @classmethod
    def execute(cls, words):
        log = logging.getLogger("lathe.pipelines.anything")
        log.info("not this")
        for word in words.split():
            log.warning("%s", word)
        helper = threading.Thread(target=log.warning, args=("from a helper",))
        helper.start()
        helper.join()
        logging.getLogger("another.pack").warning("nor this")
        if "broken" in words:
            raise ValueError("broken")
        return io.NodeOutput(words, ui=cls.own_ui)


@pytest.fixture
def page(monkeypatch):
    """What the page is sent, and a node as core calls it: a locked clone of the class."""
    sent = []
    server = types.SimpleNamespace(send_progress_text=lambda text, node_id: sent.append((node_id, text)))
    monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server)))
    return sent


def as_core(node, **given):
    from comfy_api.internal import make_locked_method_func

    node.GET_SCHEMA()
    clone = node.PREPARE_CLASS_CLONE({io.Hidden.unique_id: "4"})
    with torch.inference_mode():
        return make_locked_method_func(node, node.FUNCTION, clone)(**given)


def test_warnings_are_shown_on_the_node_once_and_stay_in_the_log(page, caplog):
    out = as_core(entered(Talkative), words="thin thin dark")
    assert page == [("4", "thin\ndark\nfrom a helper")]
    assert out.args == ("thin thin dark",) and out.ui == {"text": ["thin", "dark", "from a helper"]}
    assert [record.getMessage() for record in caplog.records if record.name.startswith("lathe")] == [
        "thin",
        "thin",
        "dark",
        "from a helper",
    ]


def test_warnings_before_an_error_are_shown_and_nothing_is_left_listening(page):
    handlers = list(logging.getLogger("lathe").handlers)
    with pytest.raises(ValueError, match="broken"):
        as_core(entered(Talkative), words="broken")
    assert page == [("4", "broken\nfrom a helper")] and logging.getLogger("lathe").handlers == handlers


def test_warnings_join_what_a_node_tells_the_page(page, monkeypatch):
    monkeypatch.setattr(Talkative, "own_ui", {"3d": [1], "text": ["mine"]})
    assert as_core(entered(Talkative), words="thin").ui == {"3d": [1], "text": ["mine", "thin", "from a helper"]}


def test_what_other_threads_warn_of_is_not_this_nodes(page):
    log, go, gone = logging.getLogger("lathe.other"), threading.Event(), threading.Event()

    def other():
        go.wait(10)
        log.warning("a node list was asked for")
        gone.set()

    class Waits(Talkative):
        @classmethod
        def execute(cls, words):
            go.set()
            gone.wait(10)
            return io.NodeOutput(words)

    thread = threading.Thread(target=other)
    thread.start()
    out = as_core(entered(Waits), words="")
    thread.join()
    assert page == [] and out.ui is None


def test_a_quiet_node_says_nothing_but_keeps_the_entry_of_a_ui_it_has(page, monkeypatch):
    class Quiet(Talkative):
        @classmethod
        def execute(cls, words):
            return io.NodeOutput(words, ui=cls.own_ui)

    assert as_core(entered(Quiet), words="").ui is None
    monkeypatch.setattr(Quiet, "own_ui", {"3d": [1]})
    assert as_core(entered(Quiet), words="").ui == {"3d": [1], "text": []}
    assert page == []
