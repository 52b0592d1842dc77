"""How well silhouettes agree on one object."""
