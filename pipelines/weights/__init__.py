"""Where network weights come from: the catalogue, downloads, published formats, the bundled mini models."""
