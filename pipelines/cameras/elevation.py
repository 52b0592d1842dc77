"""The one elevation at which an orbit of pictures was taken: azimuths, distance and lens are known, how far it looks down is not.

IM-3D's generator draws sixteen frames at an elevation of its own choice, so that has to be found before anything is fitted
(arXiv 2402.08682, appendix A.1). Two ways, and both together:

- silhouettes: the elevation at which the masks agree best on one visual hull. Needs no network. A solid of revolution looks
  the same from all azimuths and fits many elevations; the estimate then says so.
- learned: the paper's head, on the features of the mini reconstruction model. Coarse, but not confused by symmetry.
- auto: what the silhouettes leave open, the learned estimate decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.cameras import Cameras
from ..data.progress import Tick, no_tick, part_of
from ..data.views import count_assets, match_cameras, squeezed
from ..nets.elevation_head import ElevationNet, frame_pictures, spread_frames
from ..ops import camera_math
from ..ops.silhouette_contours.dispatch import rim_misses
from ..ops.silhouette_contours.torch_form import find_rim
from ..ops.square_pictures import square_views

log = logging.getLogger(__name__)

METHODS = ("auto", "silhouettes", "learned")
LOWEST, HIGHEST = -20.0, 70.0
WORKING_SIZE = 128  # longer side, in pixels, at which silhouettes are compared
RIM_RAYS = 600
RAY_SAMPLES = 64
WORST_MISS = 8.0  # in working pixels
COARSE, FINE, GRID = 4.0, 1.0, 0.1  # steps in degrees: the search, its refinement, and the curve that is averaged
NOISE = 0.04
"""Working pixels of mean miss by which elevations of equal worth differ; on 60 training objects it makes `deviation` true to size."""
FLAT = 3 * NOISE  # a curve that rises by less has its least value anywhere
LEAST_RANGE = 1.0  # degrees
DISAGREEMENT = 3.0  # working pixels of mean miss above which the masks fit no elevation; views that wander by 1 % of the picture stay below
GUESS = 45 / math.sqrt(12)  # deviation, in degrees, of a guess between 0 and 45
SURE = 4.0
POLE = 89.9
TOLERANCE = 0.02  # how far a pose may lie from its orbit, as a share of the distance and in axes


@dataclass(frozen=True)
class ElevationEstimate:
    """What is known of one asset's elevation. Angles in degrees.

    Attributes:
        elevation: the mean of the elevations that remain likely.
        deviation: their standard deviation.
        elevations: (n,) those tried, growing.
        misses: (n,) by how much the rays of the silhouettes' rims miss the hull there, as a share of the picture's longer side; None
            without silhouettes.
        learned: the learned estimate, where there is one.
    """

    elevation: float
    deviation: float
    elevations: Tensor
    misses: Tensor | None
    learned: float | None = None

    @property
    def confidence(self) -> float:
        """1: exact; 0: no better than a guess between 0 and 45 degrees, or cut off by the end of the range."""
        return 0.0 if self.at_end else max(0.0, 1 - self.deviation / GUESS)

    @property
    def sure(self) -> bool:
        """Whether the estimate is good to a few degrees."""
        return not self.at_end and self.deviation <= SURE

    @property
    def at_end(self) -> bool:
        """Whether the silhouettes agree best at the first or last elevation tried, so that the true one may lie beyond. None is beyond
        a pole."""
        if self.misses is None or float(self.misses.max() - self.misses.min()) * WORKING_SIZE < FLAT:
            return False
        best = int(self.misses.argmin())
        return best in (0, len(self.misses) - 1) and abs(float(self.elevations[best])) < 90


@dataclass(frozen=True)
class Orbit:
    """V cameras that share one elevation. `azimuths` (V,) degrees and `radii` (V,) are float64."""

    azimuths: Tensor
    radii: Tensor
    K: Tensor
    names: tuple[str, ...]

    def at(self, elevation: float) -> Cameras:
        """The cameras at this elevation in degrees."""
        c2w = camera_math.orbit(self.azimuths, torch.full_like(self.azimuths, elevation), self.radii)
        return Cameras(c2w, self.K, self.names)

    def select(self, views: Sequence[int]) -> Orbit:
        """Some of the views."""
        rows = list(views)
        return Orbit(self.azimuths[rows], self.radii[rows], self.K[rows], tuple(self.names[i] for i in rows))


def read_orbit(cameras: Cameras) -> Orbit:
    """The orbit on which the V cameras of one asset stand; their elevation is forgotten.

    Raises:
        ValueError: they do not look at the origin with +Y up, or not all from one elevation, or from a pole.
    """
    c2w = cameras.c2w.double()
    azimuths = torch.rad2deg(torch.atan2(-c2w[:, 2, 0], c2w[:, 0, 0]))
    radii = c2w[:, :3, 3].norm(dim=1)
    elevations = torch.rad2deg(torch.asin((c2w[:, 1, 3] / radii.clamp_min(1e-9)).clamp(-1, 1)))
    scale = torch.ones(len(c2w), 1, 4, dtype=torch.float64)
    scale[:, 0, 3] = radii.clamp_min(1e-9)
    expected = camera_math.orbit(azimuths, elevations, radii.clamp_min(1e-9)).double()
    off = ((c2w - expected)[:, :3] / scale).abs().amax((1, 2))
    if bool((radii < 1e-6).any()) or float(off.max()) > TOLERANCE:
        raise ValueError(
            f"View {int(off.argmax())} ({cameras.names[int(off.argmax())]}) does not look at the origin with +Y up: these cameras are no "
            "orbit. Estimate Elevation needs cameras around the object at one elevation, such as Orbit Cameras or a preset like im3d_orbit."
        )
    if float(elevations.abs().max()) > POLE:
        raise ValueError(
            "The cameras look straight down or up, so their azimuths are not known: give the orbit any other elevation, for example 0."
        )
    if float(elevations.max() - elevations.min()) > 1.0:
        raise ValueError(
            f"The cameras stand at elevations from {float(elevations.min()):.0f} to {float(elevations.max()):.0f} degrees, so they are no "
            "orbit of one unknown elevation. Choose the views of one height with Select Views."
        )
    return Orbit(azimuths, radii, cameras.K, cameras.names)


def estimate_elevation(
    images: Tensor,
    masks: Tensor,
    cameras: Cameras,
    *,
    method: str = "auto",
    net: ElevationNet | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    tick: Tick = no_tick,
) -> list[ElevationEstimate]:
    """The elevation of each of B assets; B assets give what B single calls give.

    Args:
        images: (B*V, 3, H, W) in [0, 1]; looked at by "learned" and "auto" only.
        masks: (B*V, 1, H, W), 1 = object.
        cameras: orbits whose elevation does not matter.
        method: one of METHODS.
        net: the learned estimator, for "learned" and "auto".
        lowest, highest: degrees between which the silhouettes' elevation is looked for.

    Raises:
        ValueError: frames, masks and cameras that do not match, no orbit, too few views with an object, a range under LEAST_RANGE.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    if not -90 <= lowest < highest <= 90:
        raise ValueError(f"Elevations are looked for between {lowest:g} and {highest:g} degrees; the first must be lower, both within 90.")
    if highest - lowest < LEAST_RANGE:
        raise ValueError(
            f"Between {lowest:g} and {highest:g} degrees there is nothing to look for: lowest and highest must be at least "
            f"{LEAST_RANGE:g} degree apart. An elevation that is known needs no estimate: set it in the cameras."
        )
    if method != "silhouettes" and net is None:
        raise ValueError(f"The method {method!r} needs the learned estimator.")
    n_assets = check_frames(images, masks, cameras)
    views, cameras = cameras.n_views, match_cameras(cameras, *images.shape[2:], stage="Estimate Elevation")
    orbits = [read_orbit(cameras.of_asset(asset)) for asset in range(n_assets)]
    shown = [_views_with_object(masks[asset * views :][:views], orbits[asset], asset) for asset in range(n_assets)]
    found = []
    for asset, (orbit, kept) in enumerate(zip(orbits, shown, strict=True)):
        rows = [asset * views + view for view in kept]
        own, own_tick = orbit.select(kept), part_of(tick, asset, n_assets)
        own_masks = masks[rows].cpu().float()
        learned = None
        if method != "silhouettes" and net is not None:
            learned = learned_elevation(net, images[rows].cpu().float(), own_masks, own)
        if method == "learned":
            assert learned is not None
            found.append(learned)
            own_tick(1, 1)
            continue
        estimate = elevation_from_silhouettes(own_masks, own, lowest, highest, own_tick)
        found.append(estimate if learned is None else with_learned(estimate, learned))
    return found


