"""What a model that draws views is made of: the parts around its denoiser, its noise schedule, and the grid its views stand in.

`sampling` samples from such a model; `weights` loads the published ones and the bundled small one into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.cameras import Cameras
from ..images import sheets

SAMPLERS = ("euler_ancestral", "dpmpp_2m")


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

    def encode_grid(self, grid: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1], the grid of views -> (1, channels, H / factor, W / factor), the inverse of `decode_grid`."""
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

    def of_views(self, views: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """A guess that is at hand, (V, 3, h, w) in [0, 1] on white and (V, 1, h, w), in the two forms a call returns."""
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

    def scheduler(self, sampler: str, steps: int, level: float = 1.0) -> Any:
        """diffusers' scheduler, set to even steps from the last training timestep down ("trailing" spacing), or from part of the way.

        Args:
            sampler: one of `SAMPLERS`.
            steps: number of steps; fewer are taken where fewer timesteps are left below the level.
            level: where to start, as a share of the training timesteps: 1 is pure noise, SDEdit (arXiv 2108.01073) starts below.

        Raises:
            ValueError: unknown sampler, steps or level out of range.
        """
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
        if not 0 < level <= 1:
            raise ValueError(f"The noise level must lie above 0 and be at most 1 (pure noise), not {level}.")
        first = max(round(level * self.train_steps), 1)
        steps = min(steps, first)
        # Set here, because diffusers' own spacing starts at the top only, and for some counts (61, 103, ...) rounds to one step more.
        scheduler.set_timesteps(steps)
        timesteps = torch.tensor([round(first - first * i / steps) - 1 for i in range(steps)])
        kept = scheduler.alphas_cumprod[timesteps].double()
        scheduler.timesteps = timesteps.to(scheduler.timesteps.dtype)
        scheduler.sigmas = torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1)]).to(scheduler.sigmas.dtype)
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
        camera_preset: name of the cameras of the views (pipelines/cameras/presets.py).
        schedule: noise schedule.
        rows, columns: the grid of views, row by row.
        view_size: side of a view in pixels.
        reference_is_noised: whether the reference latents get the timestep's noise (published) or stay clean.
        background: colour the model expects behind the object and paints behind its views.
        steps, guidance: defaults of sampling.
        guide: a first guess at the views; None in the published models.
        guide_share: how much of the guess stays in the finished pictures. A small denoiser's are means of what may be; the guess
            is sharp, and one of them.
        mask_method: how the masks of its views are found (`images.foreground.METHODS`).
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


def views_from_grid(grid: Tensor, rows: int, columns: int) -> Tensor:
    """(1, C, rows * h, columns * w) -> (rows * columns, C, h, w), row by row."""
    return sheets.split(grid, columns, rows)


def grid_from_views(views: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `views_from_grid`."""
    return sheets.tile(views, columns, rows)


def turned_apart(cameras: Cameras, azimuths: Sequence[float] | Tensor, elevations: Sequence[float] | Tensor | None = None) -> float:
    """By how many degrees, at most, V cameras stand elsewhere than at these angles; turning all azimuths together counts nothing."""
    eyes = torch.nn.functional.normalize(cameras.c2w[:, :3, 3].double(), dim=-1)
    wanted = torch.as_tensor(azimuths, dtype=torch.float64)
    found = torch.rad2deg(torch.atan2(eyes[:, 0], eyes[:, 2]))
    apart = ((found - found[0]) - (wanted - wanted[0]) + 180) % 360 - 180
    if elevations is not None:
        apart = torch.cat([apart, torch.rad2deg(torch.asin(eyes[:, 1])) - torch.as_tensor(elevations, dtype=torch.float64)])
    return float(apart.abs().max())


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
