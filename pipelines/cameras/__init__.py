"""Where views are taken from: orbits, named presets, joined and selected sets, the 3D viewer's camera, the picture's own elevation."""