def check_frames(images: Tensor, masks: Tensor, cameras: Cameras) -> int:
    """The number of assets. Raises ValueError where frames, masks and cameras do not match or hold no numbers."""
    if images.ndim != 4 or images.shape[1] != 3 or masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"Images (N, 3, H, W) and masks (N, 1, H, W) of the same number and size are needed, not {tuple(images.shape)} and "
            f"{tuple(masks.shape)}: wire the masks of these images."
        )
    if not (torch.isfinite(images).all() and torch.isfinite(masks).all()):
        raise ValueError("The images or masks hold NaN or infinite numbers: a node before this one failed. Look at its output.")
    return count_assets(len(images), cameras)


def _views_with_object(masks: Tensor, orbit: Orbit, asset: int) -> list[int]:
    """The views of an asset whose masks are not empty."""
    inside = (masks > 0.5).flatten(1)
    kept = [view for view in range(len(masks)) if inside[view].any()]
    if not kept:
        raise ValueError(f"All {len(masks)} masks of asset {asset + 1} are empty: 1 marks the object (invert a transparency mask).")
    azimuths = torch.deg2rad(orbit.azimuths[kept])
    apart = torch.stack([azimuths.cos(), azimuths.sin()], 1)
    if len(kept) < 2 or float((apart - apart[:1]).abs().max()) < 0.02:
        raise ValueError(
            f"Asset {asset + 1} shows its object from {len(kept)} view(s) of one side only: an elevation needs views from at least two "
            "sides, better eight or more around the object."
        )
    if bool(inside[kept].all()):
        raise ValueError(f"The masks of asset {asset + 1} cover the whole pictures: give masks that mark the object alone (Mask Views).")
    if len(kept) < len(masks):
        log.warning("Estimate Elevation: %d of %d masks of asset %d are empty and left out.", len(masks) - len(kept), len(masks), asset + 1)
    return kept


