"""A ComfyUI pack of one node that does wrong in the ways bench/hostile.py has to see."""

import time

import torch
from comfy_api.latest import ComfyExtension, io


class Planted(io.ComfyNode):
    """What it does is what it is told."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LathePlanted", category="testing", inputs=[io.String.Input("does"), io.Int.Input("salt")],
            outputs=[io.Image.Output("image")],
        )  # fmt: skip

    @classmethod
    def execute(cls, does, salt):
        if does == "hang":
            while True:
                time.sleep(0.1)
        if does == "die":
            import os

            os._exit(3)
        if does == "fill the memory":
            torch.ones(2**40)
        if does == "raise a KeyError":
            return {}["lathe"]
        if does == "raise what a library says":
            return torch.ones(3, 4) @ torch.ones(3, 4)
        picture = torch.ones(1, 8, 8, 3)
        made = {"NaN": picture * float("nan"), "infinity": picture / 0, "give nothing": None, "no pixels": picture[:, :0]}
        return io.NodeOutput(made.get(does, picture))


class Ready(ComfyExtension):
    async def get_node_list(self):
        return [Planted]


async def comfy_entrypoint():
    return Ready()
