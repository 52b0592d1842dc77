"""Scenes of Gaussians that the tests of the splat rasterisers share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.splat_raster import dispatch, torch_form
from lathe.pipelines.ops.splat_raster.dispatch import Rendered, render_gaussians, splat_cameras
from lathe.pipelines.ops.splat_raster.projection import ALPHA_MIN, project
from torch import Tensor

SCENES: list[tuple[int, tuple[int, int], int, dict[str, Any]]] = [
    (300, (64, 48), 1, {}),
    (800, (70, 50), 1, {"background": torch.tensor([0.3, 1.0, 0.0])}),
    (2000, (64, 64), 1, {}),
    (200, (33, 47), 3, {"antialiased": True}),
    (200, (40, 40), 2, {"sh_degree": 3, "eps2d": 0.1}),
    (150, (1, 1), 1, {}),
    (300, (129, 7), 2, {"sh_degree": 1}),
]
"""Gaussians, width and height, cameras, options of `render_gaussians`."""
GRADIENT_NAMES = ("means", "quats", "scales", "opacities", "colors", "extra", "means2d", "absgrad")
VALUES, GRADIENTS = 1e-5, 1e-4
"""Bars of an `Oracle`: norms of differences, relative to the truth's."""


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


class Compared(NamedTuple):
    """What a form drew of an `Oracle`'s scene, and how far it is off: norms of differences relative to the truth's, infinite for NaN,
    for another shape and for gradients that are not float32.

    Attributes:
        tensors: pictures, radii and gradients, on the processor.
        values: of each picture, without pixels that rounding may decide either way.
        gradients: of each of `GRADIENT_NAMES`.
        same_in_sight: the same Gaussians have a radius, and no radius is off by more than a pixel.
    """

    tensors: list[Tensor]
    values: dict[str, float]
    gradients: dict[str, float]
    same_in_sight: bool

    def wrong(self) -> list[str]:
        """Names of what is off by more than `VALUES` or `GRADIENTS`, and "radii"."""
        far = [name for name, error in self.values.items() if not error < VALUES]
        far += [name for name, error in self.gradients.items() if not error < GRADIENTS]
        return far if self.same_in_sight else [*far, "radii"]


class Oracle:
    """A scene of `SCENES` as the obvious form draws it in float64 on the processor, to hold another form's float32 against.

    Args:
        extra: (N, E) features instead of the scene's own.
        device: where other forms draw.
    """

    def __init__(
        self, n: int, size: tuple[int, int], views: int, options: dict[str, Any],
        *, extra: Tensor | None = None, device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        self.width, self.height = size
        self.viewmats, self.Ks = splat_cameras(cameras(views), self.height, self.width)
        self.world, self.options, self.device = scene(n, sh_degree=options.get("sh_degree")), options, device
        if extra is not None:
            self.world = self.world._replace(extra=extra)
        double = self.world.to(torch.float64)
        blur = {"antialiased": options.get("antialiased", False), "eps2d": options.get("eps2d", 0.3)}
        self.mask = decided(double, self.viewmats, self.Ks, self.width, self.height, **blur)
        assert float(self.mask.mean()) > 0.98
        with drawn_by(torch_form):
            self.true, self.gradients = self._run(double, "cpu")

    def _run(self, parts: Scene, device: str | torch.device) -> tuple[Rendered, list[Tensor]]:
        parts = Scene(*(part.detach().to(device).requires_grad_() for part in parts))
        options = {name: option.to(device) if isinstance(option, Tensor) else option for name, option in self.options.items()}
        seen_by = (self.viewmats.to(device), self.Ks.to(device))
        return run(parts, *seen_by, self.width, self.height, self.mask.to(device), **options)

    def compare(self, form: Any) -> Compared:
        """Draws with a form in float32."""
        with drawn_by(form):
            made, gradients = self._run(self.world.to(torch.float32), self.device)
        names = ("color", "alpha", "depth", "extra")
        pictures, radii = [getattr(made, name).detach().cpu() for name in names], made.radii.cpu()
        gradients = [gradient.cpu() for gradient in gradients]
        values = {name: _error(a, getattr(self.true, name).detach(), self.mask) for name, a in zip(names, pictures, strict=True)}
        pairs = zip(GRADIENT_NAMES, gradients, self.gradients, strict=True)
        errors = {name: _error(a, b) if a.dtype == torch.float32 else torch.inf for name, a, b in pairs}
        in_sight = torch.equal(radii > 0, self.true.radii > 0) and int((radii - self.true.radii).abs().max()) <= 1
        return Compared([*pictures, radii, *gradients], values, errors, in_sight)

    def check(self, form: Any) -> list[Tensor]:
        """Nothing is wrong with what a form draws; what it drew."""
        made = self.compare(form)
        assert not made.wrong(), f"{made.wrong()}: {made.values}, {made.gradients}"
        return made.tensors


def _error(made: Tensor, true: Tensor, mask: Tensor | float = 1.0) -> float:
    if made.shape != true.shape:
        return torch.inf
    made, true = made.double() * mask, true * mask
    return float(((made - true).norm() / true.norm()).nan_to_num(nan=torch.inf))


@contextmanager
def drawn_by(form: Any) -> Iterator[None]:
    """`render_gaussians` uses this form meanwhile; float64 goes to the PyTorch form in any case."""
    usual, dispatch.backend_for = dispatch.backend_for, lambda _: form
    try:
        yield
    finally:
        dispatch.backend_for = usual
