"""Spoiled SPLAT and VOXEL."""

import torch

from .meshes import one, with_

NAN, INF = float("nan"), float("inf")


def part(name, change):
    return lambda splat, draws: with_(splat, **{name: change(getattr(splat, name).clone(), draws)})


def put(number):
    return lambda value, draws: torch.full_like(value, number)


FIELDS = ("positions", "scales", "rotations", "opacities", "sh")


def cut(name):
    return lambda splat, draws: with_(splat, **{name: getattr(splat, name)[:, :-1]})


def of_all(change):
    return lambda splat, draws: with_(splat, **{name: change(getattr(splat, name)) for name in FIELDS})


SPLAT = {
    **{f"NaN in {name}": part(name, one(NAN)) for name in FIELDS},
    **{f"infinity in {name}": part(name, one(INF)) for name in FIELDS},
    **{f"{name} one short": cut(name) for name in FIELDS},
    "scales of 0": part("scales", put(0.0)),
    "scales negative": part("scales", put(-0.05)),
    "scales of 1e30": part("scales", put(1e30)),
    "scales of 1e-30": part("scales", put(1e-30)),
    "scales as logarithms": part("scales", lambda v, d: v.log()),
    "positions of 1e30": part("positions", lambda v, d: v * 1e30),
    "positions all the same": part("positions", lambda v, d: v * 0),
    "quaternions of zeros": part("rotations", put(0.0)),
    "opacities of 50": part("opacities", put(50.0)),
    "opacities as logits": part("opacities", put(-3.0)),
    "opacities of 0": part("opacities", put(0.0)),
    "harmonics of 1e30": part("sh", put(1e30)),
    "harmonics of two terms": part("sh", lambda v, d: v[:, :, :1].repeat(1, 1, 2, 1)),
    "harmonics of 25 terms": part("sh", lambda v, d: v[:, :, :1].repeat(1, 1, 25, 1)),
    "no Gaussians": lambda s, d: with_(of_all(lambda v: v[:, :0])(s, d), counts=None),
    "no assets": lambda s, d: with_(of_all(lambda v: v[:0])(s, d), counts=None),
    "one Gaussian": lambda s, d: with_(of_all(lambda v: v[:, :1])(s, d), counts=None),
    "no batch": lambda s, d: with_(of_all(lambda v: v[0])(s, d), counts=None),
    "all zeros": lambda s, d: with_(of_all(torch.zeros_like)(s, d), counts=None),
    "float64": of_all(lambda v: v.double()),
    "lists of tensors": of_all(list),
    "whole numbers": of_all(lambda v: v.long()),
    "counts too large": lambda s, d: with_(s, counts=torch.tensor([10**7])),
    "counts negative": lambda s, d: with_(s, counts=torch.tensor([-2])),
    "counts of 0": lambda s, d: with_(s, counts=torch.tensor([0])),
    "counts for no asset": lambda s, d: with_(s, counts=torch.zeros(0, dtype=torch.int64)),
    "counts as a list": lambda s, d: with_(s, counts=[int(s.positions.shape[1])]),
    "no positions": lambda s, d: with_(s, positions=None),
}


def data(change):
    return lambda voxel, draws: with_(voxel, data=change(voxel.data, draws))


VOXEL = {
    "NaN in a cell": data(lambda v, d: one(NAN)(v.clone(), d)),
    "infinity in a cell": data(lambda v, d: one(INF)(v.clone(), d)),
    "all 0": data(lambda v, d: v * 0),
    "all 1": data(lambda v, d: v * 0 + 1),
    "negative": data(lambda v, d: v - 5),
    "1e30": data(lambda v, d: v + 1e30),
    "no cells": data(lambda v, d: v[..., :0]),
    "no assets": data(lambda v, d: v[:0]),
    "one cell": data(lambda v, d: v[:, :1, :1, :1] * 0 + 1),
    "not a cube": data(lambda v, d: v[:, : v.shape[1] // 2]),
    "coordinates": data(lambda v, d: torch.zeros(10, 4, dtype=torch.int64)),
    "three assets": data(lambda v, d: v[:1].repeat(3, 1, 1, 1)),
    "bool": data(lambda v, d: v > 0.5),
    "complex": data(lambda v, d: v.to(torch.complex64)),
    "a list": data(lambda v, d: v.tolist()),
    "no data": lambda v, d: with_(v, data=None),
}
