"""Loads the project as the package `lathe` for every test."""

import lathe_root  # noqa: F401
