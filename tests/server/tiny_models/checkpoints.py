"""What core's checkpoint loaders hand on, in small."""

from comfy_api.latest import io

from .core import small_model, small_vae
from .encoders import small_clip, small_clip_vision


class SmallCheckpoint(io.ComfyNode):
    """As Load Checkpoint with an SD 1.5 model."""

    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output("model"), io.Clip.Output("clip"), io.Vae.Output("vae")]
        return io.Schema(node_id="LatheTestCheckpoint", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(small_model("sd15"), small_clip(), small_vae())


class SmallZero123(io.ComfyNode):
    """As Image Only Checkpoint Loader with Stable Zero123."""

    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output("model"), io.ClipVision.Output("clip_vision"), io.Vae.Output("vae")]
        return io.Schema(node_id="LatheTestZero123", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(small_model("zero123"), small_clip_vision(), small_vae())


NODES = [SmallCheckpoint, SmallZero123]
