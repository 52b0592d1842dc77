"""The mini view model's small parts: the linear codec, the query encoder, the relief network and its guide."""

import torch
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.nets.mini_relief import ReliefNet
from lathe.pipelines.nets.mini_views import PatchCodec, QueryEncoder
from lathe.pipelines.nets.relief_guide import ReliefGuide


def smooth_pictures(count: int) -> torch.Tensor:
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (32, 32), mode="bicubic", align_corners=False).clamp(0, 1)


def test_codec_keeps_what_its_components_hold():
    pictures = smooth_pictures(64)
    whole = PatchCodec.fit(pictures, 4, 48)
    assert torch.allclose(whole.decode(whole.encode(pictures)), pictures, atol=1e-4)
    errors = []
    for channels in (3, 8, 20):
        codec = PatchCodec.fit(pictures, 4, channels)
        latents = codec.encode(pictures)
        assert latents.shape == (64, channels, 8, 8)
        errors.append(float((codec.decode(latents) - pictures).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_codec_latents_fall_in_scale():
    latents = PatchCodec.fit(smooth_pictures(64), 4, 12).encode(smooth_pictures(64))
    deviation = latents.std((0, 2, 3))
    assert (deviation[:-1] >= deviation[1:] - 1e-3).all()


def test_query_encoder_gives_a_token_a_cell():
    encoder = QueryEncoder(16, 64)
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, 16, 16) == encoder.empty(2).shape


def test_relief_puts_the_back_behind_the_front():
    relief = ReliefNet()(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32))
    assert (relief.back > relief.front).all()
    assert relief.back_color.shape == (2, 3, 32, 32) and relief.elevation.shape == (2,)


def test_guide_shows_the_object_and_covers_its_patches():
    codec = PatchCodec.fit(smooth_pictures(16), 8, 6)
    guide = ReliefGuide(ReliefNet(), codec, preset_cameras("zero123plus_v1.2"), 32)
    mask = torch.zeros(1, 64, 64)
    mask[:, 12:52, 20:44] = 1
    image = torch.ones(3, 64, 64) * (1 - mask) + torch.tensor([0.8, 0.1, 0.1])[:, None, None] * mask
    with torch.no_grad():
        pictures, masks = guide.views(image, mask)
        channels, grid = guide(image, mask)
    assert channels.shape == (1, 7, 12, 8)
    assert torch.equal(grid[0, :, :32, 32:], pictures[1])
    assert (masks.flatten(1).mean(1) > 0.05).all()
    assert torch.equal(channels[0, 6, :4, :4], torch.nn.functional.avg_pool2d(masks[0], 8)[0])
    assert (pictures[masks.expand(-1, 3, -1, -1) == 0] == 1).all()
    assert guide.views(torch.ones(3, 64, 64), torch.zeros(1, 64, 64))[1].sum() == 0
