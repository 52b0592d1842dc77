"""What every training run shares: a time budget, checkpoints that resume, an average of the weights, a written curve."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a module's state. The decay grows with the steps, so that early weights fade."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards `module`'s present state."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine), 1 - decay)
            else:
                mine.copy_(theirs)


def run(
    module: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[nn.Module], dict[str, float]],
    *,
    folder: Path,
    batch: int,
    minutes: float,
    learning_rate: float,
    warmup: int = 200,
    total_minutes: float | None = None,
    evaluate_every: float = 5.0,
    decay: float = 0.999,
    clip: float = 1.0,
    precision: str = "bf16",
    seed: int = 0,
) -> Ema:
    """Trains `module` for `minutes` more minutes; a run in the same folder goes on where the last one stopped.

    The learning rate warms up over `warmup` steps and falls as a cosine over `total_minutes` of training time (all runs
    together; without it the rate stays). Every `evaluate_every` minutes the average is evaluated, a line goes to
    `curve.jsonl` (samples seen, minutes, losses, scores) and a checkpoint replaces the last one.

    Args:
        loss_of: (module, generator) -> scalar loss and named parts, for one batch it draws itself.
        evaluate: averaged module -> named scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # the recipes build their batches, rays and evaluations on the CPU, so that is where they train until those can move
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    if accelerator.num_processes > 1:
        raise RuntimeError("These recipes train in one process: start them with python, not with several processes of accelerate launch.")
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema = Ema(module.to(accelerator.device), decay)
    step, spent = 0, 0.0
    generator = torch.Generator().manual_seed(seed)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        ema.module.load_state_dict(state["ema"])
        ema.steps, step, spent = state["steps"], state["steps"], state["minutes"]
        generator.manual_seed(seed + step)
    module, optimizer = accelerator.prepare(module, optimizer)

    def save(scores: dict[str, float]) -> None:
        plain = accelerator.unwrap_model(module)
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {"module": plain.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.module.state_dict(),
             "steps": step, "minutes": spent},
            partial,
        )  # fmt: skip
        os.replace(partial, checkpoint)
        line = {"samples": step * batch, "minutes": round(spent, 2), **{k: round(v, 5) for k, v in scores.items()}}
        with open(folder / "curve.jsonl", "a") as curve:
            curve.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    sums: dict[str, float] = {}
    counted = 0
    began = mark = time.monotonic()
    due = began + 60 * evaluate_every
    while True:
        progress = min(1.0, spent / total_minutes) if total_minutes else 0.0
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / warmup) * cosine
        module.train()
        with accelerator.autocast():
            loss, parts = loss_of(module, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss.item()} at step {step}.")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(accelerator.unwrap_model(module))
        for name, value in {"loss": float(loss.detach()), **parts}.items():
            sums[name] = sums.get(name, 0.0) + value
        counted += 1
        now = time.monotonic()
        spent += (now - mark) / 60
        mark = now
        over = now - began >= 60 * minutes
        if over or now >= due:
            save({**{k: v / counted for k, v in sums.items()}, **evaluate(ema.module)})
            sums, counted = {}, 0
            mark = time.monotonic()
            due = mark + 60 * evaluate_every
        if over:
            return ema
