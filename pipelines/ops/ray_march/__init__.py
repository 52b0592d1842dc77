"""Samples along rays through a density that is mostly empty."""
