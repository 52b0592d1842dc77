"""Whether a form draws splats, and their gradients, as the PyTorch form does: the proof that `choose_backend` asks for."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..choose_backend import Disproved, must_be_close, must_be_equal
from . import torch_form

WIDTH, HEIGHT = 50, 37
CROWD = 270  # of them in one tile: more than the 256 Gaussians that a block of GPU threads loads at once
OTHERS = 30
WALL = 8  # opaque ones that together leave no light in the crowded tile
HIDDEN = 40  # behind the wall: in each picture more than the 16 whose rows of gradients a block of GPU threads zeroes at once
OPAQUE = (1.0, 0.9995, 0.9999, 1.0, 0.9992, 1.0)
RADII_MAY_DIFFER = 0.01  # share of the Gaussians of which rounding may decide whether they are seen

GRADIENTS = ("means", "quats", "scales", "opacities", "features", "means2d", "absgrad")


class Scene(NamedTuple):
    """N Gaussians and their features (C or 1, N, F), as `torch_form.draw` takes them."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    features: Tensor


class Drawn(NamedTuple):
    """What a form made of a scene: pictures, centres, what is seen, and the gradients of `GRADIENTS`."""

    picture: Tensor
    means2d: Tensor
    seen: Tensor
    gradients: list[Tensor]


def scene(alpha_max: float, crowd: int, each_camera: bool) -> Scene:
    """A crowd of faint small Gaussians in one tile before 30 of all kinds: opaque ones whose alpha is clamped, one that covers both
    pictures, one beside the pictures and one behind the cameras. Far behind is a wall that no light of the crowded tile passes, with
    small ones that it hides. Three colours and two further channels.

    Args:
        alpha_max: the form's alpha clamp. Where it is lower than the oracle's no alpha of the scene reaches it, for there the two differ.
        crowd: how many Gaussians crowd in the tile.
        each_camera: features of each camera's own.
    """
    draws = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float32)

    faint, others = normal(crowd, 3) * torch.tensor([0.12, 0.12, 0.2]), normal(OTHERS, 3) * torch.tensor([0.9, 0.7, 0.6])
    others[:, 2] -= 0.8
    others[0] = torch.tensor([0.1, -0.2, -1.5])
    others[1], others[2] = torch.tensor([0.0, 0.1, 9.0]), torch.tensor([4.0, 0.0, 0.0])
    scales = torch.cat([0.05 * torch.exp(0.4 * normal(crowd, 3)), 0.15 * torch.exp(0.6 * normal(OTHERS, 3))])
    opacities = torch.cat([0.008 + 0.03 * torch.rand(crowd, generator=draws), 0.1 + 0.8 * torch.rand(OTHERS, generator=draws)])
    scales[crowd] = torch.tensor([3.0, 2.5, 0.5])
    opaque = slice(crowd + 3, crowd + 3 + len(OPAQUE))
    scales[opaque], opacities[opaque] = 1.4, torch.tensor(OPAQUE)
    others[3 : 3 + len(OPAQUE), 2] -= 0.5
    wall = torch.tensor([0.0, 0.0, -1.6]) + 0.02 * normal(WALL, 3)
    hidden = torch.tensor([0.0, 0.0, -2.9]) + normal(HIDDEN, 3) * torch.tensor([0.4, 0.4, 0.2])
    means = torch.cat([faint, others, wall, hidden])
    scales = torch.cat([scales, 2.2 * torch.exp(0.1 * normal(WALL, 3)), 0.1 * torch.exp(0.4 * normal(HIDDEN, 3))])
    opacities = torch.cat([opacities, torch.linspace(0.97, 1.0, WALL), 0.1 + 0.8 * torch.rand(HIDDEN, generator=draws)])
    if alpha_max < torch_form.ALPHA_MAX:
        opacities = opacities.clamp(max=alpha_max - 0.005)
    features = torch.rand(2 if each_camera else 1, len(means), 5, generator=draws)
    return Scene(means, 2 * normal(len(means), 4), scales, opacities, features)


