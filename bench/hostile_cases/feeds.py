"""Feeds every node of the pack with what is sound and small, so that one input at a time can be spoiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared_server import FIT_SPLATS, Graph

VIEWS = 6
PIXELS = 80  # not 64: core's Load Image stands an empty mask of 64 pixels for none
PRESET_VIEWS = ("LatheRenoiseRefine", "LatheRenoiseViews", "LatheAddPicture")  # nodes that ask for a view model's own poses
# Widgets as far as they differ from their defaults: less work, and no choice that needs what is not here.
SMALL: dict[str, dict[str, Any]] = {
    "LatheFitSplats": {**FIT_SPLATS, "resolution": 64, "points": 300, "steps": 3},
    "LatheFitMesh": {"steps": 3, "resolution": 16, "faces": 1000, "texture_size": "512", "image_size": 32},
    "LatheDistilField": {"preset": "mini", "steps": 2, "size": 32},
    "LatheDistilMesh": {"preset": "mini", "steps": 2, "size": 32, "grid": 16, "faces": 1000, "texture_size": "512"},
    "LatheDistilSplat": {"preset": "mini", "steps": 2, "size": 32, "points": 1000},
    "LatheGenerateViews": {"steps": 1},
    "LatheRenoiseViews": {"steps": 1, "level": 0.7},
    "LatheRenoiseRefine": {"rounds": 1, "steps": 1, "fit_iterations": 2, "level": 0.7},
    "LatheReconstructSplats": {"tokens": 512},
    "LatheFieldToMesh": {"resolution": 24},
    "LatheSplatToField": {"resolution": 32},
    "LatheRenderViews": {"width": 48, "height": 48, "samples": 16, "supersample": False},
    "LatheUnwrapMesh": {"texture_size": "512"},
    "LatheBakeFieldTexture": {"size": "512"},
    "LatheBakeViewsTexture": {"size": "512"},
    "LathePrepareImage": {"mask_is": "object", "size": 64},
    "LathePriorFromModel": {"resolution": 64},
    "LathePriorFromZero123": {"resolution": 64},
    "LatheTextualInversion": {"steps": 1, "resolution": 64},
    "LatheSelectViews": {"views": "0, 2, 4"},
    "LatheLoadDistillation": {"file": "sound_run.safetensors"},
}
# Sockets left open: another of the same node stands in for them, or they need what only some runs have.
OPEN = {
    "LatheRenoiseRefine": ("model", "positive", "negative", "vae"),
    "LatheDistilField": ("run", "depth"),
    "LatheDistilMesh": ("run", "depth"),
    "LatheDistilSplat": ("run", "depth"),
    "LatheFitSplats": ("start",),
    "LatheCamerasFromLoad3D": ("model_3d_info",),
}
NEVER = {"LatheRenoiseRefine": OPEN["LatheRenoiseRefine"], "LatheCamerasFromLoad3D": ("model_3d_info",)}  # no sound source here
ONE_PICTURE = ("image", "picture", "depth", "image_mask", "picture_mask", "mask")  # sockets of a picture, not of views


@dataclass(frozen=True)
class Input:
    """One input of a node, as /object_info tells it. `kinds` are its socket types; options are those of a widget."""

    name: str
    kinds: tuple[str, ...]
    options: dict[str, Any]
    optional: bool


def inputs_of(info: dict[str, Any]) -> list[Input]:
    """The inputs of a node class."""
    found = []
    for part in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(part, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append(Input(name, tuple(kind.split(",")), options, part == "optional"))
    return found


def is_widget(entry: Input) -> bool:
    """Whether the user types it."""
    return entry.kinds[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class Feeder:
    """Adds sources to a graph, each once.

    Args:
        graph: where they are added.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[str, Any] = {}

    def node(self, class_type: str, **inputs: Any) -> list[list[Any]]:
        key = repr((class_type, inputs))
        if key not in self.made:
            self.made[key] = self.graph.add(class_type, **inputs)
        return list(self.made[key])

    def cameras(self, node: str = "", views: int = VIEWS) -> list[Any]:
        if node in PRESET_VIEWS and views == VIEWS:
            return self.node("LatheCameraPreset", preset="zero123plus_v1.2", input_azimuth=0.0, elevation=0.0, radius=0.0)[0]
        orbit = {"elevation": 20.0, "radius": 4.0, "fov": 30.0, "start": 0.0, "turn": 360.0, "endpoint": False}
        return self.node("LatheOrbitCameras", views=views, **orbit)[0]

    def renders(self, views: int, node: str = "") -> list[list[Any]]:
        size = {"width": PIXELS, "height": PIXELS, "background": "#ffffff", "supersample": False, "samples": 16}
        return self.node("LatheRenderViews", asset=self.demo("Mesh", "mesh.glb", fit=False)[0], cameras=self.cameras(node, views), **size)

    def demo(self, what: str, file: str, **more: Any) -> list[list[Any]]:
        return self.node(f"LatheLoad{what}", file=f"lathe_demo_{file} [example]", **more)

    def mini(self, what: str, **more: Any) -> list[Any]:
        return self.node(f"LatheLoad{what}", model="mini (bundled)", precision="fp32", download=False, **more)[0]

    def geolrm(self) -> list[Any]:
        return self.mini("GeoLRM", proposal_form="auto", reconstruction_form="auto")

    def voxel(self) -> list[Any]:
        views = self.renders(VIEWS)
        sources = {"geolrm": self.geolrm(), "images": views[0], "cameras": self.cameras(), "masks": views[1]}
        return self.node("LatheProposeVoxels", threshold=0.5, **sources)[0]

    def run(self) -> list[Any]:
        picture, settings = self.renders(1), {**SMALL["LatheDistilField"], "seed": 0, "reference_weight": 1.0}
        settings |= {"elevation": 15.0, "radius": 4.0, "fov": 30.0}
        prior = self.node("LatheTestBallPrior", kind="good")[0]
        return self.node("LatheDistilField", prior=prior, image=picture[0], mask=picture[1], **settings)[3]

    def viewer(self) -> list[Any]:
        return self.node("LatheCamerasToLoad3D", cameras=self.cameras(), view=0, viewer="own space")[0]

    def source(self, node: str, name: str, kind: str) -> list[Any]:
        """A link to what is sound for this socket."""
        if kind in ("IMAGE", "MASK"):
            single = name in ONE_PICTURE
            return self.renders(1 if single else VIEWS, node)[0 if kind == "IMAGE" else 1]
        family = "zero123" if node == "LathePriorFromZero123" else "sd15"
        makers: dict[str, Any] = {
            "LATHE_CAMERAS": lambda: self.cameras(node),
            "LOAD3D_CAMERA": self.viewer,
            "MESH": lambda: self.node("LatheTestTetrahedra", count=1)[0],
            "SPLAT": lambda: self.node("LatheTestBall", opacity=0.9, count=1)[0],
            "VOXEL": self.voxel,
            "LATHE_FIELD": lambda: self.demo("Field", "field.safetensors")[0],
            "LATHE_DISTILLATION": self.run,
            "LATHE_PRIOR": lambda: self.node("LatheTestBallPrior", kind="good")[0],
            "LATHE_LRM": lambda: self.mini("LRM"),
            "LATHE_GEOLRM": self.geolrm,
            "LATHE_VIEW_MODEL": lambda: self.mini("ViewModel", unet="instant_mesh_white_unet"),
            "MODEL": lambda: self.node("LatheTestCoreModel", family=family, strength=0.0)[0],
            "VAE": lambda: self.node("LatheTestCoreModel", family=family, strength=0.0)[1],
            "CLIP": lambda: self.node("LatheTestCheckpoint")[1],
            "CLIP_VISION": lambda: self.node("LatheTestZero123")[1],
            "CONDITIONING": lambda: self.node("LatheTestCoreConditioning", family=family, frames=1)[1 if name == "negative" else 0],
        }
        return list(makers[kind]())


def default_of(entry: Input) -> Any:
    """A widget's value as the page would send it."""
    options = entry.options
    if "default" in options:
        return options["default"]
    choices = options.get("options") or [None]
    return next((c for c in choices if str(c).endswith("[example]")), choices[0])


def small(node: str, entry: Input) -> Any:
    """A widget's value in a sound prompt."""
    return SMALL.get(node, {}).get(entry.name, default_of(entry))


def is_fed(node: str, entry: Input) -> bool:
    """Whether a sound prompt wires this socket."""
    return not is_widget(entry) and entry.name not in OPEN.get(node, ())


def sound(feeder: Feeder, node: str, info: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a node that should succeed."""
    values: dict[str, Any] = {}
    for entry in inputs_of(info):
        if is_widget(entry):
            values[entry.name] = small(node, entry)
        elif is_fed(node, entry):
            kind = "MESH" if node == "LatheDistilMesh" and entry.name == "start" else entry.kinds[0]  # a field's colours are learned slowly
            values[entry.name] = feeder.source(node, entry.name, kind)
    return values
