"""InstantMesh: encoder, triplane, heads, mesh and volume rendering, at a tiny size and at the published sizes.

Everything here is in the network's own space, where the published outputs are. Meshes are extracted from the golden's own sdf, deformation
and weights where it holds them: a rounding error can flip the sign of an sdf of 1e-7.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pipelines.cameras.presets import preset_cameras
from ...pipelines.meshes.extract import marching_cubes
from ...pipelines.nets import triplane_field
from ...pipelines.nets.triplane_lrm import PUBLISHED, LRMConfig, TriplaneLRM
from ...pipelines.nets.triplane_render import Draws, render_rays_as_trained
from ...pipelines.ops import camera_math
from ...pipelines.ops.coordinate_frames import instantmesh as instantmesh_frame
from ...pipelines.ops.flexicubes import FlexiSurface, flexicubes, grid_cubes, regular_grid
from ...pipelines.ops.volume_rendering import intersect_box
from .goldens import Outputs, find_manifest, seed_module, seeded

Golden = dict[str, np.ndarray]
TIE = 1e-6  # of a raw gamma; rounding moves them by a tenth of it


def build(name: str) -> TriplaneLRM:
    """The network of a golden (`instant_mesh_tiny`, `instant_nerf_large_full`, ...) with the deterministic weights."""
    variant = name.removesuffix("_full")
    config = PUBLISHED.get(variant) or _tiny_config(variant)
    with torch.device("meta"):
        net = TriplaneLRM(config)
    net = net.to_empty(device="cpu")
    seed_module(net)
    return net


def _tiny_config(variant: str) -> LRMConfig:
    manifest = find_manifest(variant)
    config, encoder = manifest["config"], manifest["dino"]
    return LRMConfig(
        kind="mesh" if "mesh" in variant else "nerf",
        encoder_dim=encoder["hidden_size"],
        encoder_layers=encoder["num_hidden_layers"],
        encoder_heads=encoder["num_attention_heads"],
        encoder_mlp_dim=encoder["intermediate_size"],
        transformer_dim=config["transformer_dim"],
        transformer_layers=config["transformer_layers"],
        transformer_heads=config["transformer_heads"],
        triplane_low_res=config["triplane_low_res"],
        triplane_dim=config["triplane_dim"],
        samples_per_ray=config["rendering_samples_per_ray"],
        grid_res=config.get("grid_res", 128),
        grid_scale=config.get("grid_scale", 2.1),
    )


def outputs(name: str, golden: Golden) -> Outputs:
    """Every stage the golden holds."""
    with torch.no_grad():
        net = build(name)
        yield "input_cameras", instantmesh_frame.triplane_cameras(preset_cameras("zero123plus_v1.2"))[None]
        images = seeded().seeded_input("images6", (1, 6, 3, 320, 320), "uniform")
        cameras = torch.from_numpy(golden["input_cameras"])
        if name.endswith("_full"):
            yield from _full(net, images, cameras, golden)
        elif net.config.kind == "mesh":
            yield from _encoder(net, images, cameras)
            planes = net.planes(images, cameras)
            yield "planes", planes
            yield from _mesh_heads(net, golden)
            yield from _meshes(net, golden)
        else:
            yield "planes", net.planes(images, cameras)
            yield from _nerf(net, golden)


def _encoder(net: TriplaneLRM, images: Tensor, cameras: Tensor) -> Outputs:
    encoder = net.encoder
    pixels = encoder.normalize(images[0])
    yield "pixel_values_slice", pixels[:, :, ::40, ::40]
    embeddings: Any = encoder.model.embeddings
    yield "dino_pos_embed_interp_401", embeddings.positions(20, 20)
    yield "dino_embeddings_view0", embeddings(pixels[:1])[0]
    yield "camera_embeddings", encoder.camera_embedder(cameras[0])
    yield "image_feats", encoder(images[0], cameras[0])


def _mesh_heads(net: TriplaneLRM, golden: Golden) -> Outputs:
    """The heads on the golden's planes, and the repair of a grid without a surface."""
    config, planes = net.config, torch.from_numpy(golden["planes"])[0]
    grid = regular_grid(config.grid_res, config.grid_scale)
    yield "grid_verts", grid
    yield "grid_cubes", grid_cubes(config.grid_res)
    axis = grid[: config.grid_res + 1, 2]
    sdf, deformation, weights = triplane_field.flexi_parameters(planes, net.decoder, axis)
    yield "sdf_raw", sdf[None, :, None]
    yield "deformation_raw", deformation[None]
    yield "weight", weights[None]
    repaired, penalty = triplane_field.repair_empty(sdf, config.grid_res)
    yield "sdf", repaired[None, :, None]
    yield "sdf_reg_loss", penalty[None]
    yield "deformation", torch.tanh(deformation)[None] / (4 * config.grid_res)
    # an sdf of ones shows which corners the repair writes to: 1 - min in the middle, -1 - max around
    marks, _ = triplane_field.repair_empty(torch.ones_like(sdf), config.grid_res)
    yield "center_indices", torch.nonzero(marks == 0)
    yield "boundary_indices", torch.nonzero(marks == -2)
    lifted = copy.deepcopy(net.decoder)
    lifted.net_sdf.linear(-1).bias.add_(5)
    sdf, _, _ = triplane_field.flexi_parameters(planes, lifted, axis)
    repaired, penalty = triplane_field.repair_empty(sdf, config.grid_res)
    yield "empty_sdf", repaired[None, :, None]
    yield "empty_sdf_reg", penalty[None]
    points = torch.from_numpy(golden["points1000"])
    yield "tex_at_points", triplane_field.activate_color(net.decoder.net_rgb(triplane_field.sample_planes(planes[None], points)))


