"""OBJ with its material and texture, written."""

from __future__ import annotations

import numpy as np

from ..data.mesh import Mesh
from ..ops.color import linear_to_srgb
from .glb import png_bytes, unit_normals


def obj_files(mesh: Mesh, stem: str) -> dict[str, bytes]:
    """The mesh as `stem`.obj, and with a texture `stem`.mtl and `stem`.png; vertex colours are written as sRGB behind the positions.

    OBJ counts texture rows from the bottom, so v is turned here and back in `read_mesh`.
    """
    columns = [mesh.vertices.numpy()]
    if mesh.vertex_colors is not None and mesh.texture is None:
        columns.append(linear_to_srgb(mesh.vertex_colors.clamp(0, 1)).numpy())
    lines = ["# Lathe"]
    files: dict[str, bytes] = {}
    if mesh.texture is not None:
        lines += [f"mtllib {stem}.mtl", "usemtl surface"]
        material = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1", f"map_Kd {stem}.png"]
        files[f"{stem}.mtl"] = ("\n".join(material) + "\n").encode()
        files[f"{stem}.png"] = png_bytes(mesh.texture)
    lines += _rows("v", np.concatenate(columns, axis=1))
    if mesh.uvs is not None:
        lines += _rows("vt", np.stack([mesh.uvs[:, 0].numpy(), 1 - mesh.uvs[:, 1].numpy()], axis=1))
    lines += _rows("vn", unit_normals(mesh))
    corner = "{0}/{0}/{0}" if mesh.uvs is not None else "{0}//{0}"
    pattern = "f " + " ".join(corner.replace("0", str(i)) for i in range(3))
    lines += [pattern.format(*face) for face in (mesh.faces + 1).tolist()]
    return {**files, f"{stem}.obj": ("\n".join(lines) + "\n").encode()}


def _rows(word: str, values: np.ndarray) -> list[str]:
    pattern = word + " %.9g" * values.shape[1]
    return [pattern % tuple(row) for row in values.tolist()]
