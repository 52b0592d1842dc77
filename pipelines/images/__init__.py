"""Pictures before and beside the 3D stages: foreground, background, depth estimates, sheets of views."""
