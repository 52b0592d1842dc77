"""How good the results are, beside the baselines they must beat (protocol: InstantMesh section 4; bench/README.md).

    python bench/quality.py --stage lrm             six true views in, a mesh out
    python bench/quality.py --stage image_to_mesh   one picture in, a mesh out
    python bench/quality.py --stage views           one picture in, six views out (--views DIR for the retrieval baseline)

Runs on the 8 bench objects, which the repository holds; a picture that goes in has 320 px. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.bench import baselines, common, reconstruct, retrieval, scenes  # noqa: E402
from lathe.pipelines import metrics  # noqa: E402
from lathe.pipelines.data.mesh import Mesh  # noqa: E402
from lathe.pipelines.rendering import render_mesh  # noqa: E402
from lathe.pipelines.sheets import tile  # noqa: E402

SMALL_ORBIT = 64  # the size the bars of PSNR are set at
VIEWS_SIZE = 32
SHEET_VIEWS = [0, 4, 8, 12, 16, 20]
LOWER_IS_BETTER = ("chamfer",)
Row = dict[str, float]


def mesh_scores(mesh: Mesh, scene: scenes.Scene) -> tuple[Row, torch.Tensor]:
    """All scores of a mesh, and its orbit pictures."""
    points = metrics.sample_surface(mesh, scenes.SURFACE_POINTS, seed=1)
    images = render_mesh(mesh, scene.orbit.cameras, scenes.ORBIT_SIZE, scenes.ORBIT_SIZE, supersample=2).images
    truth, small = scene.orbit, scene.orbit.resized(SMALL_ORBIT)
    scores = metrics.surface_scores(points, scene.surface)
    scores["psnr"] = float(metrics.psnr(images, truth.images).mean())
    scores["psnr_64"] = float(metrics.psnr(retrieval.at_size(images, SMALL_ORBIT), small.images).mean())
    scores["psnr_box"] = float(metrics.psnr_box(images, truth.images, truth.masks).mean())
    scores["ssim"] = float(metrics.ssim(images, truth.images).mean())
    return scores, images


def mesh_stage(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage lrm` and `--stage image_to_mesh`."""
    lrm = reconstruct.load_lrm(arguments.lrm)
    view_model = None if arguments.stage == "lrm" else reconstruct.load_view_model(arguments.view_model, arguments.white_unet)
    mean_shape = baselines.mean_shape_mesh()
    rows: dict[str, list[Row]] = {}
    failures: list[str] = []
    seconds: list[float] = []
    surfaces: list[torch.Tensor] = []
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        scene = scenes.load_scene(arguments, key, lrm.view_size)

        def ours(scene: scenes.Scene = scene) -> Mesh:
            if view_model is None:
                return reconstruct.views_to_mesh(lrm, scene.six)
            elevation = scene.query_elevation if arguments.elevation is None else arguments.elevation
            return reconstruct.image_to_mesh(view_model, lrm, scene.query, seed=arguments.seed, elevation=elevation, steps=arguments.steps)

        query = scene.query
        makers: dict[str, Callable[[], Mesh]] = {
            "ours": ours,
            "visual_hull": partial(baselines.visual_hull_mesh, scene.six.images, scene.six.masks, scene.six.cameras),
            "extrusion": partial(baselines.extrusion_mesh, query.images[0], query.masks[0], query.cameras),
            "mean_shape": lambda: mean_shape,
        }
        pictures = [scene.orbit.images]
        for name, make in makers.items():
            start = time.monotonic()
            try:
                mesh = make()
            except ValueError as error:
                failures.append(f"{name} on {scene.key}: {error}")
                print(failures[-1])
                mesh = reconstruct.nothing()
            if name == "ours":
                seconds.append(time.monotonic() - start)
                surfaces.append(metrics.sample_surface(mesh, 4096, seed=2))
            scores, images = mesh_scores(mesh, scene)
            rows.setdefault(name, []).append(scores)
            pictures.append(images)
        _show_progress(scene.key, rows)
        if arguments.pictures:
            _save_sheet(arguments.pictures, arguments.stage, scene.key, [p[SHEET_VIEWS] for p in pictures])
    result = _summary(rows)
    result["objects"] = len(keys)
    result["failures"] = failures
    result["seconds_per_object"] = float(np.mean(seconds))
    result["mean_distance_between_outputs"] = _mean_distance(surfaces)
    return result


