"""3D Gaussians drawn as pictures, differentiably."""
