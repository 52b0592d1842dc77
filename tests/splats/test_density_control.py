"""Which Gaussians are cloned, split and pruned, and what the optimiser remembers of them."""

import pytest
import torch
from lathe.pipelines.ops.splat_raster.dispatch import Rendered
from lathe.pipelines.splats.density_control import Densify, DensifyRules, EveryGaussianPruned, scatter_halves, too_faint_or_large
from lathe.pipelines.splats.parameters import LearningRates, SplatParameters
from lathe.pipelines.splats.start import start_from_points
from torch import Tensor

RULES = dict(
    first=10, last=100, every=10, gradient=1.0, absolute=False, split_scale=0.1, opacity=0.05, largest_scale=0.5, reset_every=50,
    reset_to=0.2, most=100,
)  # fmt: skip
RATES = LearningRates(0.01, 0.001, 0.01, 0.01, 0.01, 0.01, 0.01)
SCALES = torch.tensor([0.05, 0.2, 0.05, 0.05, 0.9])[:, None].expand(5, 3)
OPACITIES = torch.tensor([0.9, 0.9, 0.9, 0.01, 0.9])
GRADIENTS = torch.tensor([2.0, 3.0, 0.5, 9.0, 9.0])


def strategy(**changes) -> Densify:
    return Densify(DensifyRules(**{**RULES, **changes}))


def seen(gradients: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"gradient": gradients * 4, "seen": torch.full_like(gradients, 4)}


def parameters(count: int) -> SplatParameters:
    generator = torch.Generator().manual_seed(0)
    points, colors = torch.rand(count, 3, generator=generator), torch.rand(count, 3, generator=generator)
    made = SplatParameters(start_from_points(points, colors), 1, RATES, "cpu")
    for value in made.tensors.values():
        value.grad = torch.rand(value.shape, generator=generator)
    made.step(0.0)
    return made


def moments(made: SplatParameters, name: str) -> torch.Tensor:
    return made.adam.state[made.tensors[name]]["exp_avg"]


def test_small_ones_are_cloned_large_ones_split_faint_and_huge_ones_pruned():
    change = strategy().change(seen(GRADIENTS), SCALES, OPACITIES)
    assert change.source.tolist() == [0, 2, 0, 1, 1]  # kept, kept, clone of 0, both halves of 1
    assert change.fresh.tolist() == [False, False, True, True, True]
    assert change.halved.tolist() == [False, False, False, True, True]
    assert change.pruned == 2


def test_the_largest_gradients_go_first_where_there_is_little_room():
    change = strategy(most=4).change(seen(GRADIENTS), SCALES, OPACITIES)
    assert change.source.tolist() == [0, 2, 1, 1]
    assert strategy(most=2).change(seen(GRADIENTS), SCALES, OPACITIES).source.tolist() == [0, 1, 2]


ROW, SIZE = "row", "scales"


