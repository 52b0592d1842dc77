"""The distillation stage of the speed benchmark, at a size that takes no time."""

import json
from dataclasses import replace

import pytest
import torch
from lathe.bench.speed_cases import distil
from lathe.bench.speed_cases.random_diffusion import RandomDiffusion
from lathe.pipelines.distillation.settings import DistilPreset, March, load_distil_preset
from lathe.pipelines.nets.distil_net import FieldShape

CPU = torch.device("cpu")


def small() -> DistilPreset:
    """The mini preset made smaller; like the paper's, with steps that see the reference and steps that see random views."""
    mini = load_distil_preset("mini")
    shape = FieldShape(levels=4, log2_size=11, base=4, finest=32, hidden=16, layers=1, bias="cone", bias_strength=3.0, bias_radius=0.5)
    apart = {"reference_first": 2, "reference_every": 4, "together": False}
    return DistilPreset(
        mini.title, mini.source,
        replace(mini.coarse, steps=12, size=16, first_size=0, field=shape, march=March(0.08, 16, 8, 0.8, 1.0), **apart),
        replace(mini.fine, steps=12, size=32, grid=12, band=0, color=shape, faces=300, texture=64), mini.splat,
    )  # fmt: skip


def test_the_parts_sum_to_the_iteration_and_the_report_ends_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(distil, "SIZES", {"mini": (32, 16)})
    monkeypatch.setattr(distil, "WARM_UP_SIDE", 16)
    result = {stage: distil.run("mini", small(), stage, CPU) for stage in distil.STAGES}
    kinds = result["coarse"]["kinds"]
    assert set(kinds) == {"reference", "random"} and set(result["fine"]["kinds"]) == {"both"}
    assert kinds["reference"]["share"] == pytest.approx(5 / 12) and kinds["random"]["share"] == pytest.approx(7 / 12)
    assert kinds["reference"]["seconds"]["prior"] == 0 < kinds["random"]["seconds"]["prior"]
    for stage in ("coarse", "fine"):
        made = result[stage]
        assert made["seconds"] == pytest.approx(sum(made["parts"].values())) and tuple(made["parts"]) == distil.PARTS
        assert all(seconds > 0 for seconds in made["parts"].values()) and made["points"] > 0
    assert distil.projected(**result) is None  # small networks say nothing of a whole run
    coarse = {"full": True, "seconds": 0.02, "steps": 9000}
    fine = {"full": True, "seconds": 0.05, "steps": 3000, "start_seconds": 30}
    assert distil.projected(coarse, fine) == pytest.approx(3 + 2.5 + 0.5)
    times = {"median_ms": 240.0, "min_ms": 120.0, "cpu_min_ms": 120.0}
    distil.report({"mini": result}, {"cases": {"forward": times, "forward + backward": times, "Adam": times}}, {"date": "today"})
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["stage"] == "distil" and last["machine"] == {"date": "today"}
    assert last["hash_grid_ratio_to_prototype"]["forward"] == {"median": 2.0, "min": 1.0, "cpu_min_of_2_threads": 0.5}
    assert last["seconds"]["mini"]["fine"] == pytest.approx(result["fine"]["seconds"], abs=1e-5)


def test_kinds_of_steps_are_those_of_the_presets():
    def count(preset: str, kind: str) -> int:
        settings = load_distil_preset(preset).coarse
        return sum(distil.kind_of(number, settings) == kind for number in range(1, settings.steps + 1))

    assert count("threestudio", "both") == 10000
    assert count("paper", "reference") == 100 + 1225 and count("paper", "random") == 3675


def test_a_step_that_is_not_finite_is_no_measurement(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distil, "SIZES", {"mini": (32, 16)})
    monkeypatch.setattr(RandomDiffusion, "denoised", lambda self, latents, *_: latents * float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        distil.run("mini", small(), "coarse", CPU)


@pytest.mark.parametrize("seen", [False, True])
def test_the_random_network_is_a_whole_prior(seen: bool):
    model = RandomDiffusion(32, full=False, seen=seen, device="cpu", seed=1)
    same = RandomDiffusion(32, full=False, seen=seen, device="cpu", seed=1)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    latents = model.encode(images)
    assert latents.shape == (1, 4, 4, 4)
    (gradient,) = torch.autograd.grad(latents.square().sum(), images)
    assert float(gradient.abs().max()) > 0
    clean, times, noise = latents.detach(), torch.tensor([0.4]), torch.ones(1, 4, 4, 4)
    asked = [net.denoised(clean, times, noise, None, guidance) for net in (model, same) for guidance in (1.0, 100.0)]
    assert torch.equal(asked[0], asked[2]) and torch.isfinite(asked[1]).all()
    assert model.unet.config.in_channels == (8 if seen else 4)
