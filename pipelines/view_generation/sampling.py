"""Image to views: sampling of Zero123++ and of models made like it (arXiv 2310.15110; InstantMesh, section 3.1).

All views of one object stand in one grid picture, which a latent diffusion model denoises while its self-attention sees the
reference picture. The loop is the same for the published networks and for small ones: what differs are the parts of a `ViewModel`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..data.progress import Tick, no_tick, part_of
from ..images.foreground import key_plain_background, prepare
from ..nets.attention import Attention, torch_attention
from ..nets.reference_attention import ReferenceUNet
from .model import ViewModel, grid_from_views, views_from_grid

log = logging.getLogger(__name__)

Use = Callable[[str], AbstractContextManager[Any]]
"""Called with the name of a network, entered while it runs: the host brings it to the device for that long."""


@dataclass(frozen=True)
class Condition:
    """What the denoiser sees of the reference picture; with guidance two rows, without and with the picture.

    Attributes:
        reference: (1 or 2, channels, h, w) clean latents.
        tokens: (1 or 2, L, D).
        guide: (1, channels, h, w) of the grid, the same for both rows, and the guess as a picture; None where the model has none.
    """

    reference: Tensor
    tokens: Tensor
    guide: tuple[Tensor, Tensor] | None = None


def in_place(name: str) -> AbstractContextManager[None]:
    """The `use` of a caller whose networks are all on the device already."""
    return nullcontext()


def _using(use: Use, names: Sequence[str]) -> ExitStack:
    stack = ExitStack()
    try:
        for name in names:
            stack.enter_context(use(name))
    except BaseException:
        stack.close()
        raise
    return stack


def generate_views(
    model: ViewModel,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str = "euler_ancestral",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    attention: Attention = torch_attention,
    use: Use = in_place,
    tick: Tick = no_tick,
) -> Tensor:
    """Views of the object in a picture.

    Args:
        model: the networks.
        image: (3, S, S) in [0, 1], the object alone, centred, as `images.foreground.prepare` leaves it; or (B, 3, S, S) for B objects.
            What is not square is prepared so, and a warning says it.
        mask: (S, S) or (1, S, S), 1 = object; with a batch (B, 1, S, S). Lays the picture on the model's background, where it does not
            stand on it already.
        seed: asset b is drawn with seed + b, so that a batch gives what single runs give.
        steps, guidance: None takes the model's defaults; guidance 1 runs without the unguided half.
        sampler: one of `SAMPLERS`.
        device: where the networks are, or where `use` brings them. Random numbers are drawn on the CPU: they are the same everywhere.
        dtype: precision the denoiser computes in; None takes that of its weights. The sampler's own arithmetic is float32.
        attention: how the denoiser's attention is computed.
        use: brings one network at a time to the device. Each is asked for once, for the whole batch.
        tick: progress, one step per denoising step of each asset, with an estimate of the views.

    Returns:
        (V, 3, h, w), or (B * V, 3, h, w) asset-major, float32 in [0, 1] on the CPU.

    Raises:
        ValueError: pictures of a wrong shape or range, an unknown sampler, steps or guidance out of range.
    """
    steps = model.steps if steps is None else steps
    guidance = _checked_guidance(model, guidance)
    model.schedule.scheduler(sampler, steps)  # says what is wrong before any network is loaded
    images, masks = _checked_pictures(image, mask, model.background)
    generators = [torch.Generator().manual_seed(seed + b) for b in range(len(images))]
    with torch.no_grad():
        tick(0, len(images) * steps)
        conditions = encode(model, images.to(device), generators, masks, guided=guidance != 1, use=use)
        latents = []
        with use("unet"):
            for b, condition in enumerate(conditions):
                one = denoise(
                    model, condition, generators[b], steps=steps, guidance=guidance, sampler=sampler, dtype=dtype,
                    attention=attention, tick=part_of(tick, b, len(images)),
                )  # fmt: skip
                latents.append(one)
        with _using(use, list(model.codec.modules())):
            grids = [model.codec.decode_grid(one).cpu() for one in latents]
    share = model.guide_share
    grids = [grid if c.guide is None else torch.lerp(grid, c.guide[1].to(grid), share) for grid, c in zip(grids, conditions, strict=True)]
    return torch.cat([views_from_grid(grid.float(), model.rows, model.columns) for grid in grids])


def renoise_views(
    model: ViewModel,
    views: Tensor,
    masks: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    level: float,
    seed: int,
    steps: int = 10,
    guidance: float | None = None,
    sampler: str = "dpmpp_2m",
    share: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    attention: Attention = torch_attention,
    use: Use = in_place,
    tick: Tick = no_tick,
) -> Tensor:
    """Views noised to a level and denoised again (IM-3D, section 3.4; SDEdit, arXiv 2108.01073): likelier, and close to what they were.

    A model with a guide gets the given views themselves as its guess.

    Args:
        model: the networks.
        views: (V, 3, h, w) in [0, 1] on the model's background, such as renders of a fitted asset at the model's cameras; for B objects
            (B * V, 3, h, w), asset-major.
        masks: (V, 1, h, w) or (B * V, 1, h, w), 1 = object.
        image, mask: the reference pictures, as for `generate_views`.
        level: how far to noise, as a share of the training timesteps, above 0; 1 generates anew.
        seed, steps, guidance, sampler, device, dtype, attention, use: as for `generate_views`; ten steps are the paper's.
        share: how much of the given views' pixels stays in the result, as in generation the guess's do. None takes the model's
            `guide_share`, which is 0 for models without a guide and half for the mini model; 0 gives what left the denoiser alone.
        tick: progress, one step per denoising step of each asset, with an estimate of the views.

    Returns:
        (V, 3, h, w) or (B * V, 3, h, w) float32 in [0, 1] on the CPU, at the size of the given views.

    Raises:
        ValueError: as `generate_views`, and views or masks of a wrong number or range, or views that are not square.
    """
    guidance = _checked_guidance(model, guidance)
    model.schedule.scheduler(sampler, steps, level)
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"The share of the given views that stays must lie in [0, 1], not {share}.")
    images, _ = _checked_pictures(image, mask, model.background)
    views, masks = _checked_views(model, views, masks, len(images))
    generators = [torch.Generator().manual_seed(seed + b) for b in range(len(images))]
    size = (model.view_size, model.view_size)
    small, small_masks = _resized(views, size).to(device), _resized(masks, size).to(device)
    with torch.no_grad():
        given = list(zip(small.split(model.n_views), small_masks.split(model.n_views), strict=True))
        conditions = encode(model, images.to(device), generators, guesses=given, guided=guidance != 1, use=use)
        with _using(use, list(model.codec.modules())):
            starts = [model.codec.encode_grid(grid_from_views(one, model.rows, model.columns)) for one, _ in given]
        latents = []
        with use("unet"):
            for b, condition in enumerate(conditions):
                one = denoise(
                    model, condition, generators[b], steps=steps, guidance=guidance, sampler=sampler, start=starts[b], level=level,
                    dtype=dtype, attention=attention, tick=part_of(tick, b, len(images)),
                )  # fmt: skip
                latents.append(one)
        with _using(use, list(model.codec.modules())):
            grids = [model.codec.decode_grid(one).float().cpu() for one in latents]
    pictures = torch.cat([views_from_grid(grid, model.rows, model.columns) for grid in grids])
    share = model.guide_share if share is None else share
    return torch.lerp(_resized(pictures, (views.shape[2], views.shape[3])), views, share)


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)


def _checked_guidance(model: ViewModel, guidance: float | None) -> float:
    guidance = model.guidance if guidance is None else guidance
    if not 0 <= guidance < float("inf"):
        raise ValueError(f"Guidance must be a number of at least 0 (1 is without guidance), not {guidance}.")
    return guidance


def _checked_views(model: ViewModel, views: Tensor, masks: Tensor, assets: int) -> tuple[Tensor, Tensor]:
    expected = assets * model.n_views
    if views.ndim != 4 or views.shape[1] != 3 or len(views) != expected:
        raise ValueError(
            f"Re-noise views: this model draws {model.n_views} views of an asset, so {assets} reference pictures need {expected} views of "
            f"shape (3, H, W), not {tuple(views.shape)}. Render the asset at the cameras of Generate Views."
        )
    if views.shape[2] != views.shape[3]:
        raise ValueError(
            f"Re-noise views: this model draws square views, and these are {views.shape[3]} x {views.shape[2]} pixels: render the asset in "
            "squares at the cameras of Generate Views."
        )
    if tuple(masks.shape) != (expected, 1, *views.shape[-2:]):
        raise ValueError(f"Re-noise views: masks of shape {tuple(masks.shape)} do not fit views of shape {tuple(views.shape)}.")
    if not torch.isfinite(views).all() or not torch.isfinite(masks).all():
        raise ValueError("Re-noise views: views and masks must hold finite numbers.")
    return views.float().clamp(0, 1), masks.float().clamp(0, 1)


def _checked_pictures(image: Tensor, mask: Tensor | None, background: tuple[float, float, float]) -> tuple[Tensor, Tensor | None]:
    """Square pictures (B, 3, S, S) and their masks (B, 1, S, S), None where none came in."""
    images = image[None] if image.ndim == 3 else image
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ValueError(f"Generate views: a picture has shape (3, S, S) or (B, 3, S, S), not {tuple(image.shape)}.")
    if not torch.isfinite(images).all() or images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise ValueError("Generate views: the picture must hold finite numbers in [0, 1].")
    images = images.float().clamp(0, 1)
    masks = None if mask is None else mask.float().reshape(-1, 1, *mask.shape[-2:])
    if masks is not None:
        if masks.shape != (len(images), 1, *images.shape[-2:]):
            raise ValueError(f"Generate views: the mask's shape {tuple(masks.shape)} does not fit the picture's {tuple(image.shape)}.")
        if not torch.isfinite(masks).all():
            raise ValueError("Generate views: the mask holds NaN or infinite numbers.")
    if images.shape[2] != images.shape[3]:
        return _prepared(images, masks, background)
    return blend_on_background(images, masks, background), masks


def _prepared(images: Tensor, masks: Tensor | None, background: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Pictures that are not square as Prepare Image makes them: squeezed, the object would be another, and padded, too small."""
    size, side = f"{images.shape[3]} x {images.shape[2]} pixels", max(images.shape[-2:])
    try:
        made = [prepare(one, None if masks is None else masks[b], size=side, background=background) for b, one in enumerate(images.cpu())]
    except ValueError as error:
        raise ValueError(
            f"Generate views: the picture is {size}, not square, and its object was not found: run it through Prepare Image. {error}"
        ) from error
    log.warning(
        "Generate views: the picture is %s, not square; its object was cut out and centred as Prepare Image does it. Put that node before "
        "this one to choose how.", size,
    )  # fmt: skip
    pictures, outlines = (torch.stack(part) for part in zip(*made, strict=True))
    return pictures, outlines


