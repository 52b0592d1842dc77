"""What to carry to a machine with a GPU and without a network."""

from __future__ import annotations

import importlib.util

from .. import common

CARRY = (
    ("trimesh-5.2.0-py3-none-any.whl", 0.75, "trimesh", "reads the bench object of the fits"),
    ("gsplat-1.5.3-py3-none-any.whl", 6.5, "gsplat", "for --gsplat: built there by nvcc, for the times beside it"),
)
"""File, MB, its module, what for."""
INSTALLED = (
    ("torch", "with CUDA; nothing is checked without it"),
    ("numpy", ""),
    ("scipy", "for the fits"),
    ("PIL", "for the fits"),
    ("networkx", "for the fits"),
    ("numba", "for the times beside it; with llvmlite about 60 MB, too much to carry"),
    ("jaxtyping", "for gsplat"),
    ("rich", "for gsplat"),
    ("ninja", "for gsplat"),
)
"""Modules that the machine itself must have, and what for."""


def show() -> None:
    """Prints what to carry, what must be there, and what of it is on this machine."""
    rows = [(file, f"{size:g} MB", _here(module), purpose) for file, size, module, purpose in CARRY]
    rows += [(name, "-", _here(name), purpose) for name, purpose in INSTALLED]
    rows += [("nvcc, compute-sanitizer, ncu", "-", "", "programs of the CUDA toolkit; what needs them is left out without")]
    common.print_table(("what", "to carry", "here", "for"), rows)
    print(f"\nTo carry beside the repository: {sum(size for _, size, _, _ in CARRY):.2f} MB.")


def _here(module: str) -> str:
    return "yes" if importlib.util.find_spec(module) else "no"
