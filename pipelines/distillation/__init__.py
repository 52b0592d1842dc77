"""Score distillation: priors that judge renders, and the loop that makes a field, a mesh or splats likelier to them."""
