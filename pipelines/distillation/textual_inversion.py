"""Textual inversion: a new word for the object of one picture (Gal et al., arXiv 2208.01618; from a single picture as RealFusion does,
arXiv 2302.10663, whose kinds of augmentation are used here; their strengths are ours).

The word is one or a few vectors in front of a frozen text encoder. They are trained so that a frozen diffusion model, told a sentence
with the word in it, finds the noise in augmented copies of the picture.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.progress import Tick, no_tick
from ..disk.atomic import write_files
from ..disk.file_names import check_file_name

log = logging.getLogger(__name__)

WORD = "<e>"
SENTENCES = (
    "A high-resolution DSLR image of <e>", "a photo of <e>", "a clear photo of <e>", "a rendering of <e>", "a close photo of <e>",
    "a bright photo of <e>", "a studio photo of <e>", "a picture of one <e>", "<e> on a white background", "a detailed picture of <e>",
)  # fmt: skip
COPIES = 64  # augmented copies of the picture, encoded once
TIMES = (0.02, 0.98)
MOST_SKIPPED = 20  # steps without a finite gradient, in a row
MARK = "lathe_word"  # in the header of the files this module wrote
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
READ_BEFORE = (".safetensors", ".pt", ".bin")  # what ComfyUI takes for an embedding of a name

Loss = Callable[[Mapping[str, Tensor], str, Tensor, Tensor, Tensor], Tensor]
"""(vectors by text encoder, a sentence of `SENTENCES`, indices of copies (B,), times (B,), standard normal noise (B, C, h, w)) -> the mean
squared error of the predicted noise, with a graph to the vectors."""


@dataclass(frozen=True)
class LearnedWord:
    """A trained word.

    Attributes:
        vectors: (n, width) by text encoder ("l", "g", "h"), float32 on the CPU.
        losses: of each step.
        skipped: steps whose gradient was not finite.
    """

    vectors: dict[str, Tensor]
    losses: list[float]
    skipped: int


def augmented(image: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Copies (count, 3, size, size) of a picture (3, H, W) in [0, 1] on white; the first is the picture itself.

    The others are flipped, turned by up to 10 degrees, zoomed, moved, of other contrast and saturation, and now and then grey or blurred.
    """

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    turn, zoom, flip = torch.deg2rad(between(-10, 10)), between(0.75, 1.25), (between(0, 1) < 0.5).float() * 2 - 1
    shift, contrast, saturation = torch.stack([between(-0.15, 0.15), between(-0.15, 0.15)], 1), between(0.85, 1.15), between(0.85, 1.15)
    grey, blurred = between(0, 1) < 0.1, between(0, 1) < 0.1
    turn[0], zoom[0], flip[0], shift[0] = 0, 1, 1, 0
    contrast[0], saturation[0], grey[0], blurred[0] = 1, 1, False, False
    height, width = image.shape[-2:]
    longest = max(height, width)
    turns = torch.stack([torch.stack([turn.cos() * flip, -turn.sin()], 1), torch.stack([turn.sin() * flip, turn.cos()], 1)], 1)
    turns = turns / zoom.view(-1, 1, 1) * torch.tensor([longest / width, longest / height]).view(1, 2, 1)
    grid = torch.nn.functional.affine_grid(torch.cat([turns, shift[:, :, None]], 2), [count, 3, size, size], align_corners=False)
    # Dark on nothing: what comes from outside the picture is 0 in this form, and white.
    ink = (1 - image.float().cpu()).expand(count, -1, -1, -1)
    if longest > size:
        shrunk = [max(round(side * size / longest), 1) for side in (height, width)]
        ink = torch.nn.functional.interpolate(ink, shrunk, mode="bilinear", antialias=True)
    pictures = 1 - torch.nn.functional.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    pictures = (pictures - 1) * contrast.view(-1, 1, 1, 1) + 1  # around white: the background stays white
    luma = (pictures * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = torch.where(grey, torch.zeros_like(saturation), saturation)
    pictures = (luma + (pictures - luma) * saturation.view(-1, 1, 1, 1)).clamp(0, 1)
    soft = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    return torch.where(blurred.view(-1, 1, 1, 1), soft, pictures)


def learn_word(
    start: Mapping[str, Tensor],
    loss: Loss,
    latent_shape: Sequence[int],
    *,
    copies: int = COPIES,
    steps: int = 1000,
    rate: float = 5e-3,
    batch: int = 1,
    seed: int = 0,
    scale: float = 1.0,
    tick: Tick = no_tick,
) -> LearnedWord:
    """Trains the vectors of a word by Adam, its rate falling to nothing as a cosine.

    Args:
        start: (n, width) by text encoder: where the vectors begin, for instance at a word that is near.
        loss: see `Loss`. Called with gradients on.
        latent_shape: (C, h, w).
        copies: how many the loss can choose from.
        steps, rate, batch: of the training.
        seed: of copies, sentences, noise levels and noise.
        scale: the loss is multiplied by it for the backward pass and the gradient divided: half precision needs it.
        tick: progress; what it raises ends the training.

    Raises:
        ValueError: steps, rate or batch out of range; no finite gradient in `MOST_SKIPPED` steps in a row, or in any.
    """
    if steps < 1 or batch < 1 or not 0 < rate < math.inf:
        raise ValueError(f"Textual inversion takes at least 1 step, 1 picture and a rate above 0, not {steps}, {batch} and {rate}.")
    draws = torch.Generator().manual_seed(seed)
    vectors = {name: value.detach().clone().float().requires_grad_() for name, value in start.items()}
    adam = torch.optim.Adam(list(vectors.values()), lr=rate)
    losses: list[float] = []
    skipped = in_a_row = 0
    for step in range(steps):
        tick(step, steps)
        adam.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        sentence = SENTENCES[int(torch.randint(len(SENTENCES), (1,), generator=draws))]
        which = torch.randint(copies, (batch,), generator=draws)
        times = TIMES[0] + (TIMES[1] - TIMES[0]) * torch.rand(batch, generator=draws)
        noise = torch.randn(batch, *latent_shape, generator=draws)
        adam.zero_grad()
        with torch.autograd.graph.allow_mutation_on_saved_tensors():  # text encoders add in place
            value = loss(vectors, sentence, which, times, noise)
            (value * scale).backward()
        losses.append(float(value.detach()))
        gradients = [vector.grad for vector in vectors.values() if vector.grad is not None]
        if len(gradients) < len(vectors) or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            skipped, in_a_row = skipped + 1, in_a_row + 1
            if in_a_row >= min(MOST_SKIPPED, steps):
                raise ValueError(
                    f"Textual inversion stopped: {in_a_row} steps in a row gave no finite gradient. Load the MODEL and the CLIP in float32 "
                    "or bfloat16, and check that they belong together."
                )
            continue
        in_a_row = 0
        for gradient in gradients:
            gradient /= scale
        adam.step()
    tick(steps, steps)
    if skipped:
        log.warning("Textual inversion: %d of %d steps had no finite gradient and were skipped.", skipped, steps)
    return LearnedWord({name: vector.detach().cpu().clone() for name, vector in vectors.items()}, losses, skipped)


# ---- files -----------------------------------------------------------------------------------------------------------


def word_file(name: str, folders: Sequence[Path]) -> Path:
    """Where the word of this name is written: into the first folder.

    Raises:
        ValueError: a name that is no plain one, or that names an embedding which this module did not write.
    """
    plain = name.strip().removesuffix(".safetensors")
    if NAME.fullmatch(plain) is None:
        raise ValueError(
            f"{name!r} cannot be the name of an embedding: take up to 64 letters, digits, - and _; no folders, spaces or dots."
        )
    check_file_name(plain)
    for folder in folders:
        for suffix in READ_BEFORE:
            path = folder / (plain + suffix)
            if path.exists() and not (suffix == ".safetensors" and _is_ours(path)):
                raise ValueError(f"{path} is an embedding that Lathe did not make: choose another name, and it stays.")
    return folders[0] / f"{plain}.safetensors"


def _is_ours(path: Path) -> bool:
    from ..disk.state_dicts import read_metadata

    try:
        return MARK in read_metadata(path)
    except ValueError:
        return False


def save_word(vectors: Mapping[str, Tensor], path: Path) -> None:
    """Writes an embedding that ComfyUI reads as `embedding:NAME`: one text encoder as `emb_params`, several as `clip_l`, `clip_g`.

    Raises:
        ValueError: the folder cannot be written.
    """
    from safetensors.torch import save

    names = ["emb_params"] if len(vectors) == 1 else [f"clip_{name}" for name in vectors]
    tensors = {name: value.contiguous() for name, value in zip(names, vectors.values(), strict=True)}
    write_files(path.parent, {path.name: save(tensors, {MARK: json.dumps({"encoders": list(vectors)})})})
