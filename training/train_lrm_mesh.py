"""Trains the mini reconstruction network, stage 2: from the radiance field to a mesh (InstantMesh section 3.2, L_2).

The density head becomes a signed distance by eq. 2-3; FlexiCubes extracts a mesh from it, which is rasterised and judged by
colour, perceptual distance and mask as in stage 1, by depth and normals where the object is, and by FlexiCubes' regularisers.

    python training/train_lrm_mesh.py --data DIR --stage-1 DIR --run DIR --minutes 20
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.nets.attention import explicit_attention  # noqa: E402
from lathe.pipelines.nets.mini_heads import PointHeads, PosedViews, density_to_sdf_  # noqa: E402
from lathe.pipelines.nets.mini_lrm import MiniLRM  # noqa: E402
from lathe.pipelines.nets.perceptual import perceptual_distance  # noqa: E402
from lathe.pipelines.ops import camera_math  # noqa: E402
from lathe.pipelines.ops.coordinate_frames.instantmesh import from_triplane  # noqa: E402
from lathe.pipelines.ops.flexicubes import flexicubes, grid_cubes, regular_grid, sign_consistency  # noqa: E402
from lathe.pipelines.ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from lathe.pipelines.ops.mesh_topology import make_topology  # noqa: E402
from lathe.training import loop  # noqa: E402
from lathe.training.lrm_batches import MODES, Sample, draw  # noqa: E402
from lathe.training.rendered import RenderedObjects  # noqa: E402
from lathe.training.train_lrm import SHARES, Evaluation, planes_of  # noqa: E402

ASSETS, RESOLUTION, GRID = 2, 48, 2.1
COLOR, PERCEPTUAL, MASK, DEPTH, NORMAL, DEVIATION, SIGN = 4.0, 0.2, 1.0, 0.2, 0.1, 0.5, 0.02


class Extraction:
    """A mesh from the heads, with gradients only where the surface runs."""

    def __init__(self) -> None:
        self.corners = from_triplane(regular_grid(RESOLUTION, GRID))
        self.cubes = grid_cubes(RESOLUTION)

    def __call__(self, heads: PointHeads, plane: Tensor, views: PosedViews) -> tuple[Tensor, Tensor, Tensor] | None:
        """Vertices, faces and the regularisers' sum; None where the field has no surface."""
        with torch.no_grad():
            sdf = heads.net_sdf(heads.features(plane, self.corners, views)[0])[:, 0]
        inside = (sdf < 0)[self.cubes]
        crossed = torch.nonzero(inside.any(1) & ~inside.all(1)).flatten()
        if len(crossed) == 0:
            return None
        corners = self.cubes[crossed].unique()
        features, _ = heads.features(plane, self.corners[corners], views)
        sdf = sdf.index_copy(0, corners, heads.net_sdf(features)[:, 0])
        offset = torch.tanh(heads.net_deformation(features)) / (4 * RESOLUTION)
        vertices = self.corners.index_add(0, corners, offset)
        centres = self.corners[self.cubes[crossed, 0]] + GRID / RESOLUTION / 2
        own = 0.1 * heads.net_weight(heads.features(plane, centres, views)[0])
        weights = torch.zeros(len(self.cubes), own.shape[1]).index_copy(0, crossed, own)
        surface = flexicubes(vertices, sdf, RESOLUTION, weights, training=True)
        if len(surface.faces) == 0:
            return None
        regulariser = DEVIATION * surface.deviation.mean() + SIGN * sign_consistency(sdf, RESOLUTION)
        return surface.vertices, surface.faces, regulariser


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals, faces weighted by area."""
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    return normalize(torch.zeros_like(vertices).index_add(0, faces.flatten(), normal.repeat_interleave(3, 0)), dim=1)


def mesh_losses(heads: PointHeads, vertices: Tensor, faces: Tensor, views: PosedViews, plane: Tensor, sample: Sample) -> dict[str, Tensor]:
    """The terms of L_2 for the target views of one sample."""
    cameras, size = sample.target_cameras, sample.target_images.shape[-1]
    clip = camera_math.clip_matrices(cameras.c2w, cameras.K)
    pos = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1) @ clip.transpose(1, 2)
    face, bary, zw = rasterize_mesh(pos, faces, (size, size))
    hit = face >= 0
    at = interpolate(torch.cat([vertices, vertex_normals(vertices, faces)], 1), faces, face, bary)
    points, normals = at[..., :3], normalize(at[..., 3:], dim=-1)
    rotation = camera_math.world_to_camera(cameras.c2w)
    depth = -(points * rotation[:, None, None, 2, :3]).sum(-1) - rotation[:, None, None, 2, 3]
    normals = (normals[..., None, :] * rotation[:, None, None, :3, :3]).sum(-1)
    seen_points = points[hit]
    features, seen = heads.features(plane, seen_points, views)
    color = torch.ones(*hit.shape, 3).masked_scatter(hit[..., None].expand(*hit.shape, 3), heads.color(features, seen, seen_points, views))
    picture = torch.cat([color, hit[..., None].float()], dim=-1)
    picture = antialias(picture, pos, faces, face, zw, make_topology(faces)).permute(0, 3, 1, 2)
    both = (hit & (sample.target_depths[:, 0] > 0) & (sample.target_masks[:, 0] > 0.99)).float()
    count = both.sum().clamp_min(1)
    # the training renders turn normals towards the camera: open surfaces are seen from both sides
    agreement = (normals * sample.target_normals.permute(0, 2, 3, 1)).sum(-1)
    return {
        "color": (picture[:, :3] - sample.target_images).square().mean(),
        "mask": (picture[:, 3:] - sample.target_masks).square().mean(),
        "perceptual": perceptual_distance(picture[:, :3], sample.target_images).mean(),
        "depth": ((depth - sample.target_depths[:, 0]).abs() * both).sum() / count,
        "normal": ((1 - agreement) * both).sum() / count,
    }


class Objective:
    """Stage 2 on one batch of random assets."""

    def __init__(self, data: RenderedObjects) -> None:
        self.data = data
        self.extract = Extraction()

    def __call__(self, net: MiniLRM, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        mode = MODES[int(torch.multinomial(torch.tensor(SHARES), 1, generator=generator))]
        samples = [draw(self.data, generator, mode) for _ in range(ASSETS)]
        planes, views = planes_of(net, samples)
        heads = net.synthesizer.decoder
        loss, parts = planes.sum() * 0, {"empty": 0.0}
        for plane, posed_views, sample in zip(planes, views, samples, strict=True):
            mesh = self.extract(heads, plane, posed_views)
            if mesh is None:
                parts["empty"] += 1 / ASSETS
                continue
            terms = mesh_losses(heads, mesh[0], mesh[1], posed_views, plane, sample)
            weights = {"color": COLOR, "mask": MASK, "perceptual": PERCEPTUAL, "depth": DEPTH, "normal": NORMAL}
            loss = loss + (sum(weights[name] * term for name, term in terms.items()) + mesh[2]) / ASSETS
            for name, term in terms.items():
                parts[name] = parts.get(name, 0.0) + float(term.detach()) / ASSETS
        return loss, parts


class MeshEvaluation(Evaluation):
    """PSNR at 64 px of the rasterised mesh in unseen views of held-out objects, from six true views."""

    def __init__(self, data: RenderedObjects) -> None:
        super().__init__(data)
        self.extract = Extraction()

    @torch.no_grad()
    def __call__(self, net: MiniLRM) -> dict[str, float]:
        scores, heads = [], net.synthesizer.decoder
        for sample in self.samples:
            planes, views = planes_of(net, [sample])
            mesh = self.extract(heads, planes[0], views[0])
            error = torch.ones(())
            if mesh is not None:
                error = mesh_losses(heads, mesh[0], mesh[1], views[0], planes[0], sample)["color"]
            scores.append(-10 * torch.log10(error.clamp_min(1e-8)))
        return {"psnr_mesh": float(torch.stack(scores).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ as render_dataset.py packs them")
    parser.add_argument("--stage-1", type=Path, required=True, help="folder of the run of train_lrm.py to start from")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run: checkpoint, curve")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule, all runs together")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--no-point-input", action="store_true", help="the ablation: volume input alone")
    args = parser.parse_args()
    net = MiniLRM(point_input=not args.no_point_input)
    net.attention = explicit_attention
    net.load_state_dict(torch.load(args.stage_1 / "checkpoint.pt", weights_only=True)["ema"])
    density_to_sdf_(net.synthesizer.decoder)
    loop.run(
        net, Objective(RenderedObjects(args.data / "train")), MeshEvaluation(RenderedObjects(args.data / "test")), folder=args.run,
        batch=ASSETS, minutes=args.minutes, total_minutes=args.total_minutes, learning_rate=args.learning_rate, precision="no",
    )  # fmt: skip


if __name__ == "__main__":
    main()