def cameras() -> tuple[Tensor, Tensor]:
    """Two cameras at a distance of 4, turned by -20 and 30 degrees, with other focal lengths along x and y and centres of their own."""
    angles = torch.deg2rad(torch.tensor([-20.0, 30.0]))
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[:, 0, 0], viewmats[:, 0, 2] = angles.cos(), angles.sin()
    viewmats[:, 2, 0], viewmats[:, 2, 2] = angles.sin(), -angles.cos()
    viewmats[:, 1, 1] = -1
    viewmats[:, :3, 3] = torch.tensor([[0.03, -0.05, 4.0], [-0.02, 0.04, 4.2]])
    Ks = torch.tensor([[[52.0, 0, 23.4], [0, 47.0, 24.1], [0, 0, 1]], [[49.0, 0, 24.7], [0, 55.0, 23.2], [0, 0, 1]]])
    return viewmats, Ks


def poison_free_memory(device: torch.device) -> None:
    """Leaves NaN in memory that PyTorch hands out next, in blocks of all sizes up to some MB.

    New memory is often zero and that of the draw before holds the right numbers: a form that leaves a part of its sums unwritten would
    pass. As integers these bytes are indices far outside of everything.
    """
    sizes = [1 << 21] + [1 << power for power in range(18, 6, -1) for _ in range(8)]  # largest first, or it would not fit where it fitted
    blocks = [torch.full((size,), torch.nan, device=device) for size in sizes]
    del blocks  # all together: if one were freed before the next is made, the next would lie in the same place


def draw(form: Any, parts: Scene, antialiased: bool, device: torch.device, dtype: torch.dtype = torch.float32) -> Drawn:
    """The pictures of a scene by a form, and the gradients of a sum of all their numbers, weighted at random."""
    poison_free_memory(device)
    leaves = [part.to(device, dtype).requires_grad_() for part in parts]
    viewmats, Ks = (part.to(device, dtype) for part in cameras())
    options = {"near": 0.01, "far": 1e10, "eps2d": 0.3, "antialiased": antialiased, "absgrad": True}
    blended, depth, alpha, means2d, radii = form.draw(*leaves, viewmats, Ks, WIDTH, HEIGHT, **options)
    picture = torch.cat([blended, depth, alpha], dim=-1)
    weights = torch.randn(picture.shape, generator=torch.Generator().manual_seed(12), dtype=torch.float32)
    gradients = torch.autograd.grad((picture * weights.to(picture)).sum(), [*leaves, means2d])
    seen = (radii > 0).all(-1)
    return Drawn(picture.detach().cpu(), means2d.detach().cpu(), seen.cpu(), [part.cpu() for part in (*gradients, means2d.absgrad)])


def prove(form: ModuleType, device: torch.device) -> None:
    """Draws two scenes twice: a crowded one with features of each camera's own, and one with shared features and antialiasing.

    Raises:
        Disproved: values or a gradient are off by more than 1e-3 of their norm, or the second run has other bits than the first (not
            asked of forms that declare `ATOMICS`).
    """
    alpha_max = getattr(form, "ALPHA_MAX", torch_form.ALPHA_MAX)
    for antialiased, crowd in ((False, CROWD), (True, 30)):
        parts = scene(alpha_max, crowd, each_camera=not antialiased)
        true = draw(torch_form, parts, antialiased, torch.device("cpu"))
        made = draw(form, parts, antialiased, device)
        for name, channels in (("colours", slice(0, 3)), ("further channels", slice(3, 5)), ("depth", slice(5, 6)), ("alpha", slice(6, 7))):
            must_be_close(name, made.picture[..., channels], true.picture[..., channels])
        if made.seen.shape != true.seen.shape or float((made.seen != true.seen).double().mean()) > RADII_MAY_DIFFER:
            raise Disproved("radii: other Gaussians are seen")
        both = (made.seen & true.seen)[..., None]
        must_be_close("centres", made.means2d * both, true.means2d * both)
        for name, gradient, expected in zip(GRADIENTS, made.gradients, true.gradients, strict=True):
            must_be_close(f"gradient of {name}", gradient, expected)
        if not getattr(form, "ATOMICS", False):
            again = draw(form, parts, antialiased, device)
            must_be_equal("a second picture", again.picture, made.picture)
            for name, gradient, first in zip(GRADIENTS, again.gradients, made.gradients, strict=True):
                must_be_equal(f"a second gradient of {name}", gradient, first)
