"""The renderers: meshes, fields and splats to images, masks, depth and normals at given cameras."""
