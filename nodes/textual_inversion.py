"""A word for the object of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from .core import gradients, progress
from .core.images import images_out
from .core.schema import IMAGE, MASK, schema, widget
from .priors import CATEGORY, on_white, one_picture


class LatheTextualInversion(io.ComfyNode):
    """Trains an embedding from one picture."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheTextualInversion",
            display_name="Textual Inversion",
            category=CATEGORY,
            description="Learns a word <e> for the object of one picture, so that prompts can name just this object: \"A high-resolution "
            "DSLR image of <e>\". Optional: a plain description often serves. The word is saved among the embeddings when training is "
            "done; Cancel writes nothing.",
            search_aliases=["embedding training", "textual inversion", "realfusion", "magic123", "learn token", "personalize"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The image model that the prior will use: SD 1.5, SD 2 or SDXL."),
                io.Clip.Input("clip", tooltip="Its CLIP."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                IMAGE.Input("image", tooltip="The object, from Prepare Image."),
                MASK.Input("mask", optional=True, tooltip="1 = object; lays it on white, so that the word means the object alone."),
                widget(
                    io.String, "name", default="lathe_object",
                    tooltip="File name in models/embeddings, of letters, digits, _ and -. A word that this node made before is replaced; "
                    "other embeddings are not.",
                ),
                widget(
                    io.String, "starts_as", default="object",
                    tooltip="A plain word for the object, such as teapot: training starts from it, and the better it fits the fewer steps "
                    "are needed.",
                ),
                widget(
                    io.Int, "vectors", default=1, min=1, max=16, advanced=True,
                    tooltip="Tokens the word takes: more hold more detail and leave less room to the rest of the prompt.",
                ),
                widget(
                    io.Int, "steps", default=1000, min=1, max=20_000, tooltip="Steps of training; Magic123 takes 3000, at a lower rate.",
                ),
                widget(
                    io.Float, "rate", default=0.005, min=1e-6, max=0.1, step=0.0001, round=False, advanced=True,
                    tooltip="Learning rate, falling to nothing by the end.",
                ),
                widget(
                    io.Int, "batch", default=1, min=1, max=16, advanced=True,
                    tooltip="Pictures in a step; each takes memory, the model is differentiated through.",
                ),
                widget(
                    io.Int, "resolution", default=512, min=64, max=2048, step=64,
                    tooltip="Side in pixels of the training pictures: 512 for SD 1.5, 1024 for SDXL; less is faster.",
                ),
                widget(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="The same seed gives the same word.",
                ),
            ],
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="The CLIP, which reads <e> in prompts as the new word."),
                io.String.Output(display_name="embedding", tooltip="embedding:NAME, which means the same to any CLIP of this kind."),
                IMAGE.Output(display_name="curve", tooltip="The loss over the steps."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, vae, image, name, starts_as, vectors, steps, rate, batch, resolution, seed, mask=None) -> io.NodeOutput:
        from ..pipelines.distillation import textual_inversion as inversion
        from ..pipelines.plots.loss_curve import loss_curve
        from .core.text_encoder import CoreWords, NamedWord

        folders = [Path(folder) for folder in folder_paths.get_folder_paths("embeddings")]
        path = inversion.word_file(name, folders)
        picture = on_white(*one_picture(image, mask))[0]
        with gradients.differentiable():
            copies = inversion.augmented(picture.clone(), inversion.COPIES, resolution, torch.Generator().manual_seed(seed))
            words = CoreWords(model, clip, vae, copies)
            start, tick = words.start(starts_as, vectors), progress.tick_for(cls)

            def train(loss: Any) -> inversion.LearnedWord:
                return inversion.learn_word(
                    start, loss, words.latents.shape[1:], steps=steps, rate=rate, batch=batch, seed=seed, scale=words.scale, tick=tick
                )

            learned = words.held(train)
        inversion.save_word(learned.vectors, path)
        reader = clip.clone()
        reader.tokenizer = NamedWord(clip.tokenizer, path.stem)
        curve = loss_curve([{"noise": value} for value in learned.losses], title="Textual Inversion: error of the noise")
        return io.NodeOutput(reader, f"embedding:{path.stem}", images_out(curve[None]))


NODES = [LatheTextualInversion]
