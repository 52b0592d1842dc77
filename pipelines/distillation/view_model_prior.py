"""Score distillation from a model that draws all views of an object at once (MVDream's idea, arXiv 2308.16512, on a grid of views).

The renders of all the model's own cameras stand in its grid picture, which is noised as one, so that the guess is consistent from view
to view as far as the model is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..images.foreground import key_plain_background
from ..nets.attention import Attention, torch_attention
from ..nets.reference_attention import ReferenceUNet
from ..ops.frozen_copy import FrozenCopy
from ..view_generation.model import ViewModel, grid_from_views, views_from_grid
from ..view_generation.sampling import Condition, Use, encode, in_place, look


class ViewGridDenoiser:
    """A `ViewModel` and the picture it draws from, as a `priors.Denoiser`.

    Args:
        model: the networks.
        image, mask: (1, 3, S, S) in [0, 1] on the model's background, and (1, 1, S, S), 1 = object, or None.
        seed: of what is drawn once, the noise in the reference's latents.
        device: where the networks run.
        attention, use: as for `view_generation.sampling.generate_views`.
    """

    one_time = True

    def __init__(
        self,
        model: ViewModel,
        image: Tensor,
        mask: Tensor | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        attention: Attention = torch_attention,
        use: Use = in_place,
    ) -> None:
        if image.ndim != 4 or len(image) != 1 or image.shape[1] != 3 or image.shape[2] != image.shape[3]:
            raise ValueError(f"A view model draws from one picture (1, 3, S, S), not {tuple(image.shape)}.")
        if mask is None and model.guide is not None:  # says now what is wrong with the picture
            mask = key_plain_background(image[0])[None, None]
        self.model, self.image, self.mask, self.seed = model, image.float(), mask, seed
        self.device, self.attention, self.use = device, attention, use
        self.size = (model.view_size, model.view_size)
        self._kept = model.schedule.scheduler("euler_ancestral", 1).alphas_cumprod.double()
        self._seen: tuple[Condition, Tensor | None] | None = None
        self._guided = False

    def encode(self, images: Tensor) -> Tensor:
        """(V, 3, S, S) in [0, 1], the model's views -> (1, C, h, w), differentiable."""
        grid = grid_from_views(images, self.model.rows, self.model.columns).to(self.device)
        run: Callable[[Tensor], Tensor] = self.model.codec.encode_grid
        with ExitStack() as stack:
            for name, net in self.model.codec.modules().items():
                stack.enter_context(self.use(name))
                run = partial(FrozenCopy(net, self.device, skip=("decoder.", "post_quant_conv.")), run)
            return run(grid)

    def _timesteps(self, times: Tensor) -> Tensor:
        last = len(self._kept) - 1
        return (times * last).round().long().clamp(0, last)

    def noise_ratio(self, times: Tensor) -> Tensor:
        """See `priors.Denoiser`."""
        kept = self._kept[self._timesteps(times.cpu())]
        return ((1 - kept) / kept).sqrt().float()

    def denoised(self, latents: Tensor, times: Tensor, noise: Tensor, cameras: Cameras, guidance: float | None) -> Tensor:
        """See `priors.Denoiser`. Of a model with a first guess, the guess keeps the share it has in the model's own pictures."""
        guidance = self.model.guidance if guidance is None else guidance
        timestep = int(self._timesteps(times.cpu())[0])
        kept = self._kept[timestep]
        noised = (kept.sqrt().float().to(latents.device) * latents + (1 - kept).sqrt().float().to(latents.device) * noise).to(self.device)
        with torch.inference_mode():
            condition, guess = self._reference(guidance != 1)
            with self.use("unet"):
                network = ReferenceUNet(self.model.unet, self.attention)
                # The reference's noise is the same in each step: what differs from step to step is what the guess is about.
                generator = torch.Generator().manual_seed(self.seed)
                dtype = next(self.model.unet.parameters()).dtype
                _, clean = look(self.model, network, condition, noised, timestep, self._kept, generator, guidance=guidance, dtype=dtype)
            if guess is not None:
                clean = torch.lerp(clean, guess, self.model.guide_share)
        return clean.clone().to(latents.device)

    def _reference(self, guided: bool) -> tuple[Condition, Tensor | None]:
        """What the network sees of the picture, and the latents of the first guess: found once, kept where they are small."""
        if self._seen is None or self._guided != guided:
            generators = [torch.Generator().manual_seed(self.seed)]
            (condition,) = encode(self.model, self.image.to(self.device), generators, self.mask, guided=guided, use=self.use)
            guess = None
            if condition.guide is not None and self.model.guide_share:
                with torch.no_grad():
                    guess = self.encode(views_from_grid(condition.guide[1].float().clone(), self.model.rows, self.model.columns))
            self._seen, self._guided = (condition, guess), guided
        return self._seen

    def picture(self, latents: Tensor) -> Tensor | None:
        """(V, 3, h, w), the model's cheap preview of the grid."""
        with torch.no_grad():
            grid = self.model.codec.preview(latents.to(self.device)).permute(2, 0, 1)[None]
        return views_from_grid(grid.float(), self.model.rows, self.model.columns)
