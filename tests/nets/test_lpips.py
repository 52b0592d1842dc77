"""LPIPS: the published names load, the formula holds, and it says plainly when its files are not there."""

import pytest
import torch
from lathe.pipelines.nets import lpips, perceptual
from torch.nn import functional as F

CONVS = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256)]
CONVS += [(17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512)]


@pytest.fixture(scope="module")
def torchvision_state():
    """Entries as torchvision's VGG16 and the heads' file name them, random values."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, wide_in, wide_out in CONVS:
        state[f"features.{index}.weight"] = torch.randn(wide_out, wide_in, 3, 3, generator=generator) / (wide_in * 4.5) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(wide_out, generator=generator) * 0.1
    state["classifier.0.weight"] = torch.zeros(2, 2)
    for head, width in enumerate((64, 128, 256, 512, 512)):
        state[f"lin{head}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return state


def in_checkpoint(state):
    """The same entries as an InstantMesh training checkpoint holds them."""
    slice_of = {index: 1 + sum(index >= start for start in (5, 10, 17, 24)) for index, _, _ in CONVS}
    out = {"lrm_generator.x": torch.zeros(1)}
    for name, value in state.items():
        kind, index, *rest = name.split(".")
        if kind == "features":
            out[f"lpips.net.net.slice{slice_of[int(index)]}.{index}.{rest[0]}"] = value
        elif kind.startswith("lin"):
            out[f"lpips.net.{name}"] = value
            out[f"lpips.net.lins.{kind[3]}.model.1.weight"] = value
    return out


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)


def test_equals_the_formula_worked_out_layer_by_layer(torchvision_state, pictures):
    def features(images):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x, out = (images * 2 - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1), []
        for index, _, _ in CONVS:
            x = F.max_pool2d(x, 2) if index in (5, 10, 17, 24) else x
            weight, bias = torchvision_state[f"features.{index}.weight"], torchvision_state[f"features.{index}.bias"]
            x = torch.relu(F.conv2d(x, weight, bias, padding=1))
            if index in (2, 7, 14, 21, 28):
                out.append(F.normalize(x, dim=1))
        return out

    expected = sum(
        F.conv2d((a - b) ** 2, torchvision_state[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
        for k, (a, b) in enumerate(zip(features(pictures[0]), features(pictures[1]), strict=True))
    )
    torch.testing.assert_close(lpips.from_state_dict(torchvision_state).distance(*pictures), expected, rtol=1e-4, atol=1e-6)


def test_both_published_layouts_give_one_network(torchvision_state, pictures):
    one, other = lpips.from_state_dict(torchvision_state), lpips.from_state_dict(in_checkpoint(torchvision_state))
    torch.testing.assert_close(one.distance(*pictures), other.distance(*pictures), rtol=0, atol=0)
    assert float(one.distance(pictures[0], pictures[0]).abs().max()) == 0.0


def test_missing_or_misshapen_entries_are_named(torchvision_state):
    headless = {name: value for name, value in torchvision_state.items() if not name.startswith("lin")}
    with pytest.raises(ValueError, match="lin0 is missing"):
        lpips.from_state_dict(headless)
    with pytest.raises(ValueError, match=r"slice2.5.weight has shape \(1, 1, 1, 1\)"):
        lpips.from_state_dict({**torchvision_state, "features.5.weight": torch.zeros(1, 1, 1, 1)})


def test_says_where_weights_come_from_when_there_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)not on disk.*torchvision"):
        lpips.load_lpips(tmp_path / "vgg16-397923af.pth")
    with pytest.raises(ValueError, match="not on disk"):
        lpips.load_lpips()


def test_files_are_read_together(torchvision_state, pictures, tmp_path):
    backbone = {name: value for name, value in torchvision_state.items() if not name.startswith("lin")}
    heads = {name: value for name, value in torchvision_state.items() if name.startswith("lin")}
    torch.save(backbone, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "vgg.pth")
    net = lpips.load_lpips(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    torch.testing.assert_close(net.distance(*pictures), lpips.from_state_dict(torchvision_state).distance(*pictures))


def test_the_two_distances_have_names_of_their_own():
    assert lpips.LPIPS.name == "lpips_vgg" and perceptual.PerceptualNet.name == "vgg_hed"
