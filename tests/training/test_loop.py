"""The training loop: it learns, resumes where it stopped, averages, and does not go on with a broken loss."""

import json

import pytest
import torch
from lathe.training import loop


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))


def squared(module, generator):
    x = torch.rand(8, generator=generator)
    loss = ((module.w * x - 3 * x) ** 2).mean()
    return loss, {"w": float(module.w.detach())}


def run(folder, minutes, loss=squared, **settings):
    return loop.run(
        Line(), loss, lambda m: {"average": float(m.w)}, folder=folder, batch=8, minutes=minutes, learning_rate=0.05, warmup=1,
        precision="no", decay=0.9, **settings,
    )  # fmt: skip


def test_learns_and_resumes(tmp_path):
    first = run(tmp_path, 0.02)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert first.steps > 50 and abs(float(first.module.w) - 3) < 0.1
    second = run(tmp_path, 0.002)
    after = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert second.steps > first.steps and len(after) == len(lines) + 1
    assert after[-1]["samples"] == second.steps * 8 and after[-1]["minutes"] >= lines[-1]["minutes"]
    assert abs(float(second.module.w) - 3) < 0.1
    assert not list(tmp_path.glob("*.partial"))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="nan"):
        run(tmp_path, 0.01, lambda module, generator: (module.w * float("nan"), {}))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_average_starts_fast_and_then_slows():
    module = Line()
    ema = loop.Ema(module, decay=0.99)
    module.w.data.fill_(1.0)
    ema.update(module)
    assert float(ema.module.w) > 0.8
    for _ in range(2000):
        ema.update(module)
    module.w.data.fill_(2.0)
    ema.update(module)
    assert float(ema.module.w) == pytest.approx(1.01, abs=1e-3)
