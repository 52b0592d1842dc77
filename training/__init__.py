"""Training objectives and loops of the papers, and the recipes that made the bundled mini models."""
