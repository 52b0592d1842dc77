"""SPLAT at sockets: ours and other nodes', on cores with and without a payload of their own."""

from io import BytesIO

import pytest
import torch
from lathe.nodes.core import splat as sockets
from lathe.nodes.core.splat import OwnSplat, from_core_splat, splats_in, to_core_splat
from lathe.pipelines.data.splats import Splats


def splats(count: int, degree: int = 0) -> Splats:
    draw = torch.Generator().manual_seed(count)
    rotations = torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=-1)
    sh = torch.randn(count, (degree + 1) ** 2, 3, generator=draw)
    return Splats(torch.randn(count, 3, generator=draw), torch.rand(count, 3, generator=draw) + 0.1, rotations, torch.rand(count), sh)


def assert_same(a: Splats, b: Splats) -> None:
    sign = (a.rotations * b.rotations).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(a.rotations, b.rotations * sign)
    for name in ("positions", "scales", "opacities", "sh"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def core_splat(count: int = 4, **changed) -> OwnSplat:
    parts = dict(positions=torch.rand(1, count, 3), scales=torch.ones(1, count, 3), rotations=torch.ones(1, count, 4))
    parts |= dict(opacities=torch.rand(1, count, 1), sh=torch.rand(1, count, 1, 3))
    return OwnSplat(**{**parts, **changed})


@pytest.mark.parametrize("rich", [False, True])
def test_batches_come_back_without_padding(rich, monkeypatch):
    kind = type("SPLAT", (OwnSplat,), {}) if rich else OwnSplat
    if rich:
        monkeypatch.setattr(sockets.Types, "SPLAT", kind, raising=False)
    given = [splats(5, degree=1), splats(3, degree=1), splats(0, degree=1)]
    core = to_core_splat(given)
    assert isinstance(core, kind) or hasattr(sockets.Types, "SPLAT")
    assert core.positions.shape == (3, 5, 3) and core.opacities.shape == (3, 5, 1) and core.sh.shape == (3, 5, 4, 3)
    assert core.counts.tolist() == [5, 3, 0]
    for before, after in zip(given, from_core_splat(core), strict=True):
        assert_same(after, before)


def test_sockets_are_y_down():
    given = splats(6)
    core = to_core_splat([given])
    assert torch.equal(core.positions[0], given.positions * torch.tensor([1.0, -1.0, -1.0]))


def test_degrees_of_a_batch_are_filled_up_with_zeros():
    core = to_core_splat([splats(2, degree=0), splats(2, degree=2)])
    low, high = from_core_splat(core)
    assert low.degree == high.degree == 2
    assert torch.equal(low.sh[:, :1], splats(2).sh) and not low.sh[:, 1:].any()


def test_gradients_and_inputs_stay_behind():
    given = splats(4)
    given.positions.requires_grad_()
    core = to_core_splat([given])
    core.positions[0, 0] = 7.0
    assert not core.positions.requires_grad and not (given.positions == 7).any()


def test_another_nodes_splat_without_counts_loses_its_padding():
    parts = vars(core_splat(4)).copy()
    parts = {name: torch.cat([rows, torch.zeros_like(rows[:, :2])], 1) for name, rows in parts.items() if rows is not None}
    (back,) = from_core_splat(OwnSplat(**parts))
    assert len(back) == 4


def test_opacities_a_little_outside_are_clamped():
    (back,) = from_core_splat(core_splat(2, opacities=torch.tensor([[[1.0001], [-0.0001]]])))
    assert back.opacities.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"positions": torch.rand(4, 3)}, r"\(assets, Gaussians, 3\), not \(4, 3\)"),
        ({"scales": torch.ones(1, 3, 3)}, r"needs scales of shape \(1, 4, 3\), not \(1, 3, 3\)"),
        ({"opacities": torch.rand(1, 4)}, r"needs opacities of shape \(1, 4, 1\)"),
        ({"sh": torch.rand(1, 4, 3)}, r"needs sh of shape \(1, 4, 1, 3\)"),
        ({"sh": torch.rand(1, 4, 5, 3)}, "sh must have shape"),
        ({"counts": torch.tensor([5])}, r"cannot have counts \[5\]"),
        ({"positions": torch.full((1, 4, 3), float("nan"))}, "Asset 0 of the SPLAT cannot be used.*positions hold NaN"),
        ({"scales": -torch.ones(1, 4, 3)}, "logarithms"),
        ({"rotations": torch.zeros(1, 4, 4)}, "length 0"),
    ],
)
def test_what_is_wrong_is_said(changed, words):
    with pytest.raises(ValueError, match=words):
        from_core_splat(core_splat(**changed))


def test_what_is_no_splat_is_said():
    with pytest.raises(ValueError, match="not a str"):
        splats_in("a.ply")
    with pytest.raises(ValueError, match="no splats"):
        to_core_splat([])


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".spz"])
def test_file_3d_is_read(tmp_path, suffix):
    from lathe.pipelines.formats.splats import save_splats

    class File3D:
        format = suffix[1:]

        def __init__(self, source):
            self.source = source
            self.is_disk_backed = not isinstance(source, BytesIO)

        def get_source(self):
            return self.source

        def save_to(self, path):
            with open(path, "wb") as out:
                out.write(self.source.getvalue())
            return path

    given, path = splats(20), tmp_path / f"a{suffix}"
    save_splats(given, path)
    for source in (str(path), BytesIO(path.read_bytes())):
        (back,) = splats_in(File3D(source))
        torch.testing.assert_close(back.positions, given.positions, atol=1e-5, rtol=0)
    odd = File3D(BytesIO(b""))
    odd.format = "ksplat"
    with pytest.raises(ValueError, match="no splat file that Lathe reads"):
        splats_in(odd)


def test_flat_gaussians_of_other_nodes_get_a_thickness(caplog):
    core = to_core_splat([splats(6)])
    core.scales[0, :2, 1] = 0
    (thick,) = from_core_splat(core)
    assert len(thick) == 6 and bool((thick.scales > 0).all()) and "2 of the 6 Gaussians of asset 0 are flat" in caplog.text
    assert torch.equal(thick.scales[2:], core.scales[0, 2:])
