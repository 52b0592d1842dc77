"""Asks a prior once, as a distillation's loop does."""

import torch
from comfy_api.latest import io

from .probes import fingerprint, lathe


class AskPrior(io.ComfyNode):
    """Tells the page what a prior said about random renders."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestAskPrior", category="testing", is_output_node=True, outputs=[],
            inputs=[io.Custom("LATHE_PRIOR").Input("prior"), io.String.Input("salt", default="")],
        )  # fmt: skip

    @classmethod
    def execute(cls, prior, salt):
        priors, cameras = lathe("pipelines.distillation.priors"), lathe("pipelines.cameras.orbits")
        views = priors.required_cameras(prior) or cameras.posed_cameras([0.0, 120.0], [0.0, 10.0], 1.8, 40.0)
        draws = torch.Generator().manual_seed(0)
        with torch.inference_mode(False), torch.enable_grad():
            images = torch.rand(views.n_views, 3, 64, 64, generator=draws)
            told = prior.guide(images, views, 0.5, draws)
        size = float(told.gradient.abs().mean())
        return io.NodeOutput(
            ui={"guidance": [{"finite": told.finite, "size": size, "loss": told.loss, "gradient": fingerprint(told.gradient)}]}
        )


NODES = [AskPrior]
