"""Steps of a fit that give no finite numbers."""

from __future__ import annotations

MOST_BAD_STEPS = 20  # in a row


class FitBroken(RuntimeError):
    """Too many steps of a fit in a row gave numbers that are not finite. The fit still holds its last good state."""
