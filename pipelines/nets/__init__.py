"""Network architectures whose state dicts match the published checkpoints."""
