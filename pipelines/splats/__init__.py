"""Splats: fitted to views, refined with diffusion, read as a field, made into a mesh."""