def learned_elevation(net: ElevationNet, images: Tensor, masks: Tensor, orbit: Orbit) -> ElevationEstimate:
    """The learned estimate of one asset (IM-3D, appendix A.1), from four frames spread over the orbit.

    Args:
        images, masks: (V, 3, H, W) and (V, 1, H, W).
    """
    chosen = spread_frames(orbit.azimuths)
    views, K = torch.cat([images[chosen], masks[chosen]], dim=1), orbit.K[chosen]
    if bool(squeezed((K[:, 0] * images.shape[3]) / (K[:, 1] * images.shape[2])).any()):
        views, K = square_views(views, K, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    pictures = frame_pictures(views[:, :3], views[:, 3:], K[:, 2:], net.view_size)
    with torch.no_grad():
        degrees = float(torch.rad2deg(net(pictures[None].to(net.place)))[0])
    return ElevationEstimate(degrees, net.deviation, torch.tensor([degrees], dtype=torch.float64), None, degrees)


def with_learned(estimate: ElevationEstimate, learned: ElevationEstimate) -> ElevationEstimate:
    """An estimate from silhouettes, with the learned one taken as what is known beforehand (a normal density)."""
    assert estimate.misses is not None
    energies = estimate.misses * WORKING_SIZE / NOISE
    mean, deviation = _average(estimate.elevations, energies, (learned.elevation, learned.deviation))
    return ElevationEstimate(mean, deviation, estimate.elevations, estimate.misses, learned.elevation)


def silhouette_misses(masks: Tensor, orbit: Orbit) -> Callable[[float], float]:
    """A function of the elevation in degrees: by how many working pixels the rim rays miss, on average, with the orbit there.

    Args:
        masks: (V, 1, H, W), none of them empty.
    """
    height, width = masks.shape[2:]
    factor = WORKING_SIZE / max(height, width)
    size = (max(round(height * factor), 2), max(round(width * factor), 2))
    rim = find_rim(interpolate(masks, size, mode="bilinear", antialias=True), RIM_RAYS)
    if len(rim.view) == 0:  # nothing but the picture's border ends the object
        return lambda elevation: 0.0
    K, radii = orbit.K.double()[rim.view], orbit.radii[rim.view]
    across = ((rim.place - K[:, 2:]) / K[:, :2]).norm(dim=1) * radii
    # what is wide from one side is deep from another; a quarter more for views that do not go all around
    reach = min(1.25 * float(across.max()), 0.95 * float(orbit.radii.min()))
    return lambda elevation: float(rim_misses(rim, orbit.at(elevation), reach, RAY_SAMPLES, WORST_MISS).mean())


def elevation_from_silhouettes(
    masks: Tensor, orbit: Orbit, lowest: float = LOWEST, highest: float = HIGHEST, tick: Tick = no_tick
) -> ElevationEstimate:
    """The elevation of one asset at which its silhouettes agree best on one visual hull.

    The mean miss is found on a coarse grid, on a fine one around its least value, and at the vertex of the parabola there. As elevations
    of equal worth differ by NOISE, exp(-miss / NOISE) is how likely each is; mean and deviation of that density are the estimate.

    Args:
        masks: (V, 1, H, W), none of them empty.
        lowest, highest: degrees between which to look.
    """
    miss_at = silhouette_misses(masks, orbit)
    count = max(math.ceil((highest - lowest) / COARSE), 2)
    around = round(COARSE / FINE)
    total = count + 2 * around + 2
    tried: list[float] = []
    misses: list[float] = []

    def attempt(elevation: float) -> None:
        if lowest <= elevation <= highest and all(abs(elevation - other) > GRID / 2 for other in tried):
            misses.append(miss_at(elevation))
            tried.append(elevation)
            tick(len(tried), total)

    for i in range(count + 1):
        attempt(lowest + (highest - lowest) * i / count)
    best = tried[misses.index(min(misses))]
    for i in range(-around, around + 1):
        attempt(best + FINE * i)
    attempt(parabola_vertex(tried, misses))
    tick(total, total)
    order = sorted(range(len(tried)), key=tried.__getitem__)
    elevations = torch.tensor([tried[i] for i in order], dtype=torch.float64)
    curve = torch.tensor([misses[i] for i in order], dtype=torch.float64)
    mean, deviation = _average(elevations, curve / NOISE, None)
    return ElevationEstimate(mean, deviation, elevations, curve / WORKING_SIZE)


def parabola_vertex(places: Sequence[float], values: Sequence[float]) -> float:
    """Where the parabola through the least value and its two neighbours is least; the place itself where it has no two."""
    pairs = sorted(zip(places, values, strict=True))
    i = min(range(len(pairs)), key=lambda k: pairs[k][1])
    if not 0 < i < len(pairs) - 1:
        return pairs[i][0]
    (x0, y0), (x1, y1), (x2, y2) = pairs[i - 1 : i + 2]
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if abs(left - right) < 1e-12:  # all three are equal
        return x1
    return x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)


