"""Reference attention (Zero123++): a denoising U-Net that looks at one clean picture through its own self-attention.

The network runs twice. The write pass denoises the noised latent of the reference picture and keeps, for every
self-attention layer, the layer-normalised tokens that enter it. The read pass denoises the views; each self-attention
layer appends the kept tokens to its keys and values while its queries stay the views' own. Weights are those of a plain
`diffusers.UNet2DConditionModel`: nothing is added, so published state dicts load strictly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention, merge_heads, split_heads, torch_attention


class _Pass:
    """One run through the network: what the write pass leaves for the read pass.

    It travels as an argument of the call and not as state of the layers: gradient checkpointing runs a layer again during
    the backward pass, when both passes of the forward are over, and the layer must still know which one it belongs to.
    """

    def __init__(self, kept: dict[str, Tensor] | None = None) -> None:
        self.writes = kept is None
        self.kept: dict[str, Tensor] = {} if kept is None else kept


class ReferenceAttention:
    """Attention processor of one layer. `name` keys what it keeps; None for a layer that takes no part (cross-attention)."""

    def __init__(self, name: str | None, attention: Attention) -> None:
        self.name = name
        self.attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        reference: _Pass | None = None,
    ) -> Tensor:
        """(B, N, C) tokens -> (B, N, C), attending to `encoder_hidden_states` (B, M, C') or to themselves."""
        if attention_mask is not None:
            raise ValueError("Reference attention takes no attention mask.")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if reference is not None and self.name is not None:
            if reference.writes:
                # A layer that is run again to save memory finds its first tokens here: those carry the gradient.
                reference.kept.setdefault(self.name, context)
            else:
                context = torch.cat([context, reference.kept[self.name]], dim=1)

        q, k, v = (split_heads(x, attn.heads) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)))
        out = merge_heads(self.attention(q, k, v)).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))


class ReferenceUNet(nn.Module):
    """Zero123++'s denoiser: two passes of one `UNet2DConditionModel`, in training as in sampling.

    Args:
        unet: a UNet2DConditionModel; its attention processors are replaced. Gradient checkpointing of the network works.
        attention: how attention is computed, torch's scaled dot-product attention unless the host brings its own.

    Raises:
        ValueError: the network has no transformer self-attention that could carry the reference.
    """

    def __init__(self, unet: nn.Module, attention: Attention = torch_attention) -> None:
        super().__init__()
        self.unet = unet
        processors: dict[str, Any] = dict(unet.attn_processors)  # type: ignore[operator, arg-type]
        carriers = [name for name in processors if name.endswith("attn1.processor")]
        if not carriers:
            raise ValueError("ReferenceUNet: the network has no transformer block whose self-attention could carry the reference.")
        for name in processors:
            if name.endswith(("attn1.processor", "attn2.processor")):
                processors[name] = ReferenceAttention(name if name in carriers else None, attention)
        unet.set_attn_processor(processors)  # type: ignore[operator]

    def forward(
        self, sample: Tensor, t: Tensor | float, encoder_hidden_states: Tensor | None, reference_latents_noised: Tensor | None
    ) -> Tensor:
        """The network's prediction for the views.

        Args:
            sample: (B, C, h, w) noised latents of the view grid, scaled as the scheduler asks.
            t: timestep, one number or (B,).
            encoder_hidden_states: (B, L, D) condition, given to both passes.
            reference_latents_noised: (B, C, h', w') latents of the reference noised to the same timestep; h', w' are free.
                None runs the plain network.

        Returns:
            (B, C, h, w) noise or velocity, as the network was trained.
        """
        if reference_latents_noised is None:
            return self.unet(sample, t, encoder_hidden_states, return_dict=False)[0]
        if sample.shape[0] != reference_latents_noised.shape[0]:
            raise ValueError(
                f"ReferenceUNet: one reference for each sample, got {reference_latents_noised.shape[0]} for {sample.shape[0]}."
            )
        write = _Pass()
        self.unet(reference_latents_noised, t, encoder_hidden_states, cross_attention_kwargs={"reference": write}, return_dict=False)
        read = _Pass(write.kept)
        return self.unet(sample, t, encoder_hidden_states, cross_attention_kwargs={"reference": read}, return_dict=False)[0]
