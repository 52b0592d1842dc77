"""Priors without weights, for benchmarks and tests: denoisers that know the object and guess its true view behind the noise.

The 3D oracle is told the pose as Zero-1-to-3 is, rebuilds the camera from it, and answers with the true view from there. The 2D oracle is
told the view word of the prompt and answers with the view that word stands for, wherever the camera is. Both are asked through the same
score distillation as real models: what they return is noised and weighted as theirs would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..pipelines.cameras.orbits import posed_cameras
from ..pipelines.data.cameras import Cameras
from ..pipelines.distillation.prior_settings import load_prior_preset
from ..pipelines.distillation.priors import ScoreDistillation
from ..pipelines.ops.camera_math import relative_pose
from ..training.object_raster import build_atlas, render_samples
from ..training.objects import RenderObject
from . import noise_schedule

PRESET = "threestudio"  # weights and noise levels
RADIUS, FOV = 1.8, 40.0  # of the reference view, Magic123's
OBJECT_RADIUS = 0.6  # of the farthest vertex: what a camera there sees whole (1.8 sin 20 degrees is 0.616)
WORDS = {"front": (0.0, 0.0), "side": (90.0, 0.0), "back": (180.0, 0.0), "overhead": (0.0, 75.0)}
"""Azimuth and elevation in degrees that a view word stands for. A prompt does not tell one side from the other."""
Watch = Callable[[], Cameras | None]
"""Gives the cameras that the loop rendered last."""


class TrueViews:
    """Pictures of a library object that stands where Magic123's reference camera sees it whole.

    Attributes:
        scale: world units of the object's own unit: its surface times this lies in the loop's world.
    """

    def __init__(self, obj: RenderObject) -> None:
        self.obj, self.atlas = obj, build_atlas(obj)
        self.scale = OBJECT_RADIUS / float(np.linalg.norm(obj.vertices, axis=1).max())

    def render(self, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
        """Pictures (V, 3, size, size) on white and masks (V, 1, size, size) from cameras of the loop's world."""
        views = []
        for pose, lens in zip(cameras.c2w, cameras.K, strict=True):
            own = pose.clone()
            own[:3, 3] /= self.scale
            samples = render_samples(self.obj, self.atlas, own.numpy(), float(lens[0]), 2 * size, True)
            hit = torch.from_numpy(samples.depth > 0).float()[None]
            views.append(torch.cat([torch.from_numpy(samples.color).movedim(-1, 0) * hit + (1 - hit), hit]))
        pictures = torch.nn.functional.avg_pool2d(torch.stack(views), 2)
        return pictures[:, :3], pictures[:, 3:]


class Oracle:
    """A denoiser of pictures whose guess is a true view; see `priors.Denoiser`.

    Args:
        truth: the object.  size: side of the pictures it sees.
        words: whether it is told a view word instead of the pose.
        watch: what rendered; the pose that arrives is held against it at every call.

    Attributes:
        checked: how many views it judged whose pose was held against what rendered.
    """

    one_time = False

    def __init__(self, truth: TrueViews, size: int, words: bool = False, watch: Watch | None = None) -> None:
        self.truth, self.size, self.words, self.watch = truth, (size, size), words, watch
        self.checked = 0
        self._known: dict[str, Tensor] = {}

    def encode(self, images: Tensor) -> Tensor:
        """Pictures in [-1, 1]."""
        return images * 2 - 1

    def noise_ratio(self, times: Tensor) -> Tensor:
        """Of Stable Diffusion's schedule."""
        return noise_schedule.noise_ratio(times)

    def denoised(self, latents: Tensor, times: Tensor, noise: Tensor, cameras: Cameras, guidance: float) -> Tensor:
        """The true views, as a network that predicts noise would have found them."""
        ratio = self.noise_ratio(times).view(-1, 1, 1, 1).to(latents)
        signal = (1 + ratio**2).rsqrt()
        noised = signal * (latents + ratio * noise)
        truth = self.encode(torch.stack([self._view(cameras.select([i])) for i in range(cameras.n_views)])).to(latents)
        predicted_noise = (noised - signal * truth) / (signal * ratio)
        return (noised - signal * ratio * predicted_noise) / signal

    def picture(self, latents: Tensor) -> Tensor:
        """What it sees."""
        return ((latents + 1) / 2).clamp(0, 1)

    def _view(self, camera: Cameras) -> Tensor:
        if self.words:
            return self._view_of_word(camera)
        rebuilt = camera_of_pose(*relative_pose(camera.c2w, elevation=0.0, radius=RADIUS))
        self._check(rebuilt)
        return self.truth.render(rebuilt, self.size[0])[0][0]

    def _view_of_word(self, camera: Cameras) -> Tensor:
        self._check(camera)
        word = view_word(camera)
        if word not in self._known:
            around, above = WORDS[word]
            self._known[word] = self.truth.render(posed_cameras([around], [above], RADIUS, FOV), self.size[0])[0][0]
        return self._known[word]

    def _check(self, told: Cameras) -> None:
        """Whether the pose that arrived is one of those that rendered.

        Raises:
            AssertionError: it is not, or nothing rendered.
        """
        if self.watch is None:
            return
        rendered = self.watch()
        assert rendered is not None, "The prior was asked before anything rendered."
        off = (rendered.c2w - told.c2w).abs().flatten(1).amax(1).min()
        assert float(off) < 1e-3, f"The prior was told a pose that differs from the camera that rendered by {float(off):.4f}."
        self.checked += 1


def camera_of_pose(polar: Tensor, azimuth: Tensor, distance: Tensor) -> Cameras:
    """The camera that Zero-1-to-3's relative pose means: polar angle and distance minus the reference's, azimuth; radians, one each."""
    return posed_cameras([math.degrees(float(azimuth))], [-math.degrees(float(polar))], RADIUS + float(distance), FOV)


def view_word(camera: Cameras) -> str:
    """The word that Prior From Model puts into the prompt of a view."""
    polar, azimuth, _ = (math.degrees(float(part)) for part in relative_pose(camera.c2w))
    if -polar > 60:
        return "overhead"
    return "front" if abs(azimuth) <= 45 else "back" if abs(azimuth) >= 135 else "side"


def oracle_prior(truth: TrueViews, size: int, *, words: bool = False, watch: Watch | None = None) -> ScoreDistillation:
    """An oracle behind score distillation."""
    return ScoreDistillation(Oracle(truth, size, words, watch), load_prior_preset(PRESET).settings["2d" if words else "3d"])
