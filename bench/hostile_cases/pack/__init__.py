"""A ComfyUI pack for bench/hostile.py alone: it spoils payloads on their way to a socket and reports what a node made of them."""

import logging
import os
import resource
import sys

import torch
from comfy_api.latest import ComfyExtension, io
from comfy_execution.utils import get_executing_context

from . import others, report, spoil

GIB = int(os.environ.get("LATHE_HOSTILE_GIB", "0"))  # of address space, so that an allocation of 2^40 fails instead of filling the machine
if GIB and sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, (GIB << 30, GIB << 30))


class Warnings(logging.Handler):
    """The pack's warnings, each with the node that was running."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        where = get_executing_context()
        if os.sep.join(("custom_nodes", "lathe", "")) in record.pathname and where is not None:
            self.seen = [*self.seen[-99:], (where.prompt_id, where.node_id, record.getMessage())]


WARNINGS = Warnings()
logging.getLogger().addHandler(WARNINGS)


class Number(io.ComfyNode):
    """Any value a link can carry, in words: see others.VALUES, or a Python literal."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheHostileValue", category="testing", inputs=[io.String.Input("text")], outputs=[io.AnyType.Output("value")]
        )

    @classmethod
    def execute(cls, text):
        return io.NodeOutput(others.value_of(text))


class Spoil(io.ComfyNode):
    """Hands on what it gets, spoiled; the payload before it stays as it was."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheHostileSpoil", category="testing", outputs=[io.AnyType.Output("spoiled")],
            inputs=[io.AnyType.Input("value"), io.String.Input("socket"), io.String.Input("how"), io.Int.Input("seed")],
        )  # fmt: skip

    @classmethod
    def execute(cls, value, socket, how, seed):
        return io.NodeOutput(spoil.spoiled(value, socket, how, torch.Generator().manual_seed(seed)))


class Report(io.ComfyNode):
    """Tells what is wrong with a node's outputs, and which warnings it logged."""

    @classmethod
    def define_schema(cls):
        outputs = [io.AnyType.Input(f"value_{i}", optional=True) for i in range(6)]
        words = [io.String.Input(name) for name in ("node", "sockets", "salt")]
        return io.Schema(
            node_id="LatheHostileReport", category="testing", is_output_node=True, outputs=[], inputs=[*words, *outputs],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, node, sockets, salt, **values):
        faults = [f for i, socket in enumerate(sockets.split()) for f in report.faults(socket, values.get(f"value_{i}"))]
        where = get_executing_context()
        said = [text for prompt, id, text in WARNINGS.seen if (prompt, id) == (where.prompt_id, node)]
        return io.NodeOutput(ui={"report": [{"faults": faults, "warnings": said}]})


class Ready(ComfyExtension):
    async def get_node_list(self):
        return [Number, Spoil, Report]


async def comfy_entrypoint():
    return Ready()
