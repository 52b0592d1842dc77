"""What the rasteriser promises beside right numbers: the same bits, any thread, any stream, any allocator, pictures of nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import torch
from splat_scenes import SCENES, Oracle

from ..speed_cases import splats
from .findings import Finding, judged, not_measured
from .oracle import against
from .pictures import drawn, largest_error, same_bits
from .place import Place

ALONE_GRADIENTS = 1e-6
"""The gradients of two cameras at once against the sum of theirs alone: in another order."""
BUSY_CYCLES = 1_000_000_000  # of the GPU, half a second


def bits(place: Place) -> Iterator[Finding]:
    """Three runs, all numbers to the bit."""
    n, size = place.either((50_000, 512), (200, 48))
    given = splats.scene(n, size, 1, str(place.device))
    first, *others = (drawn(*given) for _ in range(3))
    same = [same_bits(other, first) for other in others]
    yield judged(all(same), "same bits in three runs", f"{n:,} Gaussians at {size} px, all gradients and absgrad: {same}")


def thread(place: Place) -> Iterator[Finding]:
    """Forward and backward from a thread that has no CUDA context of its own yet."""
    n, size = place.either((5000, 128), (100, 32))
    given = splats.scene(n, size, 1, str(place.device))
    true, made = drawn(*given), list[object]()

    def work() -> None:
        try:
            made.append(same_bits(drawn(*given), true))
            place.wait()
        except Exception as error:  # told by the main thread
            made.append(error)

    other = threading.Thread(target=work)
    other.start()
    other.join()
    yield judged(made == [True], "another thread", f"the bits of the main thread's: {made[0]}")


def stream(place: Place) -> Iterator[Finding]:
    """On a stream of its own while the usual one is busy: a kernel on the usual one would come too late for those that read its results."""
    leaves, rest, target = splats.scene(5000, 128, 1, str(place.device))
    true = drawn(leaves, rest, target)
    own, finished = torch.cuda.Stream(place.device), torch.cuda.Event()
    with torch.cuda.stream(own):  # another scene takes the memory first: taking it later might wait for the usual stream
        drawn([(-leaves[0].detach()).requires_grad_(), *leaves[1:]], rest, target)
    place.wait()
    torch.cuda._sleep(BUSY_CYCLES)
    finished.record()
    with torch.cuda.stream(own):
        made = drawn(leaves, rest, target)
    own.synchronize()
    beside = not finished.query()
    place.wait()
    same = same_bits(made, true)
    if same and not beside:
        yield not_measured("a stream of its own", "something waited for the usual stream, so nothing could be told")
    else:
        yield judged(same, "a stream of its own", f"drawn while the usual one was busy, with its bits: {same}")


def nothing(place: Place) -> Iterator[Finding]:
    """No Gaussians, and none in sight: an empty picture, gradients of zero."""
    leaves, rest, target = splats.scene(60, 40, 1, str(place.device))
    nobody = [leaf.detach()[:0].requires_grad_() for leaf in leaves]
    away = [(leaves[0].detach() + 1e4).requires_grad_(), *leaves[1:]]
    for name, given in (("no Gaussians", nobody), ("none in sight", away)):
        color, alpha, depth, *gradients = drawn(given, rest, target)
        empty = not alpha.any() and not depth.any() and bool((color == 1).all())
        still = not any(gradient.any() for gradient in gradients)
        yield judged(empty and still, name, f"the picture is the background: {empty}, gradients are 0: {still}")


def batch(place: Place) -> Iterator[Finding]:
    """Two cameras in one call against each alone."""
    n, size = place.either((5000, 128), (120, 40))
    leaves, rest, target = splats.scene(n, size, 2, str(place.device))
    both = drawn(leaves, rest, target)
    alone = [drawn(leaves, {**rest, "viewmats": rest["viewmats"][c, None], "Ks": rest["Ks"][c, None]}, target[c, None]) for c in range(2)]
    pictures = [torch.cat(parts) for parts in zip(*(part[:3] for part in alone), strict=True)]
    leaves_end = 3 + len(leaves)
    gradients = [(a + b) / 2 for a, b in zip(*(part[3:leaves_end] for part in alone), strict=True)]
    same, error = same_bits(both[:3], pictures), largest_error(both[3:leaves_end], gradients)
    words = f"each picture is its camera's alone to the bit: {same}; gradients are their sum within {error:.1e}"
    yield judged(same and error <= ALONE_GRADIENTS, "two cameras at once", words)


def allocator(place: Place) -> Iterator[Finding]:
    """With cudaMallocAsync, ComfyUI's choice on many cards: a scene against the oracle, bits, thread and stream again."""
    name = torch.cuda.get_allocator_backend()
    torch.zeros(1, device=place.device)
    yield judged(name == "cudaMallocAsync", "allocator", name)
    again = [against(Oracle(*SCENES[3], device=place.device), "oracle")]
    for check in (bits, thread, stream, batch):
        again += check(place)
    yield from (replace(finding, name=f"cudaMallocAsync: {finding.name}") for finding in again)
