"""Stable Diffusion's noise schedule, for the priors that benchmarks make up."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS, FIRST_BETA, LAST_BETA = 1000, 0.00085, 0.012


def steps_of(times: Tensor) -> Tensor:
    """Times in [0, 1] -> int64 steps."""
    return (times.cpu() * STEPS).long().clamp(0, STEPS - 1)


def noise_ratio(times: Tensor) -> Tensor:
    """Noise over signal, float32, at times in [0, 1]."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, STEPS, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[steps_of(times)]
    return ((1 - kept) / kept).sqrt().float()