def rows_by_gsplat(pull: Tensor, scales: Tensor, opacities: Tensor, *, gradient: float, split_scale: float, opacity: float,
               largest_scale: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What becomes of N Gaussians, as M rows: the row each comes from (int64), whether it is new, and whether it is half of a split one.

    Args:
        pull: (N,) mean gradient of each; above `gradient` it is cloned, or split where its largest scale is above `split_scale`.
        scales: (N, 3) linear. opacities: (N,); fainter than `opacity` they go, and larger than `largest_scale` too, unless that is 0.
    """
    from gsplat.strategy import DefaultStrategy

    # One call in which everything is due. Steps are counted so that large ones are pruned, which gsplat does after its first reset.
    strategy = DefaultStrategy(
        prune_opa=opacity, grow_grad2d=gradient, grow_scale3d=split_scale, prune_scale3d=largest_scale or float("inf"),
        refine_start_iter=0, refine_stop_iter=3, refine_every=1, reset_every=1,
    )  # fmt: skip
    count, device = len(pull), pull.device
    means2d = torch.zeros(count, 2, device=device, requires_grad=True)
    means2d.grad = torch.stack([pull, torch.zeros_like(pull)], dim=1)
    seen = {
        "width": 2, "height": 2, "n_cameras": 1, "means2d": means2d, "radii": torch.ones(count, device=device),
        "gaussian_ids": torch.arange(count, device=device),
    }  # fmt: skip
    fixed = {
        "means": torch.zeros(count, 3, device=device),
        "quats": torch.tensor([1.0, 0, 0, 0], device=device).expand(count, 4),
        SIZE: scales.detach().log(),
        "opacities": torch.logit(opacities.detach()),
        ROW: torch.arange(count, device=device),
    }
    made = {name: torch.nn.Parameter(value.clone(), requires_grad=False) for name, value in fixed.items()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # it draws places for the halves; ours are drawn by seed
        strategy.step_post_backward(made, {}, strategy.initialize_state(), 2, seen, packed=True)
    source = made[ROW].detach()
    halved = (made[SIZE] < fixed[SIZE][source] - 1e-3).all(dim=1)
    kept = len(source[~halved].unique())  # they come first, then clones, then halves
    return source, torch.arange(len(source), device=device) >= kept, halved


@pytest.mark.parametrize(
    "seed, changes", [(0, {}), (1, {"largest_scale": 0.0}), (2, {"most": 420}), (3, {"most": 1}), (4, {"gradient": 9.0})]
)
def test_the_rows_are_those_of_gsplats_own_strategy(seed: int, changes: dict):
    pytest.importorskip("gsplat.strategy", reason="gsplat is not installed")
    generator = torch.Generator().manual_seed(seed)
    scales, opacities, gradients = (torch.rand(size, generator=generator) for size in ((400, 3), (400,), (400,)))
    state = {"gradient": gradients * 6, "seen": torch.full((400,), 3.0)}
    strategies = strategy(**{"most": 2000, "split_scale": 0.35, "largest_scale": 0.97, **changes})
    ours, rules = strategies.change(state, scales, opacities), strategies.rules
    grow = strategies.grows(state, too_faint_or_large(opacities, scales.amax(dim=1), rules))
    theirs = rows_by_gsplat(
        torch.where(grow, gradients * 2, 0.0), scales, opacities, gradient=rules.gradient, split_scale=rules.split_scale,
        opacity=rules.opacity, largest_scale=rules.largest_scale,
    )  # fmt: skip
    for name, rows in zip(("source", "fresh", "halved"), theirs, strict=True):
        assert torch.equal(getattr(ours, name), rows), name
    assert bool(ours.fresh.any()) == (rules.gradient < 2 and rules.most > 1)


def test_pruning_everything_is_refused():
    with pytest.raises(EveryGaussianPruned, match="All 5 Gaussians"):
        strategy().change(seen(GRADIENTS), SCALES, torch.zeros(5))


def test_gradients_are_counted_in_half_widths_for_the_views_that_see_a_gaussian():
    rules, means2d = strategy(), torch.zeros(2, 3, 2, requires_grad=True)
    means2d.grad = torch.tensor([[[3.0, 4], [1, 0], [1, 1]], [[0, 1.0], [1, 0], [1, 1]]])
    radii = torch.tensor([[[1, 1], [1, 1], [0, 0]], [[1, 1], [0, 0], [0, 0]]], dtype=torch.int32)
    rendered, state = Rendered(*[torch.zeros(0)] * 3, None, means2d, radii), rules.start(3)
    rules.observe(state, rendered, 20, 20, 2)
    assert state["gradient"].tolist() == [20 * (5 + 1), 20, 0]
    assert state["seen"].tolist() == [2, 1, 0]
    means2d.absgrad = means2d.grad * 2
    absolute, more = strategy(absolute=True), rules.start(3)
    absolute.observe(more, rendered, 20, 20, 2)
    assert torch.equal(more["gradient"], state["gradient"] * 2)


def test_when():
    rules = strategy()
    assert [step for step in range(1, 131) if rules.due(step)] == list(range(10, 101, 10))
    assert [step for step in range(1, 131) if rules.resets(step)] == [50]
    assert rules.observes(100) and not rules.observes(101)


def test_rows_keep_their_moments_and_new_rows_have_none():
    made = parameters(5)
    before = {name: (value.detach().clone(), moments(made, name).clone()) for name, value in made.tensors.items()}
    change = strategy().change(seen(GRADIENTS), SCALES, OPACITIES)
    made.apply(change, torch.Generator().manual_seed(0))
    assert len(made) == 5 and {len(value) for value in made.tensors.values()} == {5}
    for name, value in made.tensors.items():
        old, memory = before[name]
        assert value.requires_grad and value.is_leaf
        assert torch.equal(moments(made, name)[:2], memory[[0, 2]]), name
        assert not moments(made, name)[2:].any(), name
        assert torch.equal(value[:3], old[[0, 2, 0]]), name
        if name not in ("positions", "log_scales"):
            assert torch.equal(value[3:], old[[1, 1]]), name
    assert torch.allclose(made.scales[3:], before["log_scales"][0][[1, 1]].exp() / 1.6)
    assert not torch.equal(made.tensors["positions"][3], made.tensors["positions"][4])


def test_a_row_goes_on_after_a_change_as_it_would_have_without():
    changed, left = parameters(4), parameters(4)
    changed.keep(torch.tensor([True, False, True, True]))
    for made in (changed, left):
        for value in made.tensors.values():
            value.grad = torch.ones_like(value)
        made.step(0.5)
    for name, value in changed.tensors.items():
        assert torch.equal(value, left.tensors[name][[0, 2, 3]]), name


def test_lowered_opacities_forget_their_moments():
    made = parameters(4)
    made.lower_opacities(0.2)
    assert float(made.opacities.detach().max()) <= 0.2 + 1e-6
    assert not moments(made, "logits").any() and moments(made, "color").any()


def test_halves_lie_where_the_gaussian_was():
    count = 20_000
    scales = torch.tensor([0.3, 0.1, 0.01]).expand(count, 3)
    quarter = torch.tensor([0.5**0.5, 0, 0, 0.5**0.5]).expand(count, 4)  # about z: the long axis points along y
    points = scatter_halves(torch.ones(count, 3), scales, quarter, torch.Generator().manual_seed(0))
    assert torch.allclose(points.std(0), torch.tensor([0.1, 0.3, 0.01]), rtol=0.03)
    assert torch.allclose(points.mean(0), torch.ones(3), atol=0.01)
