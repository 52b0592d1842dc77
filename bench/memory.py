"""Memory and time of the full-size GeoLRM with seeded weights, by number of views and of tokens.

    python bench/memory.py --stage geolrm [--views 6 12 21] [--tokens 4096 8192 16384] [--device cpu|cuda] [--dtype fp32|bf16|fp16]

Each case is a process of its own: both networks are made, the proposal runs on all views, the reconstruction on as many of the proposed
cells as there are tokens (32 Gaussians each), as the nodes run them. Peaks are the process's resident memory on the CPU, CUDA's on a GPU,
weights of both networks included. A line is fitted to the peaks over three or more numbers of views, which must lie within 5 % of it. On a
GPU two targets are judged, too: 512k Gaussians from 21 views in 6 GB (the paper: 11 GB), and from 6 in under 4.9 GB. The exit status is 1
where one of these does not hold. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import numpy as np  # noqa: E402
import torch  # noqa: E402
from lathe.bench import common  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VIEWS, TOKENS = (6, 12, 21), (4096, 8192, 16384)
TARGETS_GB = {(21, 16384): 6.0, (6, 16384): 4.9}  # views, tokens -> 10^9 bytes
MOST_OFF = 0.05  # of a peak: how far it may lie from the line
WORKING_BYTES = 1 << 30  # what the nodes allow the cross-attention at most
GB = 1e9


def work(views: int, tokens: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """In a child process: one case.

    The numbers that networks hold do not change what they cost, so their own seeded start serves.
    """
    from lathe.pipelines.cameras.orbits import orbit_cameras
    from lathe.pipelines.nets.geolrm import ProposalNetwork, ReconstructionNetwork
    from lathe.pipelines.reconstruction.geolrm import stages
    from lathe.pipelines.weights.geolrm import cast_trunk

    torch.manual_seed(0)
    proposal, reconstruction = (kind().eval().requires_grad_(False) for kind in (ProposalNetwork, ReconstructionNetwork))
    for net in (proposal, reconstruction):
        cast_trunk(net, dtype)
        net.to(device)
    model = stages.GeoLRM(proposal, reconstruction)
    cameras = orbit_cameras(views, elevation=10, radius=3.0, fov=39.6)
    images = torch.rand(views, 3, model.view_size, model.view_size)
    before = _peak(device)
    how: dict[str, Any] = {"device": device, "dtype": dtype, "free_memory": WORKING_BYTES}
    start = time.perf_counter()
    occupancy = stages.propose(model, images, None, cameras, **how)
    between = time.perf_counter()
    # weights that were not trained propose about half of all cells, or none: as many as there are tokens are taken
    level = occupancy.flatten().topk(tokens + 1).values[-1]
    (splats,) = stages.reconstruct(model, occupancy, images, None, cameras, threshold=float(level), tokens=tokens, **how)
    end = time.perf_counter()
    return {
        "views": views,
        "tokens": tokens,
        "gaussians": len(splats),
        "propose_seconds": between - start,
        "reconstruct_seconds": end - between,
        "weights_gb": sum(t.numel() * t.element_size() for net in (proposal, reconstruction) for t in net.state_dict().values()) / GB,
        "peak_before_gb": before,
        "peak_gb": _peak(device),
        "estimate_gb": stages.memory_required(reconstruction.config, model.view_size, views, tokens, dtype) / GB,
    }


def _peak(device: str) -> float:
    if device == "cpu":
        return common.peak_rss_gib() * common.GIB / GB
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() / GB


def measure(views: int, tokens: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case in a child process.

    Raises:
        RuntimeError: the child failed.
    """
    command = [sys.executable, __file__, "--stage", arguments.stage, "--worker", "--views", str(views), "--tokens", str(tokens)]
    command += ["--device", arguments.device, "--dtype", arguments.dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{views} views and {tokens} tokens failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def fit_line(views: list[int], peaks: list[float]) -> dict[str, float]:
    """Least squares of peaks (GB) over views: `base`, `per_view`, and the largest distance of a point from the line as share of its peak.

    Raises:
        ValueError: fewer than three points, which any line fits.
    """
    if len(views) < 3:
        raise ValueError(f"A line through {len(views)} points says nothing; give three numbers of views.")
    slope, base = np.polyfit(views, peaks, 1)
    line = base + slope * np.asarray(views)
    return {"base": float(base), "per_view": float(slope), "off": float(np.max(np.abs(line - peaks) / np.asarray(peaks)))}


def judge(cases: list[dict[str, Any]], lines: dict[str, dict[str, float]], device: str) -> dict[str, bool]:
    """Which targets were met, of those that were measured: growth in a line (by number of tokens), and on a GPU the bytes."""
    found = {f"{tokens} tokens: a line in views": line["off"] <= MOST_OFF for tokens, line in lines.items()}
    for (views, tokens), most in TARGETS_GB.items() if device != "cpu" else ():
        for case in cases:
            if (case["views"], case["tokens"]) == (views, tokens):
                found[f"{views} views, {tokens} tokens: {most:g} GB"] = case["peak_gb"] < most
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("geolrm",), required=True)
    parser.add_argument("--views", type=int, nargs="+", default=list(VIEWS))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        common.finish(work(arguments.views[0], arguments.tokens[0], arguments.device, DTYPES[arguments.dtype]))
        return 0
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    cases = []
    for tokens in arguments.tokens:
        for views in arguments.views:
            case = measure(views, tokens, arguments)
            cases.append(case)
            seconds = case["propose_seconds"] + case["reconstruct_seconds"]
            print(f"{views} views, {tokens} tokens: peak {case['peak_gb']:.2f} GB, {seconds:.1f} s", flush=True)
    names = ("views", "tokens", "gaussians", "propose_seconds", "reconstruct_seconds", "peak_before_gb", "peak_gb", "estimate_gb")
    common.print_table(names, [[case[name] for name in names] for case in cases])
    lines = {}
    for tokens in arguments.tokens:
        own = [case for case in cases if case["tokens"] == tokens]
        if len(own) >= 3:
            line = lines[str(tokens)] = fit_line([case["views"] for case in own], [case["peak_gb"] for case in own])
            print(f"{tokens} tokens: {line['base']:.2f} GB + {line['per_view']:.3f} GB a view, at most {100 * line['off']:.1f} % off")
    judged = judge(cases, lines, arguments.device)
    for target, met in judged.items():
        print(f"{'met' if met else 'MISSED'}: {target}")
    result = {
        "bench": "memory",
        "stage": "geolrm",
        "device": arguments.device,
        "dtype": arguments.dtype,
        "cases": cases,
        "line_by_tokens": lines,
    }
    common.finish({**result, "targets": judged, "machine": facts})
    return 0 if all(judged.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
