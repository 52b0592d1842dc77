"""Spoiled MESH: core's class, with what newer cores add to it as attributes."""

import torch

NAN, INF = float("nan"), float("inf")


def with_(mesh, **parts):
    for name, part in parts.items():
        setattr(mesh, name, part)
    return mesh


def vertices(change):
    return lambda mesh, draws: with_(mesh, vertices=change(mesh.vertices.clone(), draws))


def faces(change):
    return lambda mesh, draws: with_(mesh, faces=change(mesh.faces.clone(), draws))


def one(number):
    """One number somewhere, not in the padding."""

    def change(part, draws):
        part.view(-1)[int(torch.randint(part.numel() // 4, (1,), generator=draws))] = number
        return part

    return change


def extra(name, make):
    """`make(mesh, draws)` as an attribute of this name."""
    return lambda mesh, draws: with_(mesh, **{name: make(mesh, draws)})


def like_vertices(channels, number=None, rows=0):
    """(B, V + rows, channels), random in [0, 1], with `number` in one place."""

    def make(mesh, draws):
        batch, count = mesh.vertices.shape[:2]
        part = torch.rand(batch, count + rows, channels, generator=draws)
        return part if number is None else one(number)(part, draws)

    return make


def picture(*shape, number=None):
    """(B, *shape), random, all of it `number` in one place."""

    def make(mesh, draws):
        part = torch.rand(len(mesh.vertices), *shape, generator=draws)
        return part if number is None else one(number)(part, draws)

    return make


def textured(name, make):
    """With uvs, a texture and then this attribute."""

    def spoil(mesh, draws):
        mesh = with_(mesh, uvs=like_vertices(2)(mesh, draws), texture=picture(8, 8, 3)(mesh, draws))
        return with_(mesh, **{name: make(mesh, draws)})

    return spoil


def counts(vertex_counts, face_counts):
    return lambda mesh, draws: with_(mesh, vertex_counts=vertex_counts, face_counts=face_counts)


MAPS = ("metallic_roughness", "normal_map", "emissive")
MESH = {
    "no faces": lambda m, d: with_(m, faces=m.faces[:, :0], face_counts=torch.zeros(len(m.faces), dtype=torch.int64)),
    "no vertices": lambda m, d: with_(m, vertices=m.vertices[:, :0], vertex_counts=None, face_counts=None),
    "no meshes": lambda m, d: with_(m, vertices=m.vertices[:0], faces=m.faces[:0], vertex_counts=None, face_counts=None),
    "one face": lambda m, d: with_(m, faces=m.faces[:, :1], face_counts=torch.ones(len(m.faces), dtype=torch.int64)),
    "all in one point": vertices(lambda v, d: v * 0),
    "all in one plane": vertices(lambda v, d: v * torch.tensor([1.0, 1.0, 0.0])),
    "faces of one vertex": faces(lambda f, d: f * 0),
    "NaN in a vertex": vertices(one(NAN)),
    "infinity in a vertex": vertices(one(INF)),
    "1e30 wide": vertices(lambda v, d: v * 1e30),
    "1e18 wide": vertices(lambda v, d: v * 1e18),
    "1e-30 wide": vertices(lambda v, d: v * 1e-30),
    "far from the origin": vertices(lambda v, d: v + 1e6),
    "an index too large": faces(one(10**6)),
    "an index of 2^62": faces(one(2**62)),
    "a negative index": faces(one(-1)),
    "faces of float": faces(lambda f, d: f.float()),
    "faces of halves": faces(lambda f, d: f + 0.5),
    "faces of NaN": faces(lambda f, d: f.float() * NAN),
    "faces of int32": faces(lambda f, d: f.int()),
    "faces of uint8": lambda m, d: with_(m, faces=(m.faces % 4).to(torch.uint8)),
    "faces of four corners": faces(lambda f, d: torch.cat([f, f[..., :1]], -1)),
    "vertices of two numbers": vertices(lambda v, d: v[..., :2]),
    "vertices of float64": vertices(lambda v, d: v.double()),
    "vertices of int64": vertices(lambda v, d: (v * 10).long()),
    "vertices of complex": vertices(lambda v, d: v.to(torch.complex64)),
    "lists of tensors": lambda m, d: with_(m, vertices=list(m.vertices), faces=list(m.faces)),
    "lists of lists": lambda m, d: with_(m, vertices=m.vertices.tolist(), faces=m.faces.tolist()),
    "no batch": lambda m, d: with_(m, vertices=m.vertices[0], faces=m.faces[0], vertex_counts=None, face_counts=None),
    "fewer face lists than meshes": lambda m, d: with_(m, vertices=m.vertices.repeat(2, 1, 1), vertex_counts=None, face_counts=None),
    "no faces attribute": lambda m, d: with_(m, faces=None),
    "counts too large": counts(torch.tensor([10**7]), torch.tensor([10**7])),
    "counts negative": counts(torch.tensor([-2]), torch.tensor([-2])),
    "counts of float": counts(torch.tensor([3.5]), torch.tensor([1.5])),
    "counts for no mesh": counts(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)),
    "counts as words": counts(["three"], ["one"]),
    "counts of vertices alone": lambda m, d: with_(m, vertex_counts=torch.tensor([m.vertices.shape[1]]), face_counts=None),
    "NaN in uvs": textured("uvs", like_vertices(2, NAN)),
    "infinity in uvs": textured("uvs", like_vertices(2, INF)),
    "uvs of 1e30": textured("uvs", lambda m, d: like_vertices(2)(m, d) * 1e30),
    "uvs of another count": textured("uvs", like_vertices(2, rows=-1)),
    "uvs of one number": textured("uvs", like_vertices(1)),
    "NaN in the texture": textured("texture", picture(8, 8, 3, number=NAN)),
    "texture of seven channels": textured("texture", picture(8, 8, 7)),
    "texture of one channel": textured("texture", picture(8, 8, 1)),
    "texture with alpha": textured("texture", picture(8, 8, 4)),
    "texture of no pixels": textured("texture", picture(0, 8, 3)),
    "texture of uint8": textured("texture", lambda m, d: (picture(8, 8, 3)(m, d) * 255).to(torch.uint8)),
    "texture of numbers up to 255": textured("texture", lambda m, d: picture(8, 8, 3)(m, d) * 255),
    "texture for two meshes": textured("texture", lambda m, d: picture(8, 8, 3)(m, d).repeat(2, 1, 1, 1)[len(m.vertices) - 1 :][:2]),
    "texture without uvs": lambda m, d: with_(m, uvs=None, texture=picture(8, 8, 3)(m, d)),
    "texture as words": textured("texture", lambda m, d: "wood.png"),
    "NaN in colours": extra("vertex_colors", like_vertices(3, NAN)),
    "colours of another count": extra("vertex_colors", like_vertices(3, rows=1)),
    "colours of one channel": extra("vertex_colors", like_vertices(1)),
    "colours with alpha": extra("vertex_colors", like_vertices(4)),
    "colours up to 255": extra("vertex_colors", lambda m, d: like_vertices(3)(m, d) * 255),
    "colours of 1e30": extra("vertex_colors", lambda m, d: like_vertices(3)(m, d) * 1e30),
    "colours of uint8": extra("vertex_colors", lambda m, d: (like_vertices(3)(m, d) * 255).to(torch.uint8)),
    "NaN in normals": extra("normals", like_vertices(3, NAN)),
    "normals of another count": extra("normals", like_vertices(3, rows=2)),
    "NaN in tangents": extra("tangents", like_vertices(4, NAN)),
    "material as a word": textured("material", lambda m, d: "metal"),
    "material of nonsense": textured("material", lambda m, d: {"alpha_mode": "MAYBE", "double_sided": "no", "metallic": NAN}),
    **{f"NaN in {name}": textured(name, picture(8, 8, 3, number=NAN)) for name in MAPS},
    **{f"{name} of two channels": textured(name, picture(8, 8, 2)) for name in MAPS},
    **{f"{name} without pixels": textured(name, picture(8, 0, 3)) for name in MAPS},
}
