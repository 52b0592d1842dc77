"""All checks in their order: the cheapest and most telling first."""

from __future__ import annotations

from . import fit, launches, machine, oracle, promises, rivals, times, tools
from .findings import Check

NO_GPU, SANITIZER = "only a GPU can show it", "compute-sanitizer needs a GPU"

CHECKS = (
    Check("machine", machine.machine),
    Check("cold_start", machine.cold_start),
    Check("scenes", oracle.scenes, seconds=10),
    Check("bits", promises.bits),
    Check("thread", promises.thread),
    Check("stream", promises.stream, gpu_only=NO_GPU),
    Check("nothing", promises.nothing),
    Check("batch", promises.batch),
    Check("features", oracle.many_features),
    Check("bands", oracle.bands),
    Check("proof", machine.proof_in_process),
    Check("child_proof", machine.proof_in_child, seconds=10),
    Check("every_kernel", launches.every_kernel),
    Check("compiling", machine.compiling),
    Check("choice", machine.choice, seconds=20, gpu_only=NO_GPU),
    Check("allocator", promises.allocator, seconds=20, surroundings="async", gpu_only="cudaMallocAsync is the GPU's"),
    Check("launch_length", launches.launch_length),
    Check("memcheck", tools.sanitizer("memcheck"), seconds=30, limit=75, surroundings="toolkit", gpu_only=SANITIZER),
    Check("racecheck", tools.sanitizer("racecheck"), seconds=30, limit=75, surroundings="toolkit", gpu_only=SANITIZER),
    Check("gsplat", rivals.built, surroundings="toolkit", gpu_only="gsplat needs a GPU"),
    Check("times_cuda", times.times_of("cuda"), seconds=10),
    Check("times_gsplat", rivals.times, seconds=15, surroundings="toolkit", gpu_only="gsplat needs a GPU"),
    Check("times_numba", times.times_of("numba"), seconds=40),
    Check("profile", times.profile, seconds=10, gpu_only=NO_GPU),
    Check("fit_fast", fit.fit_of("fast"), seconds=40),
    Check("synccheck", tools.sanitizer("synccheck"), seconds=30, limit=75, surroundings="toolkit", gpu_only=SANITIZER),
    Check("times_torch", times.times_of("torch"), seconds=10, limit=60),
    Check("other_forms", machine.other_forms, seconds=20),
    Check("fit_paper", fit.fit_of("paper"), seconds=70, gpu_only="too long for an emulator"),
    Check("ncu", tools.counters, seconds=20, limit=60, surroundings="toolkit", gpu_only="ncu needs a GPU"),
)
