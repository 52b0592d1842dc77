"""An emulated card for tests of the CUDA forms, which then draw with tensors of the CPU."""

import pytest
from cuda_emulator import EmulatedCard, unavailable
from lathe.pipelines.ops.cuda import card as cards


def emulated(monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> EmulatedCard:
    """The card until the test ends; skips the test where nothing is there to build it with."""
    if reason := unavailable():
        pytest.skip(reason)
    card = EmulatedCard(seed)
    monkeypatch.setattr(cards, "card", lambda device: card)
    return card
