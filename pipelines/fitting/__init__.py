"""What the fits of splats and meshes and the distillation share: targets, perceptual distance, steps that fail, memory that runs out."""
