"""GeoLRM: views to occupied voxels, voxels and views to splats, and which self-attention a file expects."""
