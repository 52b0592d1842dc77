"""OBJ with its material and pictures, written."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..ops.color import linear_to_srgb, srgb_to_linear
from ..ops.mesh_colors import texture_with_vertex_colors
from .glb import png_bytes, unit_normals


def obj_files(mesh: Mesh, stem: str) -> tuple[dict[str, bytes], list[str]]:
    """The mesh as `stem`.obj, and with a texture or material `stem`.mtl and its pictures; and what an OBJ has no place for.

    Vertex colours are written as sRGB behind the positions, or multiplied into the texture. OBJ counts texture rows from the bottom,
    so v is turned here and back in `read_obj`.
    """
    columns = [mesh.vertices.numpy()]
    texture = None if mesh.texture is None else texture_with_vertex_colors(mesh)
    if mesh.vertex_colors is not None and texture is None:
        columns.append(linear_to_srgb(mesh.vertex_colors[:, :3].clamp(0, 1)).numpy())
    lines, files = ["# Lathe"], _material_files(mesh, mesh.texture if texture is None else texture, stem)
    if files:
        lines += [f"mtllib {stem}.mtl", "usemtl surface"]
    lines += _rows("v", np.concatenate(columns, axis=1))
    if mesh.uvs is not None:
        lines += _rows("vt", np.stack([mesh.uvs[:, 0].numpy(), 1 - mesh.uvs[:, 1].numpy()], axis=1))
    lines += _rows("vn", unit_normals(mesh))
    corner = "{0}/{0}/{0}" if mesh.uvs is not None else "{0}//{0}"
    pattern = "f " + " ".join(corner.replace("0", str(i)) for i in range(3))
    lines += [pattern.format(*face) for face in (mesh.faces + 1).tolist()]
    return {**files, f"{stem}.obj": ("\n".join(lines) + "\n").encode()}, _lost(mesh, both=texture is None and mesh.texture is not None)


def _material_files(mesh: Mesh, texture: Tensor | None, stem: str) -> dict[str, bytes]:
    """`stem`.mtl and the pictures it names, with the physically based words that many programs read (Pr, Pm, Ke, norm); nothing for a
    mesh that is plainly matt and has no pictures."""
    material, files = mesh.material, {}
    lines: list[str] = []

    def picture(word: str, name: str, image: Tensor) -> None:
        files[name] = png_bytes(image)
        lines.append(f"{word} {name}")

    if texture is not None:
        picture("map_Kd", f"{stem}.png", texture)
        if texture.shape[2] == 4:
            lines.append(f"map_d {stem}.png")
    if material.metallic_roughness is not None:
        shine = material.metallic_roughness * torch.tensor([1.0, material.roughness, material.metallic])
        picture("map_Pr", f"{stem}_roughness.png", shine[..., 1:2])
        picture("map_Pm", f"{stem}_metallic.png", shine[..., 2:3])
    elif (material.metallic, material.roughness) != (0.0, 1.0):
        lines += [f"Pr {material.roughness:g}", f"Pm {material.metallic:g}"]
    if any(material.emissive_factor):
        # As `obj_looks` reads them: Ke is sRGB, above 1 a strength; beside a picture that holds the colour it is grey.
        light = torch.tensor(material.emissive_factor) * material.emissive_strength
        strength = max(1.0, float(light.max()))
        share = (light / strength).clamp(0, 1)
        shown = linear_to_srgb(share) if material.emissive is None else torch.ones(3)
        lines.append("Ke " + " ".join(f"{value:.7g}" for value in (shown * strength).tolist()))
        if material.emissive is not None:
            picture("map_Ke", f"{stem}_emissive.png", linear_to_srgb(srgb_to_linear(material.emissive) * share))
    if material.normal_map is not None:
        picture("norm", f"{stem}_normal.png", material.normal_map)
    if not lines:
        return {}
    head = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    return {f"{stem}.mtl": ("\n".join(head + lines) + "\n").encode(), **files}


def _lost(mesh: Mesh, both: bool) -> list[str]:
    """`both`: vertex colours stand beside a texture."""
    material = mesh.material
    return [
        what
        for what, there in {
            "vertex colours that multiply a repeating texture (some programs read them)": both,
            "tangents": mesh.tangents is not None,
            "the alpha of vertex colours": mesh.vertex_colors is not None and mesh.vertex_colors.shape[1] == 4,
            "ambient occlusion": material.occlusion_in_red,
            "the scale of the normal map": material.normal_map is not None and material.normal_scale != 1,
            "the cut of alpha": material.alpha_mode == "MASK",
            "double sides": material.double_sided,
            "unlit": material.unlit,
        }.items()
        if there
    ]


def _rows(word: str, values: np.ndarray) -> list[str]:
    pattern = word + " %.9g" * values.shape[1]
    return [pattern % tuple(row) for row in values.tolist()]
