"""The mini view model's first guess at its views: the picture's relief, seen from the views' cameras."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ..data.cameras import Cameras
from ..ops.relief import solid_points, splat_points
from .mini_relief import ReliefNet
from .mini_views import PatchCodec


class ReliefGuide:
    """Splatted views of the relief, as extra channels for the denoiser: their latents, and how much of each patch they cover.

    Args:
        net: the relief network.  codec: of the view model.  cameras: of its views.  rows, columns: of its grid.
        view_size: side of a view, and of the picture the relief network sees.
    """

    def __init__(self, net: ReliefNet, codec: PatchCodec, cameras: Cameras, view_size: int, rows: int = 3, columns: int = 2) -> None:
        self.net, self.codec, self.cameras, self.view_size = net, codec, cameras, view_size
        self.rows, self.columns = rows, columns
        self.channels = codec.channels + 1

    def modules(self) -> dict[str, nn.Module]:
        """Its networks by name; the codec is the view model's own."""
        return {"relief": self.net, "codec": self.codec}

    def activation_bytes(self) -> dict[str, int]:
        """Of the first level's maps, the widest."""
        return {"relief": 16 * 24 * 4 * self.view_size**2}

    def views(self, image: Tensor, mask: Tensor, *, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        """A picture (3, S, S) on white and its mask (1, S, S) to splatted views (V, 3, S', S') and masks (V, 1, S', S').

        `mirrored` gives the views of the mirror image, which is how training mirrors a sample.
        """
        size = (self.view_size, self.view_size)
        if image.shape[1:] != size:
            image = interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
            mask = interpolate(mask[None], size, mode="bilinear", antialias=True)[0]
        seen = self.net(image[None], mask[None])
        points, colors = solid_points(image, mask, seen.front[0], seen.back[0], seen.back_color[0], float(seen.elevation[0].detach()))
        if mirrored:
            points = points * points.new_tensor([-1.0, 1, 1])
        return splat_points(points, colors, self.cameras.c2w.to(points), self.cameras.K.to(points), self.view_size)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Channels (1, channels, h, w) and the grid picture (1, 3, H, W) for a picture and its mask."""
        return self.of_views(*self.views(image, mask))

    def of_views(self, views: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The same from views (V, 3, S', S') on white and their masks (V, 1, S', S'), wherever they come from."""
        grid = torch.cat([views, masks], dim=1).unflatten(0, (self.rows, self.columns)).permute(2, 0, 3, 1, 4)
        grid = grid.flatten(3, 4).flatten(1, 2)[None]
        covered = avg_pool2d(grid[:, 3:], self.codec.patch)
        return torch.cat([self.codec.encode(grid[:, :3]), covered], dim=1), grid[:, :3]
