"""What a node calls: stages as plain functions and classes. Runs without ComfyUI."""
