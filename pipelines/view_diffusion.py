"""Image to views: sampling of Zero123++ and of models made like it (arXiv 2310.15110; InstantMesh, section 3.1).

All views of one object stand in one grid picture, which a latent diffusion model denoises while its self-attention sees the
reference picture. The loop is the same for the published networks and for small ones: what differs are the parts of a `ViewModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .data.progress import Tick, no_tick, part_of
from .foreground import key_plain_background
from .nets.attention import Attention, torch_attention
from .nets.reference_attention import ReferenceUNet

SAMPLERS = ("euler_ancestral", "dpmpp_2m")

Use = Callable[[str], AbstractContextManager[Any]]
"""Called with the name of a network, entered while it runs: the host brings it to the device for that long."""


class ViewCodec(Protocol):
    """Pictures to latents and back. `channels` of a latent; `factor` pixels a latent cell is wide."""

    channels: int
    factor: int

    def modules(self) -> dict[str, nn.Module]:
        """Its networks by name; they run inside `use(name)`."""
        ...

    def encode_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, channels, h, w), the clean reference latents."""
        ...

    def encode_no_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The reference latents that stand for no picture, of the shape `encode_reference(image)` has."""
        ...

    def decode_grid(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) -> (1, 3, h * factor, w * factor) in [0, 1]."""
        ...

    def preview(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) -> a small (h', w', 3) picture in [0, 1]. Runs while the denoiser is loaded: no large network."""
        ...

    def activation_bytes(self, height: int, width: int) -> dict[str, int]:
        """Working memory of each of its networks for a (height, width) picture."""
        ...


class ViewConditioner(Protocol):
    """The reference picture as tokens for the denoiser's cross-attention."""

    def modules(self) -> dict[str, nn.Module]:
        """Its networks by name; they run inside `use(name)`."""
        ...

    def tokens(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, L, D)."""
        ...

    def no_tokens(self, image: Tensor) -> Tensor:
        """The tokens that stand for no picture, (1, L, D)."""
        ...

    def activation_bytes(self) -> dict[str, int]:
        """Working memory of each of its networks."""
        ...


class ViewGuide(Protocol):
    """A first guess at the views, as channels the denoiser gets beside the noised latents."""

    channels: int

    def modules(self) -> dict[str, nn.Module]:
        """Its networks by name; they run inside `use(name)`."""
        ...

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(3, S, S) in [0, 1] on the model's background and (1, S, S), 1 = object.

        Returns (1, channels, h, w) of the grid for the denoiser, and the guess itself, the grid picture (1, 3, H, W).
        """
        ...

    def activation_bytes(self) -> dict[str, int]:
        """Working memory of each of its networks."""
        ...


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise a model was trained with. The defaults are Zero123++'s.

    Attributes:
        beta_start, beta_end: first and last variance.
        beta_schedule: how they run in between, "linear" or "scaled_linear" (linear in the square root).
        prediction_type: what the network predicts, "v_prediction" or "epsilon".
        train_steps: number of timesteps.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "linear"
    prediction_type: str = "v_prediction"
    train_steps: int = 1000

    def scheduler(self, sampler: str, steps: int) -> Any:
        """diffusers' scheduler, set to `steps` steps that start at the last training timestep ("trailing" spacing)."""
        import diffusers

        config: dict[str, Any] = {
            "num_train_timesteps": self.train_steps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.beta_schedule,
            "prediction_type": self.prediction_type,
            "timestep_spacing": "trailing",
        }
        if sampler == "euler_ancestral":
            scheduler: Any = diffusers.EulerAncestralDiscreteScheduler(**config)
        elif sampler == "dpmpp_2m":
            scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **config)
        else:
            raise ValueError(f"There is no sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        if not 1 <= steps <= self.train_steps:
            raise ValueError(f"Sampling takes 1 to {self.train_steps} steps, not {steps}.")
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) > steps:
            # For some counts (61, 103, ...) rounding in diffusers' spacing adds one step more, below timestep 0.
            scheduler.timesteps = scheduler.timesteps[:steps]
            scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
            scheduler.num_inference_steps = steps
        return scheduler

    def clean(self, noised: Tensor, prediction: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """The estimate of the clean latents in `noised` = signal * clean + noise * eps."""
        if self.prediction_type == "epsilon":
            return (noised - noise * prediction) / signal
        return signal * noised - noise * prediction


@dataclass(frozen=True)
class ViewModel:
    """The networks that turn one picture into views, and the settings they were trained with.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        codec, conditioner: the networks around it.
        camera_preset: name of the cameras of the views (pipelines/cameras.py).
        schedule: noise schedule.
        rows, columns: the grid of views, row by row.
        view_size: side of a view in pixels.
        reference_is_noised: whether the reference latents get the timestep's noise (published) or stay clean.
        background: colour the model expects behind the object and paints behind its views.
        steps, guidance: defaults of sampling.
        guide: a first guess at the views; None in the published models.
        guide_share: how much of the guess stays in the finished pictures. A small denoiser's are means of what may be; the guess
            is sharp, and one of them.
        mask_method: how the masks of its views are found (`foreground.METHODS`).
    """

    unet: nn.Module
    codec: ViewCodec
    conditioner: ViewConditioner
    camera_preset: str
    schedule: NoiseSchedule = NoiseSchedule()
    rows: int = 3
    columns: int = 2
    view_size: int = 320
    reference_is_noised: bool = True
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    steps: int = 28
    guidance: float = 4.0
    guide: ViewGuide | None = None
    guide_share: float = 0.0
    mask_method: str = "plain_background"

    def modules(self) -> dict[str, nn.Module]:
        """Every network by name, for the host's memory management."""
        guide = {} if self.guide is None else self.guide.modules()
        return {**self.conditioner.modules(), **guide, **self.codec.modules(), "unet": self.unet}

    @property
    def n_views(self) -> int:
        """V."""
        return self.rows * self.columns

    @property
    def grid_size(self) -> tuple[int, int]:
        """Height and width of the grid picture, pixels."""
        return self.rows * self.view_size, self.columns * self.view_size


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


def views_from_grid(grid: Tensor, rows: int, columns: int) -> Tensor:
    """(1, C, rows * h, columns * w) -> (rows * columns, C, h, w), row by row."""
    channels = grid.shape[1]
    cells = grid[0].unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
    return cells.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels, cells.shape[2], cells.shape[4])


