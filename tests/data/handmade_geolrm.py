"""GeoLRM networks whose weights are written by hand: they carve the visual hull of a dark object, and paint it as the views show it.

Each cell's latent holds the mean over the views of the colour at its projection, from the fine feature map. The proposal network says
"occupied" where the mean green is low, the reconstruction network turns each token into one round Gaussian of the mean colour.
"""

import torch
from lathe.pipelines.nets.dino import IMAGE_MEAN, IMAGE_STD
from lathe.pipelines.nets.geolrm import GeoLRMConfig, ProposalNetwork, ReconstructionNetwork
from lathe.pipelines.reconstruction.geolrm.stages import GeoLRM

SIZES = {"dim": 96, "layers": 1, "heads": 1, "vit": (16, 1, 1), "feature_dim": 8, "samples": 1, "grid": 24}
CONSTANT, COLOR = 40, 50  # channels of a latent: a large constant, and three of colour
LARGE = 30.0
DEVIATION, SCALE_MAX = 0.02, 0.04


def handmade_model(view_size=112):
    """Both networks."""
    proposal = ProposalNetwork(GeoLRMConfig(**SIZES, token_cells=1))
    reconstruction = ReconstructionNetwork(GeoLRMConfig(**SIZES, gaussians=1, scale_max=SCALE_MAX))
    for net in (proposal, reconstruction):
        _carry_colors(net)
    green = COLOR + 1
    # 6 views show green 0 inside; with one view of white among them the mean is higher by 0.37
    inside = 0.5 * (-IMAGE_MEAN[1] / IMAGE_STD[1])
    proposal.upsample.weight.zero_()
    proposal.upsample.weight[0, CONSTANT] = 20 * (inside + 0.15) / LARGE
    proposal.upsample.weight[0, green] = -20
    proposal.upsample.bias.zero_()
    _paint(reconstruction)
    return GeoLRM(proposal.eval(), reconstruction.eval(), name="handmade", view_size=view_size)


@torch.no_grad()
def _carry_colors(net):
    for parameter in net.parameters():
        parameter.zero_()
        parameter.requires_grad_(False)
    for module in net.modules():
        if type(module).__name__ in ("RMSNorm", "LayerNorm", "BatchNorm2d"):
            module.weight.fill_(1)
    for channel in range(3):
        net.encoder.low_level_encoder[0].weight[channel, channel] = 1 / 16
    transformer = net.transformer
    transformer.query_token[..., CONSTANT - 3] = 1.0
    block = transformer.layers[0]
    # the constant leaves the norm as sqrt(dim), whatever the place
    block.cross_attention_norm.weight[CONSTANT] = LARGE / net.config.dim**0.5
    attend = block.cross_attention
    for channel in range(3):
        attend.deformable_attention.value_proj.weight[channel, channel] = 1
        attend.output_proj.weight[COLOR + channel, channel] = 1
    # the last norm divides by about LARGE / sqrt(dim) again
    transformer.norm.weight.fill_(LARGE / net.config.dim**0.5)


@torch.no_grad()
def _paint(net):
    first, _, last = net.renderer.latent_decoder
    shift = 40.0  # far out SiLU is the identity
    first.bias.fill_(shift)
    for channel in range(3):
        first.weight[11 + channel, COLOR + channel] = 1
        last.weight[11 + channel, 11 + channel] = 2 * IMAGE_STD[channel]
        last.bias[11 + channel] = IMAGE_MEAN[channel] - 0.5 - 2 * IMAGE_STD[channel] * shift
    last.bias[:3] = -30.0  # no offset
    last.bias[3] = 6.0
    last.bias[4:7] = torch.logit(torch.tensor(DEVIATION / SCALE_MAX))
    last.bias[7] = 1.0
