"""The child process of `unwrap.unwrap`: reads a mesh, makes uvs with xatlas, writes them. Run as a script, never imported."""

from __future__ import annotations

import sys


def main(given: str, made: str) -> None:
    """Reads vertices, faces, size and padding from `given`; writes rows (source vertex of each new one), faces and uvs to `made`."""
    import numpy as np
    import xatlas

    with np.load(given) as mesh:
        vertices, faces = mesh["vertices"].astype(np.float32), mesh["faces"].astype(np.uint32)
        size, padding = int(mesh["size"]), int(mesh["padding"])
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, padding, True
    atlas.generate(pack_options=packing)
    if atlas.atlas_count > 1:
        raise SystemExit(f"the charts do not fit one texture of {size} pixels")
    rows, new_faces, uvs = atlas[0]
    np.savez(made, rows=rows.astype(np.int64), faces=new_faces.astype(np.int64), uvs=uvs.astype(np.float32))


if __name__ == "__main__":
    # This folder's own modules must not hide others' of the same name.
    del sys.path[0]
    main(*sys.argv[1:])
