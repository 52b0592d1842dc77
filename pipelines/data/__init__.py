"""Payloads that travel between stages, checked when they are made; presets as data files."""
