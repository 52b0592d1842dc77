"""A prior that wants to see a red ball, and ways in which a prior goes wrong."""

import torch
from comfy_api.latest import io

from .probes import lathe

RED, RADIUS = (0.9, 0.3, 0.1), 0.45
MOST_PIXELS = 24  # a side; what the hungry one has memory for


class Ball:
    """`kind`: good; nan, whose answers are no numbers; first_nan, where the first is none; hungry, for which views get too large;
    starving, which never has memory."""

    def __init__(self, kind):
        self.kind = kind

    def guide(self, images, cameras, progress, generator):
        side = images.shape[-1]
        if self.kind == "starving" or (self.kind == "hungry" and side > MOST_PIXELS):
            raise torch.cuda.OutOfMemoryError("out of memory, as a test wants it")
        rays = lathe("pipelines.ops.camera_math").rays
        origins, directions = rays(cameras.c2w, cameras.K, side, side)
        unit = torch.nn.functional.normalize(directions, dim=-1)
        nearest = origins - (origins * unit).sum(-1, keepdim=True) * unit
        mask = (nearest.norm(dim=-1) < RADIUS).float()[:, None]
        truth = (mask * torch.tensor(RED).view(1, 3, 1, 1) + 1 - mask).to(images)
        gradient = (images - truth) / 4
        if self.kind == "nan" or (self.kind == "first_nan" and progress == 0):
            gradient = gradient * float("nan")
        return lathe("pipelines.distillation.priors").Guidance(gradient, float((images - truth).square().mean()), truth)


class BallPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        kinds = ["good", "nan", "first_nan", "hungry", "starving"]
        return io.Schema(
            node_id="LatheTestBallPrior", category="testing", inputs=[io.Combo.Input("kind", options=kinds, default="good")],
            outputs=[io.Custom("LATHE_PRIOR").Output("prior")],
        )  # fmt: skip

    @classmethod
    def execute(cls, kind):
        return io.NodeOutput(Ball(kind))


NODES = [BallPrior]
