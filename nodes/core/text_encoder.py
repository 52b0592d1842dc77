"""ComfyUI's own MODEL, CLIP and VAE as the frozen networks of textual inversion.

The networks compute with private copies of their weights (LoRAs and other patches included), because gradients cannot pass through
weights that core loaded in inference mode, and because core may move those at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import comfy.model_management as mm
import comfy.samplers
import torch
from torch import Tensor

from ...pipelines.distillation.textual_inversion import WORD
from ...pipelines.ops.frozen_copy import FrozenCopy
from .image_models import check_image_model, one_frame_latents
from .view_refiner import sigma_at

ENCODERS = ("l", "g", "h")  # CLIP text encoders: their tokens are vectors of one table
STAND_IN = "*"  # a word of one token, where the new word's vectors are put
HALF_SCALE = 1024.0

Answer = TypeVar("Answer")


class CoreWords:
    """Answers `distillation.textual_inversion.Loss` with core's networks.

    Args:
        model, clip, vae: what the sockets carry.
        copies: (N, 3, S, S) in [0, 1], augmented copies of the picture.

    Raises:
        ValueError: networks that are not of CLIP text and image diffusion, or do not belong together.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, copies: Tensor) -> None:
        check_image_model(model, vae)
        if one_frame_latents(model):
            kind = type(model.model).__name__
            raise ValueError(f"Textual inversion needs SD 1.5, SD 2 or SDXL, not {kind}. Describe the object in words instead.")
        self.model, self.clip = model, clip
        with torch.inference_mode():
            encoders = list(clip.tokenize(STAND_IN))
            if not set(encoders) <= set(ENCODERS):
                raise ValueError(
                    f"Textual inversion needs CLIP text encoders (SD 1.5, SD 2, SDXL); this CLIP has {', '.join(encoders)}. "
                    "Describe the object in words instead."
                )
            self.encoders = encoders
            latents = torch.cat([vae.encode(one.movedim(1, -1)) for one in copies.split(4)])
            channels = int(model.get_model_object("latent_format").latent_channels)
            if latents.shape[1] != channels:
                raise ValueError(f"The VAE makes {latents.shape[1]} channels, the MODEL works on {channels}: wire the VAE of this MODEL.")
            latents = model.get_model_object("latent_format").process_in(latents)
        self.latents = latents.float().cpu().clone()
        self.size = tuple(copies.shape[-2:])

    @property
    def scale(self) -> float:
        """By what the loss must be multiplied so that its gradient survives the model's precision."""
        return HALF_SCALE if torch.float16 in (self.model.model.get_dtype(), *self.clip.cond_stage_model.dtypes) else 1.0

    def start(self, text: str, count: int) -> dict[str, Tensor]:
        """`count` vectors for each text encoder: those of the words of `text`, as far as they reach, then their mean.

        Raises:
            ValueError: no word.
        """
        found = {}
        with torch.inference_mode():
            empty = self.clip.tokenize("")
            for name, rows in self.clip.tokenize(text).items():
                ends = {token for token, _ in empty[name][0]}
                own = [token for token, _ in rows[0] if token not in ends]
                if not own:
                    raise ValueError("Textual inversion starts from a word that is near, such as teapot or toy: write one.")
                table = self._encoder(name).transformer.get_input_embeddings().weight
                vectors = torch.stack([self._vector(token, table) for token in own])
                more = vectors.mean(0, keepdim=True).expand(max(count - len(vectors), 0), -1)
                found[name] = (torch.cat([vectors, more])[:count] if count > 1 else vectors.mean(0, keepdim=True)).clone()
        return {name: vectors.clone() for name, vectors in found.items()}

    @staticmethod
    def _vector(token: Any, table: Tensor) -> Tensor:
        return token.float().cpu() if isinstance(token, Tensor) else table[int(token)].float().cpu()

    def _encoder(self, name: str) -> Any:
        return getattr(self.clip.cond_stage_model, f"clip_{name}")

    def tokens(self, vectors: Mapping[str, Tensor], sentence: str) -> dict[str, list[list[tuple[Any, float]]]]:
        """A sentence as core's tokens, with the vectors in the place of the word."""
        rows = self.clip.tokenize(sentence.replace(WORD, STAND_IN))
        stand_in, empty = self.clip.tokenize(STAND_IN), self.clip.tokenize("")
        out = {}
        for name, (row, *_) in rows.items():
            ends = {token for token, _ in empty[name][0]}
            (mark,) = (token for token, _ in stand_in[name][0] if token not in ends)
            place = next(index for index, (token, _) in enumerate(row) if token == mark)
            word: list[tuple[Any, float]] = [(vector, 1.0) for vector in vectors[name]]
            out[name] = [(row[:place] + word + row[place + 1 :])[: len(row)]]
        return out

    def held(self, body: Callable[[Callable[..., Tensor]], Answer]) -> Answer:
        """`body(loss)` while core holds the model loaded and patched, outside inference mode."""
        clip, model = self.clip, self.model
        with torch.inference_mode():
            clip.load_model()
            clip.cond_stage_model.reset_clip_options()
            if clip.layer_idx is not None:
                clip.cond_stage_model.set_clip_options({"layer": clip.layer_idx})
            reader = FrozenCopy(clip.cond_stage_model, clip.patcher.load_device)
            cond, pooled = clip.encode_from_tokens(clip.tokenize(STAND_IN), return_pooled=True)
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds([[cond, {} if pooled is None else {"pooled_output": pooled}]], [])
            guider.set_cfg(1.0)
            noise = torch.zeros_like(self.latents[:1])
            hold = _Hold(self, reader, body)
            sigmas = torch.tensor([sigma_at(model.get_model_object("model_sampling"), 0.5), 0.0])
            guider.sample(noise, torch.zeros_like(noise), hold, sigmas, disable_pbar=True, seed=0)
        return hold.answer


