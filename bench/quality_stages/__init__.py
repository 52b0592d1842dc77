"""The stages of the quality benchmark, a module each; `report` holds what they share."""
