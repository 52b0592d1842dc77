"""The field that a distillation optimises: hash encoding, perceptron, density and colour (Magic123, arXiv 2306.17843, section 2.1.1)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.field import FlexiGrid
from ..data.progress import Tick, no_tick
from ..ops.hash_grid.dispatch import HashGrid

FORMAT, VERSION = "lathe.distilled_field", 1
MOST_EXPONENT = 15.0  # of the density's exponential: its gradient goes on from there as if it were linear
NORMAL_STEP = 0.01  # world units; of the central differences, as coded


@dataclass(frozen=True)
class FieldShape:
    """The network of the coarse stage: a hash grid (Müller et al. 2022) and a small perceptron.

    Attributes:
        levels, features, log2_size, base, finest: of the hash grid over [-1, 1]^3.
        hidden, layers: width and number of hidden layers.
        activation: of density. bias: added before it, so that training starts from a soft ball: "gaussian" bias_strength *
            exp(-|x|^2 / (2 bias_radius^2)) (Magic123 as coded), "cone" bias_strength * (1 - |x| / bias_radius) (Magic3D).
        first_levels: levels in use until `all_levels_after` of the steps; 0 is all.
        bound: half the side of the cube that the field fills.
        surface: density at the surface that meshes are made at.
    """

    levels: int = 16
    features: int = 2
    log2_size: int = 19
    base: int = 16
    finest: int = 2048
    hidden: int = 64
    layers: int = 2
    activation: Literal["exp", "softplus"] = "exp"
    bias: Literal["gaussian", "cone"] = "gaussian"
    bias_strength: float = 10.0
    bias_radius: float = 0.2
    first_levels: int = 0
    all_levels_after: float = 0.0
    bound: float = 1.0
    surface: float = 10.0

    def __post_init__(self) -> None:
        ranges = (
            ("levels", 1, 32), ("features", 1, 8), ("log2_size", 3, 24), ("base", 1, 1 << 16), ("finest", 1, 1 << 16), ("hidden", 1, 1024),
            ("layers", 0, 8), ("first_levels", 0, 32),
        )  # fmt: skip
        for name, least, most in ranges:
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"A distilled field's {name} is a whole number from {least} to {most}, not {value!r}.")
        for name in ("bias_strength", "bias_radius", "bound", "surface"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise ValueError(f"A distilled field's {name} is a number above 0, not {value!r}.")
        if self.activation not in ("exp", "softplus") or self.bias not in ("gaussian", "cone"):
            raise ValueError(f"A distilled field has no activation {self.activation!r} with the bias {self.bias!r}.")


class _TruncatedExp(torch.autograd.Function):
    """exp with a gradient that does not overflow."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        context.save_for_backward(x)
        return x.clamp(max=MOST_EXPONENT).exp()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = context.saved_tensors
        return gradient * x.clamp(max=MOST_EXPONENT).exp()