class _Hold(comfy.samplers.Sampler):
    """A sampler that trains instead."""

    def __init__(self, words: CoreWords, reader: FrozenCopy, body: Callable[[Callable[..., Tensor]], Any]) -> None:
        self.words, self.reader, self.body = words, reader, body
        self.answer: Any = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False, **kw):
        words, inner, device = self.words, model_wrap.inner_model, noise.device
        sampling = words.model.get_model_object("model_sampling")
        (template,) = model_wrap.conds["positive"][:1]
        with torch.inference_mode(False), torch.enable_grad():
            mm.free_memory(words.model.model_size(), device)
            network = FrozenCopy(inner, device)

            def loss(vectors: Mapping[str, Tensor], sentence: str, which: Tensor, times: Tensor, drawn: Tensor) -> Tensor:
                cond, pooled = self.reader(words.clip.cond_stage_model.encode_token_weights, words.tokens(vectors, sentence))[:2]
                clean, drawn = words.latents[which].to(device), drawn.to(device)
                at = torch.tensor([sigma_at(sampling, float(time)) for time in times], device=device)
                signs = {"prompt_type": "positive", "seed": 0, "width": words.size[1], "height": words.size[0], "device": device}
                told = inner.extra_conds(cross_attn=cond.to(device), pooled_output=pooled, noise=drawn, latent_image=None, **signs)
                noised = sampling.noise_scaling(at, drawn.clone(), clean, False)
                asked = [[dict(template, model_conds=told)]]
                guess = network(comfy.samplers.calc_cond_batch, inner, asked, noised, at, extra_args["model_options"])[0]
                noise_share = sampling.noise_scaling(at, torch.ones_like(at), torch.zeros_like(at), False)
                signal_share = sampling.noise_scaling(at, torch.zeros_like(at), torch.ones_like(at), False)
                ratio = (noise_share / signal_share).view(-1, 1, 1, 1)
                return ((clean - guess.float()) / ratio).square().mean()

            self.answer = self.body(loss)
        return noise


class NamedWord:
    """A tokenizer that reads `<e>` in a prompt as an embedding.

    Args:
        tokenizer: core's, of a CLIP.
        name: of the embedding.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._tokenizer, attribute)

    def tokenize_with_weights(self, text: str, *args: Any, **options: Any) -> Any:
        """As core's."""
        return self._tokenizer.tokenize_with_weights(text.replace(WORD, f" embedding:{self._name} ").strip(), *args, **options)
