"""Score distillation: priors that judge renders, and the loop that brings a field, a mesh or splats closer to them."""
