"""Spoiled IMAGE (N, H, W, C) and MASK (N, H, W)."""

import torch

NAN, INF = float("nan"), float("inf")


def one_number(number):
    def spoil(value, draws):
        value = value.clone()
        value.view(-1)[int(torch.randint(value.numel(), (1,), generator=draws))] = number
        return value

    return spoil


def resized(height, width):
    """To a size; fractions are shares of what it was."""

    def spoil(value, draws):
        mask = value.ndim == 3
        planes = value[:, None] if mask else value.movedim(-1, 1)
        size = [
            max(1, round(n * share)) if isinstance(share, float) else share
            for n, share in zip(planes.shape[2:], (height, width), strict=True)
        ]
        planes = torch.nn.functional.interpolate(planes, size=size, mode="nearest")
        return planes[:, 0] if mask else planes.movedim(1, -1).contiguous()

    return spoil


def channels(count):
    return lambda value, draws: value[..., :1].expand(*value.shape[:-1], count).contiguous()


def noise(value, draws):
    return torch.rand(value.shape, generator=draws)


COMMON = {
    "NaN in one place": one_number(NAN),
    "infinity in one place": one_number(INF),
    "all NaN": lambda v, d: torch.full_like(v, NAN),
    "all minus infinity": lambda v, d: torch.full_like(v, -INF),
    "no frames": lambda v, d: v[:0],
    "no rows": lambda v, d: v[:, :0],
    "one frame too few": lambda v, d: v[:-1],
    "one frame too many": lambda v, d: torch.cat([v, v[:1]]),
    "float64": lambda v, d: v.double(),
    "float16": lambda v, d: v.half(),
    "complex": lambda v, d: v.to(torch.complex64),
    "not contiguous": lambda v, d: v.transpose(1, 2).contiguous().transpose(1, 2),
    "wants a gradient": lambda v, d: v.clone().requires_grad_(),
    "a list of frames": lambda v, d: list(v),
    "a NumPy array": lambda v, d: v.numpy(),
    "one dimension": lambda v, d: v.reshape(-1),
    "six dimensions": lambda v, d: v.reshape(1, 1, *v.shape),
}
IMAGE = COMMON | {
    "1 x 1 pixels": resized(1, 1),
    "3 x 2 pixels": resized(3, 2),
    "very wide": resized(2, 1024),
    "very tall": resized(1024, 2),
    "odd size": resized(67, 67),
    "not square": resized(1.0, 0.5),
    "1 channel": channels(1),
    "2 channels": channels(2),
    "5 channels": channels(5),
    "alpha": lambda v, d: torch.cat([v[..., :3], torch.ones_like(v[..., :1])], -1),
    "alpha of zeros": lambda v, d: torch.cat([v[..., :3], torch.zeros_like(v[..., :1])], -1),
    "uint8": lambda v, d: (v * 255).to(torch.uint8),
    "uint16": lambda v, d: (v * 65535).to(torch.int32).to(torch.uint16),
    "int64": lambda v, d: (v * 255).to(torch.int64),
    "bool": lambda v, d: v > 0.5,
    "numbers up to 255": lambda v, d: v * 255,
    "numbers from -1 to 1": lambda v, d: v * 2 - 1,
    "a little outside": lambda v, d: v * 1.02 - 0.01,
    "1e30": lambda v, d: v * 1e30,
    "channels first": lambda v, d: v.movedim(-1, 1).contiguous(),
    "one picture without a batch": lambda v, d: v[0],
    "black": lambda v, d: torch.zeros_like(v),
    "white": lambda v, d: torch.ones_like(v),
    "noise": noise,
}
MASK = COMMON | {
    "another size": resized(0.5, 0.5),
    "another aspect": resized(1.0, 0.5),
    "1 x 1 pixels": resized(1, 1),
    "empty": lambda v, d: torch.zeros_like(v),
    "full": lambda v, d: torch.ones_like(v),
    "inverted": lambda v, d: 1 - v,
    "half everywhere": lambda v, d: torch.full_like(v, 0.5),
    "one pixel": lambda v, d: one_number(1.0)(torch.zeros_like(v), d),
    "one frame empty": lambda v, d: torch.cat([torch.zeros_like(v[:1]), v[1:]]),
    "noise": noise,
    "bool": lambda v, d: v > 0.5,
    "uint8": lambda v, d: (v * 255).to(torch.uint8),
    "numbers up to 255": lambda v, d: v * 255,
    "negative": lambda v, d: v - 1,
    "one channel behind": lambda v, d: v[..., None],
    "one channel before": lambda v, d: v[:, None],
    "three channels": lambda v, d: v[..., None].repeat(1, 1, 1, 3),
    "one mask without a batch": lambda v, d: v[0],
}
