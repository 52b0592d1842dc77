"""Views imagined by a diffusion model: the networks and their sampling."""
