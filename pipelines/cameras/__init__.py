"""Where views are taken from: orbits, presets, the 3D viewer's camera, the picture's elevation."""
