"""The checks of `bench/gpu_checks.py`, and what runs them."""
