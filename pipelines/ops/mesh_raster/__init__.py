"""Differentiable rasterisation of triangle meshes."""