def grid_from_views(views: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `views_from_grid`."""
    cells = views.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    return cells.flatten(3, 4).flatten(1, 2)[None]


def memory_required(model: ViewModel) -> dict[str, int]:
    """Bytes each network needs beside its weights, by name: measured peaks of live tensors, and half as much again for kernels."""
    height, width = model.grid_size
    cells = 2 * (height // model.codec.factor) * (width // model.codec.factor)
    weight = next(model.unet.parameters())
    # 30 maps of the first level: the skip connections of the whole network and one block's work.
    unet = 30 * cells * int(model.unet.config.block_out_channels[0]) * weight.dtype.itemsize  # type: ignore[union-attr, index]
    guide = {} if model.guide is None else model.guide.activation_bytes()
    needs = {**model.conditioner.activation_bytes(), **guide, **model.codec.activation_bytes(height, width), "unet": unet}
    return {name: need * 3 // 2 for name, need in needs.items()}


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
        image: (3, S, S) in [0, 1], the object alone, centred, as `foreground.prepare` leaves it; or (B, 3, S, S) for B objects.
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
    guidance = model.guidance if guidance is None else guidance
    if not 0 <= guidance < float("inf"):
        raise ValueError(f"Guidance must be a number of at least 0 (1 is without guidance), not {guidance}.")
    model.schedule.scheduler(sampler, steps)  # says what is wrong before any network is loaded
    images = _checked_images(image, mask, model.background)
    generators = [torch.Generator().manual_seed(seed + b) for b in range(len(images))]
    with torch.no_grad():
        tick(0, len(images) * steps)
        masks = None if mask is None else mask.float().reshape(-1, 1, *mask.shape[-2:])
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


def _checked_images(image: Tensor, mask: Tensor | None, background: tuple[float, float, float]) -> Tensor:
    images = image[None] if image.ndim == 3 else image
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ValueError(f"Generate views: a picture has shape (3, S, S) or (B, 3, S, S), not {tuple(image.shape)}.")
    if not torch.isfinite(images).all() or images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise ValueError("Generate views: the picture must hold finite numbers in [0, 1].")
    images = images.float().clamp(0, 1)
    if mask is None:
        return images
    masks = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if masks.shape != (len(images), 1, *images.shape[-2:]):
        raise ValueError(f"Generate views: the mask's shape {tuple(mask.shape)} does not fit the picture's {tuple(image.shape)}.")
    if not torch.isfinite(masks).all():
        raise ValueError("Generate views: the mask holds NaN or infinite numbers.")
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
    use: Use = in_place,
) -> list[Condition]:
    """The conditions of (B, 3, S, S) pictures in [0, 1], one an asset. Draws from each generator: the reference, then the empty one."""
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
    if model.guide is not None:
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
    dtype: torch.dtype | None = None,
    attention: Attention = torch_attention,
    tick: Tick = no_tick,
) -> Tensor:
    """(1, channels, h, w) float32 latents of one asset's view grid, from pure noise.

    Draws in the published pipeline's order: the start, then for each step the reference's noise and the sampler's own.
    """
    device = condition.reference.device
    dtype = next(model.unet.parameters()).dtype if dtype is None else dtype
    height, width = model.grid_size
    shape = (1, model.codec.channels, height // model.codec.factor, width // model.codec.factor)
    network = ReferenceUNet(model.unet, attention)
    scheduler = model.schedule.scheduler(sampler, steps)
    kept = scheduler.alphas_cumprod.double()
    copies = len(condition.reference)

    latents = torch.randn(shape, generator=generator).to(device) * float(scheduler.init_noise_sigma)
    for i, t in enumerate(scheduler.timesteps):
        signal, noise = (x.sqrt().float().to(device) for x in (kept[int(t)], 1 - kept[int(t)]))
        noised = scheduler.scale_model_input(latents, t)
        reference = condition.reference
        if model.reference_is_noised:
            reference = signal * reference + noise * torch.randn(reference.shape, generator=generator).to(device)
        if condition.guide is not None:
            noised_and_guide = torch.cat([noised, condition.guide[0]], dim=1)
            reference = pad(reference, (0, 0, 0, 0, 0, condition.guide[0].shape[1]))
        else:
            noised_and_guide = noised
        inputs = (x.to(dtype) for x in (noised_and_guide.expand(copies, -1, -1, -1), condition.tokens, reference))
        sample, tokens, reference = inputs
        prediction = network(sample, t.to(device), tokens, reference).float()
        if copies == 2:
            without, given = prediction.chunk(2)
            prediction = without + guidance * (given - without)
        latents = scheduler.step(prediction, t, latents, generator=generator, return_dict=False)[0]
        estimate = model.schedule.clean(noised, prediction, signal, noise)
        tick(i + 1, steps, model.codec.preview(estimate).float().cpu())
    return latents
