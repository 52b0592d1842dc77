"""Payloads that travel between stages: frozen dataclasses that check their own invariants and nothing else."""
