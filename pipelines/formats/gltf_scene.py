"""glTF 2.0 scenes as parts: hierarchies, instances and skins in the pose of the file (Khronos glTF 2.0, sections 3.5 and 3.7.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.progress import Tick, no_tick
from .gltf_accessors import floats
from .gltf_document import Gltf
from .gltf_materials import Materials, Surface, numbers
from .gltf_primitives import Primitive, morph_weights, read_primitive
from .parts import Contents, Look, Part, refuse_distant
from .texture_wrap import repeating

MOST_ELEMENTS = 100_000_000  # vertices and faces, as read and as placed; a file of some bytes can ask for more than any memory holds


def read_gltf(path: Path, tick: Tick = no_tick) -> Contents:
    """The triangles of a .glb or .gltf in its scene's axes (metres, +Y up, front along +Z).

    The default scene is read, else the first, else all nodes. Animations, cameras and lights are not.

    Raises:
        ValueError: a broken file, or one that needs an extension that is not read (`gltf_document.SUPPORTED`).
    """
    try:
        gltf = Gltf(path)
        contents = Contents(notes=list(gltf.drops))
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is met in `_placed`
            return _Scene(gltf, contents, tick).read()
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        # JSON of another shape than the format's is met wherever it is read.
        raise ValueError(
            f"its JSON is not built as glTF 2.0 asks ({str(error)[:80]}); export it again, or try the glTF validator on it"
        ) from error


class _Scene:
    def __init__(self, gltf: Gltf, contents: Contents, tick: Tick) -> None:
        self.gltf, self.contents, self.tick = gltf, contents, tick
        self.nodes = gltf.items("nodes")
        self.parent = self._parents()
        self.worlds: dict[int, np.ndarray] = {}
        self.materials = Materials(gltf, contents, tick)
        self.meshes: dict[tuple[int, tuple[float, ...]], list[Primitive]] = {}
        self.found: list[tuple[Part, int | None, dict[int, np.ndarray]]] = []
        self.n_elements = 0

    def read(self) -> Contents:
        order = self._visible()
        for step, index in enumerate(order):
            self.tick(step, len(order))
            node = self.nodes[index]
            if node.get("mesh") is not None:
                self._add_mesh(node, index)
        self._dress()
        return self.contents

    def _parents(self) -> dict[int, int]:
        parent: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            for child in _list(node.get("children"), "children of a node"):
                self.gltf.item("nodes", child)
                if child in parent:
                    raise ValueError(f"node {child} has two parents")
                parent[child] = index
        return parent

    def _visible(self) -> list[int]:
        """The nodes of the scene, parents before children."""
        scenes = self.gltf.items("scenes")
        if scenes:
            roots = _list(self.gltf.item("scenes", self.gltf.tree.get("scene", 0)).get("nodes"), "nodes of the scene")
            if any(scene.get("nodes") for i, scene in enumerate(scenes) if i != self.gltf.tree.get("scene", 0)):
                self.contents.note(f"of its {len(scenes)} scenes one is read, the one it shows first")
        else:
            roots = [index for index in range(len(self.nodes)) if index not in self.parent]
        stack, order, seen = list(reversed(roots)), [], set()
        while stack:
            index = stack.pop()
            node = self.gltf.item("nodes", index)
            if index in seen:
                raise ValueError(f"node {index} stands in the scene twice, or below itself")
            seen.add(index)
            if ((node.get("extensions") or {}).get("KHR_node_visibility") or {}).get("visible", True) is False:
                self.contents.note("what it hides (KHR_node_visibility) is left out")
                continue
            order.append(index)
            stack += reversed(_list(node.get("children"), "children of a node"))
        return order

    def world(self, index: int) -> np.ndarray:
        """A node's 4 x 4 matrix to the scene's axes."""
        chain: list[int] = []
        at: int | None = index
        while at is not None and at not in self.worlds:
            if len(chain) > len(self.nodes):
                raise ValueError(f"node {index} stands below itself")
            chain.append(at)
            at = self.parent.get(at)
        for one in reversed(chain):
            own, above = _local(self.gltf.item("nodes", one)), self.parent.get(one)
            self.worlds[one] = own if above is None else self.worlds[above] @ own
        return self.worlds[index]

    def _add_mesh(self, node: dict[str, Any], index: int) -> None:
        mesh = self.gltf.item("meshes", node["mesh"])
        weights = morph_weights(node, mesh)
        key = (node["mesh"], tuple(weights))
        if key not in self.meshes:
            trees = _list(mesh.get("primitives"), "primitives of a mesh", of=dict)
            made = []
            for step, tree in enumerate(trees):
                self.tick(step, len(trees))
                primitive = read_primitive(self.gltf, tree, weights, self.contents)
                if primitive is not None:
                    self._count(primitive)
                    made.append(primitive)
            self.meshes[key] = made
        for primitive in self.meshes[key]:
            if not len(primitive.faces):
                continue
            skinned = node.get("skin") is not None and primitive.joints is not None and primitive.weights is not None
            # The transform of a skinned node does not count (3.7.3.3): its joints place it.
            matrices = self._skinning(node["skin"], primitive) if skinned else self._instances(node, index)
            for step, matrix in enumerate(matrices):
                self.tick(step, len(matrices))
                self._count(primitive)
                self.found.append((_placed(primitive, matrix), primitive.material, primitive.uvs))

    def _count(self, primitive: Primitive) -> None:
        self.n_elements += len(primitive.positions) + len(primitive.faces)
        if self.n_elements > MOST_ELEMENTS:
            raise ValueError(f"with all its instances it has more than {MOST_ELEMENTS:,} vertices and faces; split it into several files")

    def _instances(self, node: dict[str, Any], index: int) -> list[np.ndarray]:
        """The node's matrix, or those of its instances (EXT_mesh_gpu_instancing)."""
        world = self.world(index)
        extension = (node.get("extensions") or {}).get("EXT_mesh_gpu_instancing")
        if extension is None:
            return [world]
        attributes = extension.get("attributes") or {}
        widths = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}
        given: dict[str, np.ndarray] = {}
        for name in attributes.keys() & widths.keys():
            rows = len(next(iter(given.values()))) if given else None
            given[name] = floats(self.gltf, attributes[name], widths[name], rows, f"{name} of instances")
        if not given:
            raise ValueError("its instances have neither translation, rotation nor scale")
        count = len(next(iter(given.values())))
        if count * 16 > MOST_ELEMENTS:
            raise ValueError(f"{count} instances of one mesh are more than memory can hold")
        move, turn, size = (given.get(name) for name in widths)
        matrices = []
        for i in range(count):
            self.tick(i, count)
            matrices.append(
                world @ _composed(None if move is None else move[i], None if turn is None else turn[i], None if size is None else size[i])
            )
        return matrices

    def _skinning(self, index: Any, primitive: Primitive) -> list[np.ndarray]:
        """One matrix a vertex, (V, 4, 4), in a list of one."""
        skin = self.gltf.item("skins", index)
        joints = _list(skin.get("joints"), "joints of a skin")
        if not joints:
            raise ValueError("a skin has no joints")
        place = np.stack([self.world(joint) for joint in joints])
        if skin.get("inverseBindMatrices") is not None:
            inverse = floats(self.gltf, skin["inverseBindMatrices"], 16, None, "inverse bind matrices")
            if len(inverse) < len(joints):
                raise ValueError(f"a skin of {len(joints)} joints has {len(inverse)} inverse bind matrices")
            place = place @ inverse[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
        assert primitive.joints is not None and primitive.weights is not None
        chosen, weights = primitive.joints.astype(np.int64), primitive.weights
        if chosen.shape != weights.shape:
            raise ValueError("its joints and weights have different numbers of sets")
        if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= len(joints):
            raise ValueError(f"a vertex hangs on joint {int(chosen.max())} of {len(joints)}")
        total = weights.sum(axis=1, keepdims=True)
        if (total <= 0).any():
            self.contents.note("vertices that hang on no joint stay with the first")
            weights = np.where(total > 0, weights, np.eye(1, weights.shape[1]))
            total = weights.sum(axis=1, keepdims=True)
        weights = weights / total
        blended = np.zeros((len(chosen), 4, 4))
        for column in range(chosen.shape[1]):
            blended += weights[:, column, None, None] * place[chosen[:, column]]
        return [blended]

    def _dress(self) -> None:
        """Gives each part its material and uvs."""
        users: dict[int | None, list[int]] = {}
        for row, (_, material, _) in enumerate(self.found):
            users.setdefault(material, []).append(row)
        dressed: dict[int, Part] = {}
        for step, (material, rows) in enumerate(users.items()):
            self.tick(step, len(users))
            surface = self.materials.surface(material, [(self.found[row][0], self.found[row][2]) for row in rows])
            look, placement = surface.look, surface.placement
            uvs = [sets.get(0) if placement is None else placement.uvs(sets) for sets in (self.found[row][2] for row in rows)]
            if placement is not None:
                there = [uv for uv in uvs if uv is not None]
                look, moved = repeating(look, there, placement.wrap, self.contents)
                left = iter(moved)
                uvs = [None if uv is None else next(left) for uv in uvs]
            for row, uv in zip(rows, uvs, strict=True):
                dressed[row] = self._with_look(self.found[row][0], look, uv, surface)
        self.contents.parts += [dressed[row] for row in range(len(self.found))]

    def _with_look(self, part: Part, look: Look, uv: np.ndarray | None, surface: Surface) -> Part:
        if surface.placement is not None and uv is None:
            self.contents.note(f"a textured object has no TEXCOORD_{surface.placement.uv_set}, so its texture is left out")
            look = Look(None, look.factor, look.material.without_maps())
        colors = part.colors
        if colors is not None and look.material.alpha_mode == "OPAQUE":
            colors = colors[:, :3]
        if colors is not None and surface.glows and (colors[:, :3] != 1).any():
            self.contents.note(f"{surface.name}: vertex colours, which do not multiply what it emits, are left out")
            colors = np.concatenate([np.ones_like(colors[:, :3]), colors[:, 3:]], axis=1)
        return Part(part.vertices, part.faces, look, uv, colors, part.normals, None if surface.turned else part.tangents)


def _placed(primitive: Primitive, matrix: np.ndarray) -> Part:
    """The primitive moved by a matrix (4, 4), or by one for each vertex (V, 4, 4); uvs and look follow later."""
    linear = matrix[..., :3, :3]
    if matrix.ndim == 2:
        vertices = primitive.positions @ linear.T + matrix[:3, 3]
    else:
        vertices = np.einsum("vij,vj->vi", linear, primitive.positions) + matrix[:, :3, 3]
    if not np.isfinite(vertices).all():
        raise ValueError("its nodes move vertices beyond all numbers")
    refuse_distant(vertices)
    # Normals move by the cofactors of the matrix: right for any scale, and no division where it is flat.
    one, two = np.array([1, 2, 0]), np.array([2, 0, 1])
    cofactors = linear[..., one[:, None], one] * linear[..., two[:, None], two]
    cofactors = cofactors - linear[..., one[:, None], two] * linear[..., two[:, None], one]
    mirrored = np.linalg.det(linear) < 0
    faces = primitive.faces
    if mirrored.ndim == 0:
        faces = faces[:, ::-1] if mirrored else faces
    else:
        faces = np.where((mirrored[faces].sum(axis=1) > 1)[:, None], faces[:, ::-1], faces)
    sign = np.where(mirrored, -1.0, 1.0)[..., None]

    def turned(vectors: np.ndarray, by: np.ndarray) -> np.ndarray:
        moved = vectors @ by.T if by.ndim == 2 else np.einsum("vij,vj->vi", by, vectors)
        return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-30)

    normals = None if primitive.normals is None else (turned(primitive.normals, cofactors) * sign).astype(np.float32)
    tangents = None
    if primitive.tangents is not None and normals is not None:
        hand = np.where(primitive.tangents[:, 3:] < 0, -1.0, 1.0) * sign
        tangents = np.concatenate([turned(primitive.tangents[:, :3], linear), hand], axis=1).astype(np.float32)
    colors = None if primitive.colors is None else primitive.colors.astype(np.float32)
    return Part(vertices, np.ascontiguousarray(faces), Look(), None, colors, normals, tangents)


def _local(node: dict[str, Any]) -> np.ndarray:
    if node.get("matrix") is not None:
        return numbers(node["matrix"], 16).reshape(4, 4).T  # written by columns
    move, turn, size = (node.get(name) for name in ("translation", "rotation", "scale"))
    return _composed(
        None if move is None else numbers(move, 3), None if turn is None else numbers(turn, 4), None if size is None else numbers(size, 3)
    )


def _composed(move: np.ndarray | None, turn: np.ndarray | None, size: np.ndarray | None) -> np.ndarray:
    """Translation, rotation (x, y, z, w) and scale as one matrix; None is none."""
    matrix = np.eye(4)
    if turn is not None:
        norm = float(np.linalg.norm(turn))
        if norm < 1e-12:
            raise ValueError("a rotation of it has length 0")
        x, y, z, w = turn / norm
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    if size is not None:
        matrix[:3, :3] *= size
    if move is not None:
        matrix[:3, 3] = move
    return matrix


def _list(value: Any, what: str, of: type = int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
        raise ValueError(f"the {what} are {str(value)[:80]}, a list is expected")
    return value
