"""Gaussians while they are being fitted: free parameters, their Adam, and rows that come and go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.splats import Splats
from .density_control import SPLIT_SHRINK, Change, scatter_halves

LEAST_OPACITY = 1e-4  # of a start: the logit of 0 or 1 could never move again
SCALES = (1e-5, 2.0)  # world units a fit may reach


@dataclass(frozen=True)
class LearningRates:
    """Adam's step for each parameter; `position` falls exponentially to `position_last` over the fit."""

    position: float
    position_last: float
    scale: float
    rotation: float
    opacity: float
    color: float
    harmonics: float


class SplatParameters:
    """N Gaussians as logarithms of scales, logits of opacities and free quaternions, each with its Adam moments.

    Attributes:
        tensors: by name, leaves that require a gradient: positions (N, 3), log_scales (N, 3), rotations (N, 4), logits (N,),
            color (N, 1, 3) and, above degree 0, harmonics (N, K - 1, 3).
    """

    def __init__(self, splats: Splats, degree: int, rates: LearningRates, device: torch.device | str) -> None:
        terms = (degree + 1) ** 2
        sh = torch.cat([splats.sh[:, :terms], splats.sh.new_zeros(len(splats), max(terms - splats.sh.shape[1], 0), 3)], dim=1)
        opacities = splats.opacities.clamp(LEAST_OPACITY, 1 - LEAST_OPACITY)
        start = {
            "positions": splats.positions,
            "log_scales": splats.scales.clamp(*SCALES).log(),
            "rotations": torch.nn.functional.normalize(splats.rotations, dim=-1),
            "logits": torch.logit(opacities),
            "color": sh[:, :1],
            "harmonics": sh[:, 1:],
        }
        self.degree, self.rates = degree, rates
        step = {
            "positions": rates.position, "log_scales": rates.scale, "rotations": rates.rotation,
            "logits": rates.opacity, "color": rates.color, "harmonics": rates.harmonics,
        }  # fmt: skip
        self.tensors = {
            name: value.detach().to(device, torch.float32).clone().requires_grad_() for name, value in start.items() if value.numel()
        }
        groups = [{"params": [tensor], "lr": step[name], "name": name} for name, tensor in self.tensors.items()]
        self.adam = torch.optim.Adam(groups, eps=1e-15)

    def __len__(self) -> int:
        return len(self.tensors["positions"])

    @property
    def scales(self) -> Tensor:
        """(N, 3) linear."""
        return self.tensors["log_scales"].exp()

    @property
    def opacities(self) -> Tensor:
        """(N,) in [0, 1]."""
        return torch.sigmoid(self.tensors["logits"])

    @property
    def sh(self) -> Tensor:
        """(N, K, 3)."""
        return torch.cat([self.tensors["color"], self.tensors["harmonics"]], dim=1) if self.degree else self.tensors["color"]

    def splats(self) -> Splats:
        """The Gaussians as they are now, on the CPU, without a gradient."""
        with torch.no_grad():
            parts = [self.tensors["positions"], self.scales, torch.nn.functional.normalize(self.tensors["rotations"], dim=-1)]
            return Splats(*(part.detach().cpu().clone() for part in (*parts, self.opacities, self.sh)))

    def gradients_are_finite(self) -> bool:
        """Whether backward left numbers that can be used."""
        total = sum(tensor.grad.abs().sum() for tensor in self.tensors.values() if tensor.grad is not None)
        return bool(torch.isfinite(torch.as_tensor(total)))

    def step(self, progress: float) -> None:
        """One step of Adam; `progress` of the fit, 0 to 1, sets the step of positions."""
        first, last = self.rates.position, self.rates.position_last
        for group in self.adam.param_groups:
            if group["name"] == "positions":
                group["lr"] = first * (last / first) ** min(progress, 1.0)
        self.adam.step()
        low, high = torch.log(torch.tensor(SCALES)).tolist()
        with torch.no_grad():
            self.tensors["log_scales"].clamp_(low, high)

    def clear_gradients(self) -> None:
        """Forgets the gradients of the last step."""
        self.adam.zero_grad(set_to_none=True)

    def apply(self, change: Change, generator: torch.Generator) -> None:
        """Rows come and go. Those that stay keep Adam's moments, new ones start without; halves of a split are scattered in it."""
        with torch.no_grad():
            parts = {name: tensor.detach()[change.source] for name, tensor in self.tensors.items()}
            halves = change.halved
            parts["positions"][halves] = scatter_halves(
                parts["positions"][halves], parts["log_scales"][halves].exp(), parts["rotations"][halves], generator
            )
            parts["log_scales"][halves] -= torch.log(torch.tensor(SPLIT_SHRINK)).item()
        self._replace(parts, change.source, ~change.fresh)

    def keep(self, rows: Tensor) -> None:
        """Keeps the Gaussians of a mask (N,)."""
        source = rows.nonzero()[:, 0]
        self._replace({name: tensor.detach()[source] for name, tensor in self.tensors.items()}, source, torch.ones_like(source).bool())

    def lower_opacities(self, most: float) -> None:
        """Opacities become at most this, and Adam forgets what it knew of them (Kerbl et al. 2023, section 5.2)."""
        logits = self.tensors["logits"]
        with torch.no_grad():
            logits.clamp_(max=torch.logit(torch.tensor(most)).item())
        for name in ("exp_avg", "exp_avg_sq"):
            if name in self.adam.state[logits]:
                self.adam.state[logits][name].zero_()

    def _replace(self, parts: dict[str, Tensor], source: Tensor, known: Tensor) -> None:
        for group in self.adam.param_groups:
            name, old = group["name"], group["params"][0]
            new = parts[name].clone().requires_grad_()
            state = self.adam.state.pop(old, None)
            if state:
                for moment in ("exp_avg", "exp_avg_sq"):
                    rows = state[moment][source]
                    state[moment] = rows * known.reshape(-1, *[1] * (rows.ndim - 1)).to(rows)
                self.adam.state[new] = state
            group["params"][0] = self.tensors[name] = new
