"""What all fits share: targets, the perceptual distance, steps that fail, memory that runs out."""
