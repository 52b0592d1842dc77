"""One place that spoils: a socket's type and a name of the table to the function that does it."""

import copy

from . import cameras, meshes, others, pictures, splats

SPOILERS = {
    "IMAGE": pictures.IMAGE,
    "MASK": pictures.MASK,
    "LATHE_CAMERAS": cameras.CAMERAS,
    "LOAD3D_CAMERA": cameras.LOAD3D,
    "MESH": meshes.MESH,
    "SPLAT": splats.SPLAT,
    "VOXEL": splats.VOXEL,
    "LATHE_FIELD": others.FIELD,
    "LATHE_DISTILLATION": others.RUN,
    "CONDITIONING": others.CONDITIONING,
}


def spoiled(value, socket, how, draws):
    """`value` of a socket, spoiled; another object where anything in it changes.

    Raises:
        KeyError: a name that neither the socket nor `others.ANY_SOCKET` has.
    """
    if how in others.ANY_SOCKET:
        return others.ANY_SOCKET[how]()
    return SPOILERS[socket][how](_own(value), draws)


def _own(value):
    try:
        return copy.deepcopy(value)
    except Exception:  # what holds a network or a handle is not spoiled in place by any spoiler
        return copy.copy(value)
