"""Whether a PLY of Gaussians holds logarithms and logits, as its layout says, or sizes and opacities as they are.

Nothing in such a file says so, but the numbers do. Logarithms of standard deviations are below 0 wherever a Gaussian is smaller than the
unit, and trained logits run from about -5 to 10, about a tenth of them within [0, 1]. Neither alone decides; both together do.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)

FEW = 100  # below so many Gaussians every one must agree, from there on all but one in a hundred
MANY = 1000  # from so many on opacities within [0, 1] are no chance
ROUNDING = 1e-3
LARGE = 0.5  # standard deviation of a Gaussian, of that of all centres
GEOLRM_REACH = 1.0  # GeoLRM's Gaussians lie about the cube [-0.5, 0.5]^3

Units = Literal["logarithms", "as they are", "geolrm"]


def tell_units(positions: Tensor, scales: Tensor, opacities: Tensor, color: Tensor, plain: bool, name: str) -> Units:
    """What the numbers of a file are; a warning says what is guessed against the layout, and what does not fit together.

    Args:
        positions: (N, 3).  scales: (N, 2 or 3), as they stand.  opacities: (N,), as they stand.
        color: (N, 3) of f_dc_*.  plain: whether there are no further spherical harmonics.  name: of the file.

    Returns:
        "geolrm" is as they are, with colours that are RGB and GeoLRM's own axes.
    """
    known = ~(torch.isnan(scales).any(1) | torch.isnan(opacities) | torch.isnan(color).any(1) | torch.isnan(positions).any(1))
    positions, scales, opacities, color = positions[known], scales[known], opacities[known], color[known]
    if not len(scales):
        return "logarithms"
    sizes = _holds((scales >= 0).all(1) & (scales > 0).any(1))
    shares = _holds(_is_share(opacities))
    if sizes and shares:
        if plain and _holds(_is_share(color).all(1)) and _holds(positions.abs().amax(1) <= GEOLRM_REACH):
            log.warning(
                "Lathe: %s looks like a PLY of GeoLRM (scales, opacities and colours as they are): it is turned from GeoLRM's own frame "
                "and doubled in size.", name,
            )  # fmt: skip
            return "geolrm"
        log.warning(
            "Lathe: in %s no scale is below 0 and every opacity lies between 0 and 1, so they look linear, not logarithms and logits: they "
            "are taken as they stand.", name,
        )  # fmt: skip
        return "as they are"
    if sizes and len(scales) > 1:
        spread = positions[:: max(1, len(positions) // MANY)].std(0).amax()
        if bool(scales.amax(1).median() > (LARGE * spread).log()):
            log.warning(
                "Lathe: in %s no scale is below 0, as if they were linear, but the opacities are logits. They are read as logarithms, "
                "which makes most Gaussians about as large as the whole scene: if they are linear, save their logarithms.", name,
            )  # fmt: skip
    elif shares and len(opacities) >= MANY and float(opacities.max() - opacities.min()) > ROUNDING:
        log.warning(
            "Lathe: in %s every opacity lies between 0 and 1, as if they were linear, but the scales are logarithms. They are read as "
            "logits, which makes all Gaussians half transparent: if they are linear, save their logits.", name,
        )  # fmt: skip
    return "logarithms"


def _is_share(values: Tensor) -> Tensor:
    return (values >= -ROUNDING) & (values <= 1 + ROUNDING)


def _holds(agree: Tensor) -> bool:
    return bool(agree.all()) if len(agree) < FEW else float(agree.float().mean()) >= 0.99
