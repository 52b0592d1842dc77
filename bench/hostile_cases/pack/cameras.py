"""Spoiled LATHE_CAMERAS and LOAD3D_CAMERA. The payload checks itself when it is made, so it is spoiled behind its back."""

import torch

NAN, INF = float("nan"), float("inf")


def with_(cameras, **parts):
    for name, part in parts.items():
        object.__setattr__(cameras, name, part)
    return cameras


def pose(change):
    """Changes (..., 4, 4) matrices."""
    return lambda cameras, draws: with_(cameras, c2w=change(cameras.c2w.clone(), draws))


def lens(change):
    """Changes (..., 4) intrinsics."""
    return lambda cameras, draws: with_(cameras, K=change(cameras.K.clone(), draws))


def put(where, number):
    def change(part, draws):
        part[(..., *where)] = number
        return part

    return change


def times(where, number):
    def change(part, draws):
        part[(..., *where)] = part[(..., *where)] * number
        return part

    return change


def one_nan(part, draws):
    part.view(-1)[int(torch.randint(part.numel(), (1,), generator=draws))] = NAN
    return part


ROTATION, PLACE = (slice(0, 3), slice(0, 3)), (slice(0, 3), 3)


def views(change):
    """Changes which views there are; `change` takes the list of their indices."""

    def spoil(cameras, draws):
        rows = change(list(range(len(cameras.names))))
        names = tuple(cameras.names[i] for i in rows)
        return with_(cameras, c2w=cameras.c2w[..., rows, :, :], K=cameras.K[..., rows, :], names=names)

    return spoil


def of_assets(count):
    def spoil(cameras, draws):
        return with_(cameras, c2w=cameras.c2w.expand(count, -1, -1, -1).clone(), K=cameras.K.expand(count, -1, -1).clone())

    return spoil


CAMERAS = {
    "NaN in a pose": pose(one_nan),
    "NaN in a lens": lens(one_nan),
    "infinitely far": pose(put(PLACE, INF)),
    "scaled axes": pose(times(ROTATION, 2.0)),
    "axes of zero": pose(put(ROTATION, 0.0)),
    "mirrored": pose(times((slice(0, 3), 0), -1.0)),
    "sheared": pose(times((0, 0), 1.5)),
    "last row is not 0 0 0 1": pose(put((3,), 0.5)),
    "focal length 0": lens(put((slice(0, 2),), 0.0)),
    "focal length negative": lens(times((slice(0, 2),), -1.0)),
    "focal length 1e30": lens(put((slice(0, 2),), 1e30)),
    "focal length 1e-30": lens(put((slice(0, 2),), 1e-30)),
    "1e30 away": pose(times(PLACE, 1e30)),
    "far away": pose(times(PLACE, 1e4)),
    "in the object's middle": pose(put(PLACE, 0.0)),
    "looking away": pose(times((slice(0, 3), (0, 2)), -1.0)),
    "all the same": lambda c, d: with_(c, c2w=c.c2w[..., :1, :, :].expand_as(c.c2w).clone()),
    "principal point outside": lens(put((slice(2, 4),), 5.0)),
    "one view too few": views(lambda rows: rows[:-1]),
    "one view too many": views(lambda rows: [*rows, 0]),
    "no views": views(lambda rows: []),
    "for one asset": of_assets(1),
    "for three assets": of_assets(3),
    "for no asset": of_assets(0),
    "too few names": lambda c, d: with_(c, names=c.names[:-1]),
    "names that are numbers": lambda c, d: with_(c, names=tuple(range(len(c.names)))),
    "float64": lambda c, d: with_(c, c2w=c.c2w.double(), K=c.K.double()),
    "whole numbers": lambda c, d: with_(c, c2w=c.c2w.long(), K=c.K.long()),
    "poses of 3 x 4": lambda c, d: with_(c, c2w=c.c2w[..., :3, :]),
    "poses as lists": lambda c, d: with_(c, c2w=c.c2w.tolist(), K=c.K.tolist()),
    "a list of cameras": lambda c, d: [c, c],
}


def entry(name, value):
    return lambda info, draws: {**info, name: value}


LOAD3D = {
    "NaN in the position": entry("position", {"x": NAN, "y": 0.0, "z": 1.0}),
    "position of two numbers": entry("position", {"x": 1.0, "y": 0.0}),
    "position as words": entry("position", {"x": "one", "y": "two", "z": "three"}),
    "position in the target": lambda info, draws: {**info, "position": {"x": 0, "y": 0, "z": 0}, "target": {"x": 0, "y": 0, "z": 0}},
    "position 1e30": entry("position", {"x": 1e30, "y": 0.0, "z": 1.0}),
    "zoom 0": entry("zoom", 0),
    "zoom negative": entry("zoom", -1.0),
    "zoom NaN": entry("zoom", NAN),
    "zoom as a word": entry("zoom", "big"),
    "fov 0": entry("fov", 0),
    "fov 360": entry("fov", 360),
    "quaternion of zeros": entry("quaternion", {"x": 0, "y": 0, "z": 0, "w": 0}),
    "quaternion of NaN": entry("quaternion", {"x": NAN, "y": 0, "z": 0, "w": 1}),
    "orthographic": entry("cameraType", "orthographic"),
    "no keys": lambda info, draws: {},
    "no target": lambda info, draws: {k: v for k, v in info.items() if k != "target"},
    "an empty list": lambda info, draws: [],
    "a list of two": lambda info, draws: [info, info],
    "a list of words": lambda info, draws: ["left", "right"],
}
