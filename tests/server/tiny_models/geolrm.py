"""GeoLRM in small, read from a file as its own loader reads it: both networks, deterministic weights that say nothing sensible."""

import tempfile
from pathlib import Path

import torch
from comfy_api.latest import io

from .loaders import seeded_weights
from .probes import lathe


def write_geolrm(path):
    """Two layers, a grid of 16 cells, views of 112 pixels."""
    nets, stage = lathe("pipelines.nets.geolrm"), lathe("pipelines.reconstruction.geolrm.stages")
    sizes = {"layers": 2, "heads": 4, "vit": (32, 2, 2), "feature_dim": 16, "samples": 4, "grid": 16}
    proposal = nets.ProposalNetwork(nets.GeoLRMConfig(dim=48, token_cells=4, **sizes))
    reconstruction = nets.ReconstructionNetwork(nets.GeoLRMConfig(dim=96, gaussians=4, **sizes))
    for net, prefix in ((proposal, "serializer."), (reconstruction, "lrm_generator.")):
        seeded_weights().seed_module_(net, prefix=prefix).eval()
    model = stage.GeoLRM(proposal, reconstruction, name="tiny", view_size=112)
    lathe("pipelines.weights.geolrm").save_geolrm(model, path, dtype=torch.float32)


class TinyGeoLRM(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        outputs = [io.Custom("LATHE_GEOLRM").Output("geolrm"), io.String.Output("report")]
        return io.Schema(node_id="LatheTestGeoLRM", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.safetensors"
            write_geolrm(path)
            loaded = lathe("nodes.geolrm").LoadedGeoLRM(path, torch.float32, torch.float32)
            report = loaded.decide_forms(path, {"proposal": "auto", "reconstruction": "auto"}, lambda *told: None)
        return io.NodeOutput(loaded, "\n".join(report))


NODES = [TinyGeoLRM]