class DistilNet(nn.Module):
    """World points to density and colour.

    Args:
        shape: sizes, activation and bias of the density.
        seed: of the first weights.

    Attributes:
        levels: of the hash grid that are in use; None is all.
    """

    def __init__(self, shape: FieldShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.levels: int | None = None
        self.grid = HashGrid(shape.levels, shape.features, shape.log2_size, shape.base, shape.finest, seed=seed)
        widths = [shape.levels * shape.features, *[shape.hidden] * shape.layers, 4]
        layers = [nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.layers = nn.ModuleList(layers)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in layers:
                bound = (3.0 / layer.in_features) ** 0.5
                layer.weight.copy_((torch.rand(layer.weight.shape, generator=draws) * 2 - 1) * bound)
                layer.bias.zero_()

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3) world points -> density (N,) and sRGB colour (N, 3) in [0, 1]."""
        raw = self._raw(points)
        return self._density(raw, points), torch.sigmoid(raw[:, 1:])

    def density(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> density (N,)."""
        return self._density(self._raw(points), points)

    def normals(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> unit vectors (N, 3) down the density, by central differences; differentiable, six evaluations a point."""
        step = NORMAL_STEP * torch.eye(3, device=points.device, dtype=points.dtype)
        places = torch.cat([points[:, None] + step, points[:, None] - step], dim=1)
        values = self.density(places.reshape(-1, 3)).view(-1, 2, 3)
        return F.normalize(values[:, 1] - values[:, 0], dim=-1, eps=1e-8)

    def _raw(self, points: Tensor) -> Tensor:
        x = self.grid((points / self.shape.bound).clamp(-1, 1), self.levels)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

    def _density(self, raw: Tensor, points: Tensor) -> Tensor:
        shape = self.shape
        distance = points.detach().norm(dim=-1)
        if shape.bias == "gaussian":
            ball = torch.exp(-distance.square() / (2 * shape.bias_radius**2))
        else:
            ball = 1 - distance / shape.bias_radius
        height = raw[:, 0] + shape.bias_strength * ball
        return _TruncatedExp.apply(height) if shape.activation == "exp" else F.softplus(height)


@dataclass(eq=False)
class DistilledField:
    """A finished network as a density with colours; implements `data.field.Field`.

    Attributes:
        net: on the device where points are expected.
        level: density at the surface.
        bound: half the side of the cube; the density is 0 outside.
    """

    net: DistilNet
    level: float
    bound: float
    kind: Literal["sdf", "density"] = "density"

    def geometry(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N,) density."""
        density = self.net.density(points)
        return torch.where((points.abs() < self.bound).all(1), density, torch.zeros_like(density))

    def color(self, points: Tensor) -> Tensor:
        """(N, 3) world points -> (N, 3) sRGB in [0, 1]."""
        return self.net(points)[1]

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        """None: a density says nothing of FlexiCubes' parameters."""
        return None

    def to(self, device: torch.device | str) -> DistilledField:
        """The same field for points on `device`."""
        return DistilledField(copy_of(self.net, device), self.level, self.bound)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and settings for `formats.fields.save_field`."""
        settings = {"format": FORMAT, "version": VERSION, "level": self.level, "bound": self.bound, "levels_used": self.net.levels}
        return dict(self.net.state_dict()), settings | {"shape": dataclasses.asdict(self.net.shape)}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> DistilledField:
        """What `state` gave.

        Raises:
            ValueError: parts are missing or do not fit.
        """
        if settings.get("version") != VERSION:
            raise ValueError(f"This distilled field has version {settings.get('version')!r}; this Lathe reads version {VERSION}.")
        try:
            shape = FieldShape(**settings["shape"])
            with torch.device("meta"):  # the shape is held against the tensors before it takes any memory
                expected = {name: tensor.shape for name, tensor in DistilNet(shape).state_dict().items()}
            if expected != {name: tensor.shape for name, tensor in tensors.items()}:
                raise ValueError("The file holds no whole distilled field: its tensors are not of the shape that it says.")
            net = DistilNet(shape)
            net.load_state_dict(tensors)
            net.levels, level, bound = settings["levels_used"], float(settings["level"]), float(settings["bound"])
            used = net.levels is None or (type(net.levels) is int and 0 <= net.levels <= shape.levels)
            if not used or not 0 < level < float("inf") or not 0 < bound < float("inf"):
                raise ValueError(f"The distilled field's {net.levels!r} levels, surface {level} or bound {bound} cannot be.")
            return cls(net.requires_grad_(False), level, bound)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"The file holds no whole distilled field: {error}.") from error


def copy_of(net: DistilNet, device: torch.device | str) -> DistilNet:
    """A network of its own with the same weights, which no optimiser moves."""
    other = DistilNet(net.shape)
    other.load_state_dict({name: tensor.detach().cpu() for name, tensor in net.state_dict().items()})
    other.levels = net.levels
    return other.to(device).requires_grad_(False)
