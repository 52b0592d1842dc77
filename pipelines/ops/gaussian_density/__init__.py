"""The sum of Gaussians at points of space."""
