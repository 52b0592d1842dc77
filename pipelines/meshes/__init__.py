"""Meshes: extracted from fields, cleaned, simplified, unwrapped, textured and fitted to views."""
