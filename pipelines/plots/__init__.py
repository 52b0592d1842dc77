"""Plots that nodes show: losses, elevation, occupancy."""