def blend_on_background(images: Tensor, masks: Tensor | None, background: tuple[float, float, float]) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] laid on a colour by their masks (B, 1, H, W), 1 = object; as they are where they stand on it.

    Raises:
        ValueError: masks of another number or size.
    """
    if masks is None:
        return images
    if tuple(masks.shape) != (len(images), 1, *images.shape[-2:]):
        raise ValueError(f"Masks of shape {tuple(masks.shape)} do not fit pictures of shape {tuple(images.shape)}.")
    color = torch.tensor(background).view(3, 1, 1)
    # A picture that already stands on this colour has its soft edge mixed once; a second time would thin it.
    outside = ((images - color).abs().amax(1, keepdim=True) * (masks < 1 / 255)).amax((1, 2, 3), keepdim=True)
    return torch.where(outside <= 1 / 255, images, images * masks + color * (1 - masks))


def encode(
    model: ViewModel,
    images: Tensor,
    generators: Sequence[torch.Generator],
    masks: Tensor | None = None,
    *,
    guided: bool,
    guesses: Sequence[tuple[Tensor, Tensor]] | None = None,
    use: Use = in_place,
) -> list[Condition]:
    """The conditions of (B, 3, S, S) pictures in [0, 1], one an asset. Draws from each generator: the reference, then the empty one.

    `guesses` are views and masks to guide by, one pair an asset, in place of the guide's own.
    """
    # Copies of one layout: the kernels' rounding depends on strides and alignment, and a batch shall equal single runs.
    pictures = [one.clone(memory_format=torch.contiguous_format) for one in images.split(1)]
    with _using(use, list(model.conditioner.modules())):
        tokens = []
        for one in pictures:
            given = model.conditioner.tokens(one)
            tokens.append(torch.cat([model.conditioner.no_tokens(one), given]) if guided else given)
    with _using(use, list(model.codec.modules())):
        references = []
        for one, generator in zip(pictures, generators, strict=True):
            given = model.codec.encode_reference(one, generator)
            references.append(torch.cat([model.codec.encode_no_reference(one, generator), given]) if guided else given)
    guides: list[tuple[Tensor, Tensor] | None] = [None] * len(pictures)
    if model.guide is not None and guesses is not None:
        with _using(use, list(model.codec.modules())):
            guides = [model.guide.of_views(views, mask) for views, mask in guesses]
    elif model.guide is not None:
        if masks is None:
            masks = torch.stack([key_plain_background(one.cpu())[None] for one in images])
        with _using(use, list(model.guide.modules())):
            guides = [model.guide(one[0], mask) for one, mask in zip(pictures, masks.to(images.device), strict=True)]
    return [Condition(*parts) for parts in zip(references, tokens, guides, strict=True)]


def denoise(
    model: ViewModel,
    condition: Condition,
    generator: torch.Generator,
    *,
    steps: int,
    guidance: float,
    sampler: str = "euler_ancestral",
    start: Tensor | None = None,
    level: float = 1.0,
    dtype: torch.dtype | None = None,
    attention: Attention = torch_attention,
    tick: Tick = no_tick,
) -> Tensor:
    """(1, channels, h, w) float32 latents of one asset's view grid: from pure noise, or from `start`, clean latents noised to `level`.

    Draws in the published pipeline's order: the start, then for each step the reference's noise and the sampler's own.
    """
    device = condition.reference.device
    dtype = next(model.unet.parameters()).dtype if dtype is None else dtype
    height, width = model.grid_size
    shape = (1, model.codec.channels, height // model.codec.factor, width // model.codec.factor)
    network = ReferenceUNet(model.unet, attention)
    scheduler = model.schedule.scheduler(sampler, steps, level)
    steps = len(scheduler.timesteps)
    kept = scheduler.alphas_cumprod.double()

    drawn = torch.randn(shape, generator=generator).to(device)
    if start is None:
        latents = drawn * float(scheduler.init_noise_sigma)
    else:
        latents = scheduler.add_noise(start.to(device), drawn, scheduler.timesteps[:1])
    for i, t in enumerate(scheduler.timesteps):
        noised = scheduler.scale_model_input(latents, t)
        prediction, estimate = look(model, network, condition, noised, int(t), kept, generator, guidance=guidance, dtype=dtype)
        latents = scheduler.step(prediction, t, latents, generator=generator, return_dict=False)[0]
        tick(i + 1, steps, model.codec.preview(estimate).float().cpu())
    return latents


def look(
    model: ViewModel,
    network: ReferenceUNet,
    condition: Condition,
    noised: Tensor,
    timestep: int,
    kept: Tensor,
    generator: torch.Generator,
    *,
    guidance: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What the network predicts for a noised grid (1, channels, h, w) at a timestep, guided; and the clean grid that follows.

    `kept` are the schedule's products of alphas, (timesteps,) float64; `generator` draws the reference's noise.
    """
    device = noised.device
    signal, noise = (x.sqrt().float().to(device) for x in (kept[timestep], 1 - kept[timestep]))
    reference, copies = condition.reference, len(condition.reference)
    if model.reference_is_noised:
        reference = signal * reference + noise * torch.randn(reference.shape, generator=generator).to(device)
    if condition.guide is not None:
        noised_and_guide = torch.cat([noised, condition.guide[0]], dim=1)
        reference = pad(reference, (0, 0, 0, 0, 0, condition.guide[0].shape[1]))
    else:
        noised_and_guide = noised
    inputs = (x.to(dtype) for x in (noised_and_guide.expand(copies, -1, -1, -1), condition.tokens, reference))
    sample, tokens, reference = inputs
    prediction = network(sample, torch.tensor(timestep, device=device), tokens, reference).float()
    if copies == 2:
        without, given = prediction.chunk(2)
        prediction = without + guidance * (given - without)
    return prediction, model.schedule.clean(noised, prediction, signal, noise)