def _average(elevations: Tensor, energies: Tensor, belief: tuple[float, float] | None) -> tuple[float, float]:
    """Mean and standard deviation of the density exp(-energy), linear between the elevations, times the belief's normal density."""
    import numpy as np

    low, high = float(elevations[0]), float(elevations[-1])
    grid = np.linspace(low, high, round((high - low) / GRID) + 1)
    energy = np.interp(grid, elevations.numpy(), energies.numpy())
    if belief is not None:
        energy = energy + 0.5 * ((grid - belief[0]) / belief[1]) ** 2
    weight = np.exp(energy.min() - energy)
    weight /= weight.sum()
    mean = float((weight * grid).sum())
    return mean, math.sqrt(float((weight * (grid - mean) ** 2).sum()))


def describe(estimate: ElevationEstimate) -> str | None:
    """What a user should be told about this estimate; None where it is good."""
    if estimate.misses is not None and float(estimate.misses.min()) * WORKING_SIZE > DISAGREEMENT:
        return (
            "the masks agree well at no elevation: look at the masks, and whether the cameras' azimuths (direction of the turn), distance "
            "and field of view are those of the pictures"
        )
    if estimate.at_end:
        assert estimate.misses is not None
        first, last = float(estimate.elevations[0]), float(estimate.elevations[-1])
        remedy = f"lower `lowest` below {first:g}" if int(estimate.misses.argmin()) == 0 else f"raise `highest` above {last:g}"
        return f"the masks agree best at the end of the range, so the true elevation may lie beyond it: {remedy}"
    if not estimate.sure:
        if estimate.misses is None:
            return f"a learned estimate is good to about {estimate.deviation:.0f} degrees"
        return (
            f"the masks cannot tell the elevation to better than about {estimate.deviation:.0f} degrees: the object looks alike from all "
            "sides, or is small in its pictures. If you know the elevation, set it in the cameras instead"
        )
    return None


def pose(cameras: Cameras, estimates: Sequence[ElevationEstimate]) -> Cameras:
    """The orbits at the estimated elevations: (V, 4, 4) for one asset, (B, V, 4, 4) for more."""
    posed = [read_orbit(cameras.of_asset(asset)).at(estimate.elevation) for asset, estimate in enumerate(estimates)]
    azimuths = torch.rad2deg(torch.atan2(-posed[0].c2w[:, 2, 0].double(), posed[0].c2w[:, 0, 0].double())) % 360
    if len(posed) == 1:
        names = tuple(f"azimuth {float(a):.4g}, elevation {estimates[0].elevation:.1f}" for a in azimuths)
        return Cameras(posed[0].c2w, posed[0].K, names)
    names = tuple(f"azimuth {float(a):.4g}, elevation of each asset" for a in azimuths)
    return Cameras(torch.stack([c.c2w for c in posed]), torch.stack([c.K for c in posed]), names)