def _meshes(net: TriplaneLRM, golden: Golden) -> Outputs:
    """FlexiCubes and vertex colours, from the golden's sdf, deformation, weights and planes."""
    config = net.config
    corners = regular_grid(config.grid_res, config.grid_scale) + torch.from_numpy(golden["deformation"])[0]
    weights = torch.from_numpy(golden["weight"])[0]
    for prefix, key, training in (("mesh_", "sdf", False), ("train_mesh_", "sdf", True), ("empty_mesh_", "empty_sdf", False)):
        sdf = torch.from_numpy(golden[key])[0, :, 0]
        surface = flexicubes(corners, sdf, config.grid_res, weights, training=training)
        yield f"{prefix}v", surface.vertices
        yield f"{prefix}f", surface.faces
        if not training:
            colors = vertex_colors(net, torch.from_numpy(golden["planes"]), torch.from_numpy(golden[f"{prefix}v"]))
            yield f"{prefix}c", (colors.clamp(0, 1) * 255).to(torch.uint8)
            yield f"{prefix}c_float", colors
        if prefix == "mesh_":
            yield "flexicubes_surface_reg", surface.deviation.mean()
    yield "flexicubes_weight_reg", (weights**2).mean()


def vertex_colors(net: TriplaneLRM, planes: Tensor, vertices: Tensor) -> Tensor:
    """The colour head at network points (N, 3), before clamping."""
    parts = [net.decoder.net_rgb(triplane_field.sample_planes(planes, part[None]))[0] for part in vertices.split(1 << 16)]
    return triplane_field.activate_color(torch.cat(parts))


def _nerf(net: TriplaneLRM, golden: Golden) -> Outputs:
    planes, points = torch.from_numpy(golden["planes"]), torch.from_numpy(golden["points1000"])
    features = triplane_field.sample_planes(planes, points)
    yield "sampled_features", features.unflatten(-1, (3, -1)).transpose(1, 2)
    raw = net.decoder.net(features)
    yield "point_sigma", triplane_field.activate_density(raw[..., :1])
    yield "point_rgb", triplane_field.activate_color(raw[..., 1:])
    camera = torch.from_numpy(golden["render_camera"])[0]
    K = camera[:, 16:][:, [0, 4, 2, 5]]
    origins, directions = camera_math.rays(camera[:, :16].reshape(1, 4, 4), K, 32, 32)
    origins, directions = origins.reshape(-1, 3), torch.nn.functional.normalize(directions.reshape(-1, 3), dim=-1)
    yield "ray_o", origins[None]
    yield "ray_d", directions[None]
    near, far, hit = intersect_box(origins, directions, 1.0)
    yield "ray_start", torch.where(hit, near, -1.0)[None, :, None]  # the published marks of a ray that misses
    yield "ray_end", torch.where(hit, far, -2.0)[None, :, None]
    # even draws end at share 1, where the last bit of a ray decides which of two samples is taken: the golden's rays, not ours
    starts, rays = (instantmesh_frame.from_triplane(torch.from_numpy(golden[key])[0]) for key in ("ray_o", "ray_d"))
    decoder = copy.deepcopy(net.decoder)
    for prefix in ("", "x40_"):
        if prefix:
            decoder.net.linear(-1).weight[0] *= 40
        field = triplane_field.TriplaneField(planes[0], decoder, samples_per_ray=net.config.samples_per_ray)
        size = golden[f"{prefix}grid24_sigma"].shape[1]
        n = net.config.samples_per_ray // 2  # half of them coarse
        axis = torch.arange(size) / (size - 1) * 2 - 1
        raw = decoder.net(triplane_field.sample_planes(planes, torch.cartesian_prod(axis, axis, axis)[None]))[0]
        yield f"{prefix}grid24_sigma", triplane_field.activate_density(raw[:, :1]).view(1, size, size, size, 1)
        yield f"{prefix}grid24_rgb", triplane_field.activate_color(raw[:, 1:]).view(1, size, size, size, 3)
        draws = {"det": Draws.even(len(origins), n)}
        if not prefix:
            draws["seed1234"] = Draws.random(len(origins), n, torch.Generator().manual_seed(1234))
        for kind, numbers in draws.items():
            color, depth, alpha = render_rays_as_trained(field, starts, rays, numbers)
            yield f"{prefix}{kind}_images_rgb", color.T.reshape(1, 1, 3, 32, 32)
            yield f"{prefix}{kind}_images_depth", depth.reshape(1, 1, 1, 32, 32)
            yield f"{prefix}{kind}_images_weight", alpha.reshape(1, 1, 1, 32, 32)
    level = float(golden["x40_mc_threshold"])
    size = golden["x40_grid24_sigma"].shape[1]
    vertices, _ = marching_cubes(level - torch.from_numpy(golden["x40_grid24_sigma"])[0, ..., 0], 1.0)
    yield "x40_mc_verts", (vertices + 1) / 2 * (size - 1)