def views_stage(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage views`: PSNR of the six views at 32 px."""
    model = reconstruct.load_view_model(arguments.view_model, arguments.white_unet)
    searches: dict[str, retrieval.Retrieval] = {}
    if arguments.views:
        searches = {"": retrieval.Retrieval(arguments.views), "_prepared": retrieval.Retrieval(arguments.views, prepared=True)}
    else:
        print("No --views DIR (the rendered training split): the retrieval baseline is left out.")
    rows: dict[str, list[Row]] = {}
    seconds: list[float] = []
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        scene = scenes.load_scene(arguments, key, model.view_size)
        start = time.monotonic()
        made = {"ours": reconstruct.imagine(model, scene.query, arguments.seed, arguments.steps)}
        seconds.append(time.monotonic() - start)
        for name, picture in (("", scene.query.images[0]), ("_prepared", reconstruct.prepared(model, scene.query)[0])):
            made[f"copy{name}"] = retrieval.copies(picture)
            if searches:
                made[f"retrieval{name}"], _ = searches[name].views(picture)
        truth = retrieval.at_size(scene.six.images, VIEWS_SIZE)
        for name, images in made.items():
            score = float(metrics.psnr(retrieval.at_size(images, VIEWS_SIZE), truth).mean())
            rows.setdefault(name, []).append({"psnr": score})
        _show_progress(scene.key, rows)
        if arguments.pictures:
            pictures = [scene.six.images, *made.values()]
            _save_sheet(arguments.pictures, "views", scene.key, [retrieval.at_size(p, 64) for p in pictures])
    result = _summary(rows)
    for name in ("copy", "retrieval"):
        scores = result["baselines"].get(name)
        result[name] = scores["psnr"] if scores else None
    result["objects"] = len(keys)
    result["seconds_per_object"] = float(np.mean(seconds))
    return result


def _summary(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Means of ours at the top level, of the baselines below, and the paired differences, positive where ours is better."""
    names = list(rows["ours"][0])
    means = {method: {name: float(np.mean([row[name] for row in scores])) for name in names} for method, scores in rows.items()}
    print()
    common.print_table(("mean", *names), [(method, *(scores[name] for name in names)) for method, scores in means.items()])
    gains: dict[str, dict[str, dict[str, float]]] = {}
    for method, scores in rows.items():
        if method == "ours":
            continue
        for name in names:
            ours, theirs = ([row[name] for row in part] for part in (rows["ours"], scores))
            pair = (theirs, ours) if name in LOWER_IS_BETTER else (ours, theirs)
            gains.setdefault(method, {})[name] = common.paired_confidence(*pair)
    print("\nGain of ours over each, mean [95 % confidence], positive is better:")
    table = [(m, *(f"{g[n]['mean']:+.3f} [{g[n]['low']:+.3f}, {g[n]['high']:+.3f}]" for n in names)) for m, g in gains.items()]
    common.print_table(("over", *names), table)
    baseline_means = {method: scores for method, scores in means.items() if method != "ours"}
    return {**means["ours"], "baselines": baseline_means, "gain": gains}


def _mean_distance(surfaces: list[torch.Tensor]) -> float | None:
    """Mean Chamfer distance between the outputs for different inputs: 0 would mean that the input does not matter."""
    pairs = [metrics.chamfer(surfaces[i], surfaces[j]) for i in range(len(surfaces)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else None


def _show_progress(key: str, rows: dict[str, list[Row]]) -> None:
    parts = []
    for method, scores in rows.items():
        last = scores[-1]
        parts.append(f"{method} " + " ".join(f"{last[n]:.3f}" for n in ("fscore_0.05", "chamfer", "psnr") if n in last))
    print(f"{key}: " + "; ".join(parts), flush=True)


def _save_sheet(folder: Path, stage: str, key: str, rows: list[torch.Tensor]) -> None:
    """One picture for an object: a row for the truth, then ours, then each baseline."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    sheet = tile(torch.cat(rows), columns=len(rows[0]))[0]
    pixels = (sheet.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(folder / f"{stage}_{key.replace('/', '__')}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("lrm", "image_to_mesh", "views"), required=True)
    parser.add_argument("--lrm", type=Path, help="a reconstruction model (.safetensors, .ckpt) instead of the bundled one")
    parser.add_argument("--view-model", type=Path, help="a view model (.safetensors, or the published folder) instead of the bundled one")
    parser.add_argument("--white-unet", type=Path, help="InstantMesh's white-background U-Net for a published folder")
    parser.add_argument("--views", type=Path, help="the rendered training split, for the retrieval baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elevation", type=float, help="of the picture in degrees, as a user guesses it; by default the true one")
    parser.add_argument("--steps", type=int, help="sampling steps; the model's own by default")
    parser.add_argument("--pictures", type=Path, help="writes a sheet for each object there: truth, ours, baselines")
    common.add_object_arguments(parser)
    arguments = parser.parse_args()
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    start = time.monotonic()
    result = views_stage(arguments) if arguments.stage == "views" else mesh_stage(arguments)
    about = {"bench": "quality", "stage": arguments.stage, "seconds": time.monotonic() - start, "peak_gib": common.peak_rss_gib()}
    common.finish({**about, **result, "machine": facts})


if __name__ == "__main__":
    main()
