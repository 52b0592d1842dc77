"""The mini reconstruction network: its inputs, its heads, the switch from density to signed distance, its field."""

import pytest
import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.field import Field
from lathe.pipelines.nets.mini_heads import PosedViews, activate_density, density_to_sdf_
from lathe.pipelines.nets.mini_lrm import MiniLRM, network_volume
from lathe.pipelines.nets.projected_field import ProjectedField
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.coordinate_frames.instantmesh import to_triplane


def views(count: int = 6) -> tuple[torch.Tensor, torch.Tensor, Cameras]:
    """A ball at (.6, -.5, .1), orange on white."""
    azimuths = torch.arange(count) * 360.0 / count + 20
    cameras = Cameras(
        camera_math.orbit(azimuths, torch.arange(count) * 7.0 - 15, 4.0), camera_math.intrinsics(30.0, count), tuple(map(str, range(count)))
    )
    origins, directions = camera_math.rays(cameras.c2w, cameras.K, 64, 64)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    to_ball = torch.tensor([0.6, -0.5, 0.1]) - origins
    distance = (to_ball - (to_ball * unit).sum(-1, keepdim=True) * unit).norm(dim=-1)
    masks = (distance < 0.3).float()[:, None]
    return torch.tensor([1.0, 0.6, 0.2])[None, :, None, None] * masks + 1 - masks, masks, cameras


@pytest.fixture(scope="module")
def net() -> MiniLRM:
    torch.manual_seed(0)
    return MiniLRM().eval()


def test_volume_lies_in_the_networks_axes():
    volume = network_volume(*views())
    middle = to_triplane(torch.tensor([0.6, -0.5, 0.1]))
    x, y, z = ((middle + 1) / 2 * volume.shape[-1]).long().tolist()
    assert volume[0, z, y, x] > 0.9
    assert volume[1:, z, y, x].tolist() == pytest.approx([1.0, 0.6, 0.2], abs=0.02)
    assert volume[0, x, y, z] < 0.1 and volume[0, y, z, x] < 0.1


def test_point_input_sees_the_silhouettes_and_colours(net):
    images, masks, cameras = views()
    posed = PosedViews(torch.cat([images, masks], 1), cameras.c2w, cameras.K)
    heads = net.synthesizer.decoder
    points = torch.tensor([[0.6, -0.5, 0.1], [-0.4, 0.3, 0.3]])
    features, seen = heads.features(torch.zeros(3, 16, 64, 64), points, posed)
    assert seen.shape == (6, 2, 4)
    pooled = features[:, -8:]
    assert pooled[0, 0] == pytest.approx(1, abs=1e-3) and pooled[1, 0] < 0.01
    assert pooled[0, 2:5].tolist() == pytest.approx([1.0, 0.6, 0.2], abs=0.02)
    color = heads.color(features, seen, points, posed)
    assert color.shape == (2, 3) and ((color > -0.01) & (color < 1.01)).all()


def test_field_takes_any_number_of_views(net):
    for count in (1, 3, 8):
        field = net.field(*views(count))
        assert isinstance(field, Field) and field.kind == "density"
        assert field.level == pytest.approx(float(activate_density(torch.zeros(()))))
        assert field.geometry(torch.zeros(5, 3)).shape == (5,)


def test_order_of_the_views_does_not_matter(net):
    images, masks, cameras = views()
    order = [3, 0, 5, 1, 4, 2]
    points = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    with torch.no_grad():
        one = net.field(images, masks, cameras).geometry(points)
        two = net.field(images[order], masks[order], cameras.select(order)).geometry(points)
    assert torch.allclose(one, two, atol=1e-4)


def test_masks_are_needed(net):
    images, _, cameras = views()
    with pytest.raises(ValueError, match="needs the views' masks"):
        net.field(images, None, cameras)


def test_density_becomes_distance_with_the_same_surface():
    torch.manual_seed(1)
    net = MiniLRM(point_input=False).eval()
    inputs = views()
    points = torch.rand(256, 3) * 1.8 - 0.9
    with torch.no_grad():
        density = net.field(*inputs).geometry(points)
        level = net.field(*inputs).level
        density_to_sdf_(net.synthesizer.decoder)
        field = net.field(*inputs)
        sdf = field.geometry(points)
    assert field.kind == "sdf" and field.level == 0
    assert torch.equal(sdf < 0, density > level)
    with pytest.raises(ValueError, match="already"):
        density_to_sdf_(net.synthesizer.decoder)


def test_saved_field_is_the_same_field(net):
    field = net.field(*views())
    again = ProjectedField.from_state(*field.state())
    points = torch.rand(100, 3) * 2 - 1
    assert torch.equal(field.color(points), again.color(points))
    tensors, settings = field.state()
    del tensors["pictures"]
    with pytest.raises(ValueError, match="pictures"):
        ProjectedField.from_state(tensors, settings)
    with pytest.raises(ValueError, match="version"):
        ProjectedField.from_state(tensors, {**settings, "version": 99})


def test_settings_rebuild_the_network(net):
    again = MiniLRM.from_settings(net.settings())
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
