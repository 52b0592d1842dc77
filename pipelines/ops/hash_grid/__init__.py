"""Multiresolution hash encoding of points."""
