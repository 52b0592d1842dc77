"""Posed views to a voxel grid, and that to splats: GeoLRM."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from .core import folders, memory, nets, progress
from .core.images import images_in, images_out, outlines_in
from .core.schema import CAMERAS, GEOLRM, IMAGE, MASK, SPLAT, VOXEL, download_input, schema, widget
from .core.splat import to_core_splat
from .core.voxel import to_core_voxel, voxels_in

if TYPE_CHECKING:
    from ..pipelines.data.cameras import Cameras
    from ..pipelines.data.progress import Tick
    from ..pipelines.data.splats import Splats
    from ..pipelines.reconstruction.geolrm.attention_memory import Verdict
    from ..pipelines.reconstruction.geolrm.stages import NetworkForm

CATEGORY = "3d/Lathe/Reconstruct"
FORMS = ["auto", "tokens", "tokens, scale 1", "heads"]
PARTS = {"proposal": "propose_as", "reconstruction": "reconstruct_as"}
MEMORY_FILE = "geolrm_forms.json"
LEAST_CHUNK, MOST_CHUNK = 1 << 26, 1 << 30  # bytes the cross-attention works in
RUN_REMEDY = "Give fewer views (Select Views), or lower the token budget."
LOOK_REMEDY = "If the result is poor, choose another form yourself in Load GeoLRM."
PREVIEW_HEIGHT = 256
IMPLAUSIBLE_SHARE = 0.4  # of all cells; the visible part of an object is a few hundredths

_log = logging.getLogger(__name__)


class LoadedGeoLRM:
    """GeoLRM's networks under ComfyUI's memory management, each on its own: what a LATHE_GEOLRM socket carries.

    Args:
        path: the file.
        dtype, reconstruction_dtype: to store the transformers in.
    """

    def __init__(self, path: Path, dtype: torch.dtype, reconstruction_dtype: torch.dtype) -> None:
        from ..pipelines.weights.geolrm import load_geolrm

        with torch.inference_mode(False):
            self.model = load_geolrm(path, dtype=dtype, reconstruction_dtype=reconstruction_dtype)
        self.dtypes = {"proposal": dtype, "reconstruction": reconstruction_dtype}
        self.nets: dict[str, nets.LoadedNet] = {}
        for part in PARTS:
            net = getattr(self.model, part)
            if net is not None:
                self.nets[part] = nets.LoadedNet(lambda net=net: net)  # type: ignore[misc]

    def run(self, part: str, work: Any, n_views: int, tokens: int, remedy: str = RUN_REMEDY) -> Any:
        """`work(device=, dtype=, attention=, free_memory=)` with the network of `part` on its device.

        Raises:
            NotEnoughMemory: told before anything is moved.
        """
        from ..pipelines.nets.attention import torch_attention
        from ..pipelines.reconstruction.geolrm.stages import memory_required

        net, module = self.nets[part], getattr(self.model, part)
        need = memory_required(module.config, self.model.view_size, n_views, tokens, self.dtypes[part]) + LEAST_CHUNK
        weights = 0 if memory.device().type == "cpu" else sum(p.numel() * p.element_size() for p in module.parameters())
        memory.make_room(
            need + weights,
            f"GeoLRM's {part} network with {n_views} views of {self.model.view_size} pixels and {tokens} tokens",
            remedy,
        )
        with net.use(need):
            chunk = min(MOST_CHUNK, max(LEAST_CHUNK, memory.memory_left() // 4))
            return work(device=memory.device(), dtype=self.dtypes[part], attention=memory.attention() or torch_attention, free_memory=chunk)

    def decide_forms(self, path: Path, asked: Mapping[str, str], tick: Tick) -> list[str]:
        """Settles how each network is run, and says so in a line for each.

        A form that was asked for is taken, with a warning where the file or an earlier look at it says otherwise. auto takes what the file
        says, else what was found out about the same file before, else looks.
        """
        from ..pipelines.reconstruction.geolrm import attention_memory
        from ..pipelines.weights.geolrm import says_its_forms

        told = says_its_forms(path)
        kept = attention_memory.FormMemory(folders.remembered(MEMORY_FILE))
        digest = "" if told else attention_memory.file_hash(path, tick)
        known = {} if told else kept.recall(digest)
        lines = []
        for part in self.nets:
            if asked[part] != "auto":
                lines.append(self._forced(part, asked[part], told, known.get(part)))
                continue
            if told:
                lines.append(f"{part}: {attention_memory.describe_form(getattr(self.model, PARTS[part]))} (the file says so)")
                continue
            verdict = known.get(part)
            if verdict is None:
                verdict = self._look(part, tick)
                kept.keep(digest, {part: verdict})  # those that hold in every precision
            self._take(part, verdict.chosen)
            lines.append(verdict.why if part not in known else f"{verdict.why}, as found before")
            _log.log(logging.INFO if verdict.decided else logging.WARNING, "GeoLRM, %s", lines[-1])
        return lines

    def _forced(self, part: str, asked: str, told: bool, verdict: Verdict | None) -> str:
        from ..pipelines.reconstruction.geolrm.attention_memory import describe_form

        forced, said = form_of(asked), getattr(self.model, PARTS[part])
        self._take(part, forced)
        line = f"{part}: {describe_form(forced)}, as asked"
        if told and describe_form(said) != describe_form(forced):
            line += f"; the file says {describe_form(said)}"
            line += ", so the result may be worse" if said.form != forced.form else ""
            _log.log(logging.INFO if said.form == forced.form else logging.WARNING, "GeoLRM, %s", line)
        elif verdict is not None and verdict.against(part, forced):
            line += f"; these weights expect {describe_form(verdict.chosen)}, so the result will be worse"
            _log.warning("GeoLRM, %s", line)
        return line

    def _take(self, part: str, run_as: NetworkForm) -> None:
        if part == "proposal":
            self.model = replace(self.model, propose_as=run_as)
        else:
            self.model = replace(self.model, reconstruct_as=run_as)

    def _look(self, part: str, tick: Tick) -> Verdict:
        from ..pipelines.reconstruction.geolrm import attention_memory, calibration, detect_attention

        def run(own: str, work: Any) -> Any:
            net = self.model.proposal
            tokens = len(net.points()) if own == "proposal" and net is not None else detect_attention.TOKENS
            return self.run(own, lambda **how: work(self.model, tick=tick, **how), calibration.VIEWS, tokens, LOOK_REMEDY)

        try:
            if part == "proposal":
                return run("proposal", detect_attention.choose_proposal)
            cells = run("proposal", detect_attention.own_cells) if self.model.proposal is not None else None
            return run("reconstruction", partial(detect_attention.choose_reconstruction, cells=cells))
        except memory.NotEnoughMemory as error:
            return attention_memory.not_looked_at(part, str(error))

    def propose(self, images: Tensor, masks: Tensor | None, cameras: Cameras, tick: Tick) -> Tensor:
        """The stage on ComfyUI's device: (B, Z, Y, X) probabilities."""
        from ..pipelines.reconstruction.geolrm import stages as stage
        from ..pipelines.reconstruction.geolrm.views import check_views

        net = self.model.proposal
        if net is None:
            return stage.propose(self.model, images, masks, cameras)  # which says what is missing
        check_views(images, masks, cameras)
        return self.run(
            "proposal",
            lambda **how: stage.propose(self.model, images, masks, cameras, tick=tick, **how),
            cameras.n_views,
            len(net.points()),
        )

    def reconstruct(
        self,
        occupancy: Tensor,
        extents: tuple[float, ...],
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        tick: Tick,
        **choice: Any,
    ) -> list[Splats]:
        """The stage on ComfyUI's device, from an occupancy whose cells tile [-extent, extent]^3; `choice` as for the stage."""
        from ..pipelines.reconstruction.geolrm import stages as stage
        from ..pipelines.reconstruction.geolrm.views import check_views, grid_extents, on_grid

        net = self.model.reconstruction
        if net is None:
            return stage.reconstruct(self.model, occupancy, images, masks, cameras)  # which says what is missing
        assets = check_views(images, masks, cameras)
        if len(occupancy) != assets:
            raise ValueError(f"The views show {assets} assets, but the VOXEL holds {len(occupancy)}.")
        grid = net.config.grid
        fitted = on_grid(occupancy, extents, grid, grid_extents(grid, cameras, assets))
        counts = stage.token_counts(fitted, choice["threshold"], choice["tokens"], choice["compatible"])
        _log.info("GeoLRM: %s tokens of %s occupied voxels.", counts, [int((volume > choice["threshold"]).sum()) for volume in fitted])
        return self.run(
            "reconstruction",
            lambda **how: stage.reconstruct(self.model, fitted, images, masks, cameras, tick=tick, **choice, **how),
            cameras.n_views,
            max(counts),
        )


