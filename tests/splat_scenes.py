"""Scenes of Gaussians that the tests of the splat rasterisers share."""

from typing import Any, NamedTuple

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.splat_raster.dispatch import Rendered, render_gaussians
from lathe.pipelines.ops.splat_raster.projection import ALPHA_MIN, project
from torch import Tensor

GRADIENT_NAMES = ("means", "quats", "scales", "opacities", "colors", "extra", "means2d", "absgrad")


class Scene(NamedTuple):
    """What `render_gaussians` draws, float64."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    extra: Tensor

    def to(self, dtype: torch.dtype) -> "Scene":
        """Leaves of their own, float32 values in any dtype."""
        return Scene(*(part.float().to(dtype).clone().requires_grad_() for part in self))


def scene(n: int, seed: int = 0, sh_degree: int | None = None, size: float = 0.08) -> Scene:
    """Gaussians of all shapes and opacities in a ball of radius 1."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    means = torch.nn.functional.normalize(normal(n, 3), dim=-1) * torch.rand(n, 1, generator=draws, dtype=torch.float64) ** (1 / 3)
    colors = normal(n, 3).sigmoid() if sh_degree is None else 0.3 * normal(n, (sh_degree + 1) ** 2, 3)
    return Scene(means, 2 * normal(n, 4), size * torch.exp(0.7 * normal(n, 3)), (1.5 * normal(n)).sigmoid(), colors, normal(n, 2))


def cameras(views: int = 1, fov: float = 30.0, center: tuple[float, float] = (0.5, 0.5)) -> Cameras:
    azimuths, elevations = 20.0 + 110 * torch.arange(views), 10.0 + 25 * torch.arange(views)
    K = camera_math.intrinsics(fov, views)
    K[:, 2:] = torch.tensor(center)
    return Cameras(camera_math.orbit(azimuths, elevations, 4.0), K, tuple(map(str, range(views))))


def decided(
    parts: Scene, viewmats: Tensor, Ks: Tensor, width: int, height: int, *, antialiased: bool = False, eps2d: float = 0.3
) -> Tensor:
    """(C, H, W, 1) 1 where no rounding can change what is drawn: no alpha within 1e-5 of 1/255, no remaining light near its limit."""
    with torch.no_grad():
        seen = project(
            *(part.double() for part in parts[:4]), viewmats.double(), Ks.double(), width, height,
            near=0.01, far=1e10, eps2d=eps2d, antialiased=antialiased,
        )  # fmt: skip
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        made = []
        for c in range(len(viewmats)):
            order = torch.argsort(seen.depths[c])
            order = order[seen.radii[c, order, 0] > 0]
            dx, dy = x[..., None] - seen.means2d[c, order, 0], y[..., None] - seen.means2d[c, order, 1]
            conic = seen.conics[c, order].unbind(-1)
            alpha = seen.opacities[c, order] * torch.exp(-0.5 * (conic[0] * dx * dx + conic[2] * dy * dy) - conic[1] * dx * dy)
            alpha = alpha.clamp(max=0.999)
            left = torch.cumprod(1 - torch.where(alpha >= ALPHA_MIN, alpha, 0.0), dim=-1)
            close = ((alpha / ALPHA_MIN - 1).abs() < 1e-5) | ((left / 1e-4 - 1).abs() < 1e-4)
            made.append(~close.any(-1))
    return torch.stack(made)[..., None].double()


def run(parts: Scene, viewmats: Tensor, Ks: Tensor, width: int, height: int, mask: Tensor, **options: Any) -> tuple[Rendered, list[Tensor]]:
    """The pictures, and the gradients of `GRADIENT_NAMES` of a loss on all of them."""
    made = render_gaussians(*parts[:5], viewmats, Ks, width, height, extra=parts.extra, absgrad=True, **options)
    made.means2d.retain_grad()
    assert made.extra is not None
    channels = torch.cat([made.color, made.alpha, made.depth, made.extra], dim=-1)
    target = torch.rand(channels.shape, generator=torch.Generator().manual_seed(2)).to(channels)
    ((channels - target) ** 2 * mask.to(channels)).sum().backward()
    return made, [part.grad for part in parts] + [made.means2d.grad, made.means2d.absgrad]  # type: ignore[attr-defined, misc]
