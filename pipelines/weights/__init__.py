"""Where network weights come from: the catalogue, safe file readers, downloads, adapters, the bundled mini models."""