def form_of(choice: str) -> NetworkForm:
    """A loader's choice other than auto."""
    from ..pipelines.reconstruction.geolrm.stages import NetworkForm

    return {"tokens": NetworkForm("tokens", 0.5), "tokens, scale 1": NetworkForm("tokens", 1.0), "heads": NetworkForm("heads", 0.5)}[choice]


def form_input(part: str) -> Any:
    """The widget for the form of a network."""
    return widget(
        io.Combo, f"{part}_form", options=FORMS, default="auto", advanced=True,
        tooltip=f"Which self-attention the {part} network's weights expect. tokens: the paper's, with positions at scale 0.5 or 1. heads: "
        "what the published code computes in single precision. auto takes what the file says, else tries all on bundled views, once for "
        "each file.",
    )  # fmt: skip


def masks_of(images: Any, masks: Any) -> Tensor | None:
    """The masks of views: the socket's, else an alpha channel of the images, else none."""
    return outlines_in(images, masks)


class LatheLoadGeoLRM(io.ComfyNode):
    """GeoLRM's networks from disk."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadGeoLRM",
            display_name="Load GeoLRM",
            category=CATEGORY,
            description="Loads GeoLRM, which turns any number of posed views into Gaussian splats: the bundled mini model, the published "
            "checkpoint, or a file with one of its two networks.",
            search_aliases=["geolrm", "geometry-aware large reconstruction model", "gaussian lrm", "load reconstruction model"],
            inputs=[
                widget(
                    io.Combo, "model", default=folders.MINI,
                    options=folders.weight_choices("geolrm", ".ckpt", ".safetensors", ".pth", ".pt", ".bin"),
                    tooltip="mini needs no download and no GPU. geolrm is the published checkpoint. Files in models/lathe are offered by "
                    "their name; one may hold only the proposal or only the reconstruction network.",
                ),
                form_input("proposal"),
                form_input("reconstruction"),
                widget(
                    io.Combo, "precision", options=["auto", "fp32", "bf16", "fp16"], default="auto", advanced=True,
                    tooltip="Number format of the weights. auto takes what suits the device for the proposal network, and fp32 for the "
                    "reconstruction network, which was trained in it.",
                ),
                download_input(),
            ],
            outputs=[
                GEOLRM.Output(display_name="geolrm", tooltip="For Propose Voxels and Reconstruct Splats."),
                io.String.Output(display_name="report", tooltip="What is in the file, in which form each network is run, and why."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, proposal_form, reconstruction_form, precision, download) -> io.NodeOutput:
        from ..pipelines.weights.geolrm import MINI_FILE

        tick = progress.tick_for(cls)
        path = MINI_FILE if model == folders.MINI else folders.weights_path("geolrm", model, download, tick)
        dtype = memory.precision(precision)
        loaded = LoadedGeoLRM(path, dtype, torch.float32 if precision == "auto" else dtype)
        lines = [f"{loaded.model.name}: {' and '.join(loaded.nets)} network, views of {loaded.model.view_size} pixels"]
        lines += loaded.decide_forms(path, {"proposal": proposal_form, "reconstruction": reconstruction_form}, tick)
        return io.NodeOutput(loaded, "\n".join(lines))


class LatheProposeVoxels(io.ComfyNode):
    """GeoLRM's first stage."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheProposeVoxels",
            display_name="Propose Voxels",
            category=CATEGORY,
            description="Finds where in space the surface of an object may be, from 1 to 24 posed views: GeoLRM's first stage. The grid is "
            "as large as the distance of the cameras says.",
            search_aliases=["geolrm", "occupancy", "voxel grid", "views to voxels", "proposal network"],
            inputs=[
                GEOLRM.Input("geolrm", tooltip="The networks, from Load GeoLRM."),
                IMAGE.Input("images", tooltip="Views of the object, those of one asset after those of the other."),
                CAMERAS.Input("cameras", tooltip="Where the views were taken from; any poses around the object."),
                MASK.Input(
                    "masks", optional=True,
                    tooltip="1 = object; from Mask Views. Puts the views on the background the network knows. Without masks an alpha "
                    "channel of the images serves; without both their background must be white.",
                ),
                widget(
                    io.Float, "threshold", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Cells with a higher probability count as occupied in the preview and in the count. All probabilities are "
                    "handed on; Reconstruct Splats has a threshold of its own.",
                ),
            ],
            outputs=[
                VOXEL.Output(
                    display_name="voxel",
                    tooltip="For each asset the probability of each cell. For Reconstruct Splats, Fit Splats or core's nodes."
                ),
                IMAGE.Output(
                    display_name="preview",
                    tooltip="The occupied cells of each asset from the front, from its left and from above, near ones light."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, geolrm, images, cameras, threshold, masks=None) -> io.NodeOutput:
        from ..pipelines.plots.occupancy import occupancy_picture
        from ..pipelines.reconstruction.geolrm.views import grid_extents

        tick = progress.tick_for(cls)
        tick(0, 1)
        occupancy = geolrm.propose(images_in(images), masks_of(images, masks), cameras, tick)
        for asset, volume in enumerate(occupancy, 1):
            tell_occupied(volume, threshold, asset)
        pictures = torch.stack([occupancy_picture(volume, threshold) for volume in occupancy])
        extents = grid_extents(occupancy.shape[-1], cameras, len(occupancy))
        tick(1, 1, pictures[0].permute(1, 2, 0))
        return io.NodeOutput(to_core_voxel(occupancy, extents), images_out(pictures))


def tell_occupied(volume: Tensor, threshold: float, asset: int) -> None:
    """Logs how many cells are occupied; warns where there are none, or so many that they cannot be a surface."""
    count = int((volume > threshold).sum())
    share = count / volume.numel()
    if count == 0:
        _log.warning(
            "Propose Voxels: no voxel of asset %d is above %g; the highest is %.3f. Lower the threshold, here and in Reconstruct "
            "Splats, or check masks and cameras.", asset, threshold, float(volume.max()),
        )  # fmt: skip
    elif share > IMPLAUSIBLE_SHARE:
        _log.warning(
            "Propose Voxels: %.0f %% of the cells of asset %d are occupied, which is no surface: check the views' background and "
            "cameras, and the form of the proposal network.", 100 * share, asset,
        )  # fmt: skip
    else:
        _log.info("Propose Voxels: %d voxels of asset %d are occupied, %.2f %% of the cells.", count, asset, 100 * share)


class LatheReconstructSplats(io.ComfyNode):
    """GeoLRM's second stage."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheReconstructSplats",
            display_name="Reconstruct Splats",
            category=CATEGORY,
            description="Turns occupied voxels and posed views into Gaussian splats in one pass: GeoLRM's second stage. More views give "
            "more detail; these may be others than the voxels were proposed from.",
            search_aliases=["geolrm", "gaussian splatting", "views to splat", "feed-forward gaussians", "voxels to splats"],
            inputs=[
                GEOLRM.Input("geolrm", tooltip="The networks, from Load GeoLRM."),
                VOXEL.Input(
                    "voxel",
                    tooltip="Where to put Gaussians: from Propose Voxels. A grid of another node or resolution is taken to fill the cube "
                    "from -1 to 1 and brought onto the network's grid.",
                ),
                IMAGE.Input("images", tooltip="Views of the object, those of one asset after those of the other."),
                CAMERAS.Input("cameras", tooltip="Where the views were taken from; any poses around the object."),
                MASK.Input(
                    "masks", optional=True,
                    tooltip="1 = object; from Mask Views. Puts the views on the background the network knows. Without masks an alpha "
                    "channel of the images serves; without both their background must be white.",
                ),
                widget(
                    io.Float, "threshold", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Cells with a higher probability become tokens. Lower it where parts are missing.",
                ),
                widget(
                    io.Int, "tokens", default=16384, min=64, max=262144, step=64,
                    tooltip="At most so many cells are used, each of which becomes 32 Gaussians (8 in the mini model). Time grows with the "
                    "square of it. Of more occupied cells a random choice is taken.",
                ),
                widget(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="Of the random choice; without effect while all occupied cells fit into the budget.",
                ),
                widget(
                    io.Boolean, "compatible", default=False, advanced=True,
                    tooltip="Fills the budget up with tokens in the centre, as the published code does. They become Gaussians there that "
                    "nobody asked for; only for comparing with it.",
                ),
            ],
            outputs=[SPLAT.Output(display_name="splat", tooltip="The splats of each asset, faint Gaussians dropped.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, geolrm, voxel, images, cameras, threshold, tokens, seed, compatible, masks=None) -> io.NodeOutput:
        from ..pipelines.rendering.splats import render_splats

        tick = progress.tick_for(cls)
        tick(0, 1)
        occupancy, extents = voxels_in(voxel)
        views = images_in(images)
        splats = geolrm.reconstruct(
            occupancy, extents, views, masks_of(images, masks), cameras, tick, threshold=threshold, tokens=tokens,
            seed=seed, compatible=compatible,
        )  # fmt: skip
        width = max(round(PREVIEW_HEIGHT * views.shape[-1] / views.shape[-2]), 1)
        seen = render_splats(splats[0], cameras.select([0]), PREVIEW_HEIGHT, width).images[0]
        tick(1, 1, seen.permute(1, 2, 0))
        return io.NodeOutput(to_core_splat(splats))


NODES = [LatheLoadGeoLRM, LatheProposeVoxels, LatheReconstructSplats]