def _full(net: TriplaneLRM, images: Tensor, cameras: Tensor, golden: Golden) -> Outputs:
    """A published size. Of deformation and weights the golden keeps a part only: its meshes are compared from its sdf and ours of those."""
    config = net.config
    features = net.encoder(images[0], cameras[0])
    yield "image_feats_view0", features[0]
    yield "image_feats_tok_stride", features[:, ::40]
    yield "image_feats_stats", statistics(features)
    planes = net.transformer(features.flatten(0, 1)[None], None, net.attention)
    del features
    yield "planes", planes
    yield "planes_stats", statistics(planes)
    grid = regular_grid(config.grid_res, config.grid_scale)
    sdf, deformation, weights = triplane_field.flexi_parameters(planes[0], net.decoder, grid[: config.grid_res + 1, 2])
    yield "sdf", sdf[None, :, None]
    yield "sdf_stats", statistics(sdf)
    yield "sdf_reg", triplane_field.repair_empty(sdf, config.grid_res)[1][None]
    deformation = torch.tanh(deformation) / (4 * config.grid_res)
    yield "deformation_stride97", deformation[None, ::97]
    yield "deformation_stats", statistics(deformation)
    yield "weight_stride97", weights[None, ::97]
    yield "weight_stats", statistics(weights)
    planes = torch.from_numpy(golden["planes"])
    surface = flexicubes(grid + deformation, torch.from_numpy(golden["sdf"])[0, :, 0], config.grid_res, weights)
    yield "mesh_n", torch.tensor([len(surface.vertices), len(surface.faces)])
    yield "mesh_v_first", surface.vertices[:2000]
    yield "mesh_v_stride101", surface.vertices[::101]
    yield "mesh_v_stats", statistics(surface.vertices)
    yield "mesh_f_sum", surface.faces.sum()[None]
    yield "mesh_f_first", surface.faces[:2000]
    yield "mesh_f_stride101", surface.faces[::101]
    colors = vertex_colors(net, planes, surface.vertices[::101])
    yield "mesh_c_float_stride101", colors
    yield "mesh_c_stride101", (colors.clamp(0, 1) * 255).to(torch.uint8)
    sphere = partial(flexicubes, grid + deformation, grid.norm(dim=1) - 0.7, config.grid_res)
    surface = sphere(weights)
    yield "sphere_mesh_v", surface.vertices
    yield "sphere_mesh_f", with_their_ties(surface.faces, torch.from_numpy(golden["sphere_mesh_f"]), sphere, weights)
    yield "sphere_mesh_c", vertex_colors(net, planes, surface.vertices)


def with_their_ties(ours: Tensor, theirs: Tensor, extract: Callable[[Tensor], FlexiSurface], weights: Tensor) -> Tensor:
    """Our faces (F, 3), but for quads whose diagonal is a tie as the golden cut them.

    A quad is cut along the diagonal with the larger product of gammas. Where rounding decides, which differs from processor to processor,
    neither cut is the right one: ties are those quads whose diagonal changes when the gammas move by `TIE`, and which the golden cut the
    other way.
    """
    if ours.shape != theirs.shape or torch.equal(ours, theirs):
        return ours
    quads, golden = ours.reshape(-1, 6), theirs.reshape(-1, 6)
    tied = torch.zeros(len(quads), dtype=torch.bool)
    for seed in range(8):
        moved = weights.clone()
        moved[:, -1] += TIE * (2 * torch.rand(len(weights), generator=torch.Generator().manual_seed(seed)) - 1)
        tied |= (extract(moved).faces.reshape(-1, 6) != quads).any(1)
    a, b, c, _, _, d = quads.unbind(1)
    from_first = quads[:, 3] == a
    other = torch.where(from_first[:, None], torch.stack([a, b, d, d, b, c], 1), torch.stack([a, b, d, a, d, c], 1))
    tied &= (golden == other).all(1)
    return torch.where(tied[:, None], golden, quads).reshape(-1, 3)


def statistics(values: Tensor) -> np.ndarray:
    """mean, standard deviation, minimum, maximum, sum of magnitudes."""
    numbers = values.double()
    parts = (numbers.mean(), numbers.std(), numbers.min(), numbers.max(), numbers.abs().sum())
    return torch.stack(parts).numpy()
