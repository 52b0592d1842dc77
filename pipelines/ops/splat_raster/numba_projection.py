"""`projection.project` as one forward and one backward loop over Gaussians, compiled by numba.

Scalars are float64: nothing here becomes SIMD, and long thin Gaussians lose half of float32's digits in the inverse of their covariance.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numba_jit import for_each, jit_fast
from .projection import ALPHA_MIN, FRUSTUM_MARGIN

GAUSSIANS_AT_ONCE = 1 << 12
LOG_ALPHA_MIN = log(ALPHA_MIN)
LEAST_SHARPNESS = 1e-6
RADIUS_MAX = 2.0**24


class Lens(NamedTuple):
    """What all cameras share. Kernels get it as a plain tuple: cached code must not name a class of this package (see numba_jit)."""

    width: int
    height: int
    near: float
    far: float
    eps2d: float
    antialiased: bool


@jit_fast
def axes(quat, scale, turn, out):  # type: ignore[no-untyped-def]
    """Rotation matrix of a quaternion into turn (3, 3), and the same with scaled columns into out; returns 1 / |quaternion|."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    inverse = 1.0 / max(sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    turn[0, 0], turn[0, 1], turn[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    turn[1, 0], turn[1, 1], turn[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    turn[2, 0], turn[2, 1], turn[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for i in range(3):
        for j in range(3):
            out[i, j] = turn[i, j] * scale[j]
    return inverse


@jit_fast
def limits(K, width, height):  # type: ignore[no-untyped-def]
    """Least and greatest x / z and y / z at which the Jacobian is taken."""
    mx, my = FRUSTUM_MARGIN * 0.5 * width / K[0, 0], FRUSTUM_MARGIN * 0.5 * height / K[1, 1]
    return -K[0, 2] / K[0, 0] - mx, (width - K[0, 2]) / K[0, 0] + mx, -K[1, 2] / K[1, 1] - my, (height - K[1, 2]) / K[1, 1] + my


@jit_fast
def screen_axes(view, K, sx, sy, z, scaled, rows, out):  # type: ignore[no-untyped-def]
    """Rows of Jacobian times view rotation into rows (2, 3), their products with the Gaussian's scaled axes into out (2, 3)."""
    kx, ky = K[0, 0] / z, K[1, 1] / z
    for i in range(3):
        rows[0, i] = kx * (view[0, i] - sx * view[2, i])
        rows[1, i] = ky * (view[1, i] - sy * view[2, i])
    for j in range(3):
        out[0, j] = rows[0, 0] * scaled[0, j] + rows[0, 1] * scaled[1, j] + rows[0, 2] * scaled[2, j]
        out[1, j] = rows[1, 0] * scaled[0, j] + rows[1, 1] * scaled[1, j] + rows[1, 2] * scaled[2, j]


@jit_fast
def forward(g0, g1, means, quats, scales, opacities, views, Ks, lens, means2d, shapes, extents, radii):  # type: ignore[no-untyped-def]
    """Gaussians g0 to g1 on every screen: centres, (conic xx, xy, yy, opacity, depth), half sizes, and these rounded up."""
    width, height, near, far, eps2d, antialiased = lens
    turn, scaled = np.empty((3, 3)), np.empty((3, 3))
    rows, u = np.empty((2, 3)), np.empty((2, 3))
    for g in range(g0, g1):
        axes(quats[g], scales[g], turn, scaled)
        x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
        opacity = np.float64(opacities[g])
        for c in range(len(views)):
            view, K = views[c], Ks[c]
            depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            shapes[c, g, 4] = depth
            extents[c, g, 0], extents[c, g, 1], radii[c, g, 0], radii[c, g, 1] = 0, 0, 0, 0
            if not (depth > near and depth < far):
                means2d[c, g, 0], means2d[c, g, 1] = K[0, 2], K[1, 2]
                shapes[c, g, 0], shapes[c, g, 1], shapes[c, g, 2], shapes[c, g, 3] = 1, 0, 1, opacity
                continue
            sx = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / depth
            sy = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / depth
            px, py = K[0, 0] * sx + K[0, 2], K[1, 1] * sy + K[1, 2]
            x0, x1, y0, y1 = limits(K, width, height)
            screen_axes(view, K, min(max(sx, x0), x1), min(max(sy, y0), y1), depth, scaled, rows, u)
            xx = u[0, 0] * u[0, 0] + u[0, 1] * u[0, 1] + u[0, 2] * u[0, 2]
            yy = u[1, 0] * u[1, 0] + u[1, 1] * u[1, 1] + u[1, 2] * u[1, 2]
            xy = u[0, 0] * u[1, 0] + u[0, 1] * u[1, 1] + u[0, 2] * u[1, 2]
            sharp = xx * yy - xy * xy
            xx, yy = xx + eps2d, yy + eps2d
            determinant = xx * yy - xy * xy
            drawable = determinant > 0
            inverse = 1.0 / (determinant if drawable else 1.0)
            shown = opacity
            if antialiased:
                shown *= sqrt(max(sharp * inverse, LEAST_SHARPNESS))
            means2d[c, g, 0], means2d[c, g, 1] = px, py
            shapes[c, g, 0], shapes[c, g, 1], shapes[c, g, 2], shapes[c, g, 3] = yy * inverse, -xy * inverse, xx * inverse, shown
            reach = 2 * (log(max(shown, 1e-12)) - LOG_ALPHA_MIN)
            if drawable and reach > 0:
                ex, ey = sqrt(reach * xx), sqrt(reach * yy)
                if px + ex > 0 and px - ex < width and py + ey > 0 and py - ey < height:
                    extents[c, g, 0], extents[c, g, 1] = ex, ey
                    radii[c, g, 0], radii[c, g, 1] = np.int32(min(np.ceil(ex), RADIUS_MAX)), np.int32(min(np.ceil(ey), RADIUS_MAX))


@jit_fast
def backward(  # type: ignore[no-untyped-def]
    g0, g1, means, quats, scales, opacities, views, Ks, lens, radii, g_means2d, g_shapes, g_means, g_quats, g_scales, g_opacities
):
    """Gradients of the world's Gaussians from those on the screens, summed over cameras in their order."""
    width, height, _, _, eps2d, antialiased = lens
    turn, scaled, g_scaled = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    rows, u, g_u, g_rows = np.empty((2, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty((2, 3))
    for g in range(g0, g1):
        inverse_length = axes(quats[g], scales[g], turn, scaled)
        x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
        g_scaled[:] = 0
        g_x, g_y, g_z, g_opacity = 0.0, 0.0, 0.0, 0.0
        for c in range(len(views)):
            if radii[c, g, 0] == 0:
                continue
            view, K = views[c], Ks[c]
            depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            sx = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / depth
            sy = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / depth
            x0, x1, y0, y1 = limits(K, width, height)
            cx, cy = min(max(sx, x0), x1), min(max(sy, y0), y1)
            screen_axes(view, K, cx, cy, depth, scaled, rows, u)
            xx = u[0, 0] * u[0, 0] + u[0, 1] * u[0, 1] + u[0, 2] * u[0, 2]
            yy = u[1, 0] * u[1, 0] + u[1, 1] * u[1, 1] + u[1, 2] * u[1, 2]
            xy = u[0, 0] * u[1, 0] + u[0, 1] * u[1, 1] + u[0, 2] * u[1, 2]
            bx, by = xx + eps2d, yy + eps2d
            inverse = 1.0 / (bx * by - xy * xy)

            # The conic is the inverse of the covariance: dK = -K dS K.
            a, b, d = by * inverse, -xy * inverse, bx * inverse
            ga, gb, gd = g_shapes[c, g, 0], 0.5 * g_shapes[c, g, 1], g_shapes[c, g, 2]
            l00, l01, l10, l11 = a * ga + b * gb, a * gb + b * gd, b * ga + d * gb, b * gb + d * gd
            g_xx, g_xy, g_yy = -(l00 * a + l01 * b), -2.0 * (l00 * b + l01 * d), -(l10 * b + l11 * d)
            g_shown = g_shapes[c, g, 3]
            if antialiased:
                sharpness = (xx * yy - xy * xy) * inverse
                factor = sqrt(max(sharpness, LEAST_SHARPNESS))
                g_opacity += g_shown * factor
                if sharpness > LEAST_SHARPNESS:
                    share = g_shown * opacities[g] * 0.5 / factor * inverse
                    g_xx += share * (yy - sharpness * by)
                    g_yy += share * (xx - sharpness * bx)
                    g_xy += share * 2.0 * xy * (sharpness - 1.0)
            else:
                g_opacity += g_shown

            for j in range(3):
                g_u[0, j] = 2.0 * g_xx * u[0, j] + g_xy * u[1, j]
                g_u[1, j] = 2.0 * g_yy * u[1, j] + g_xy * u[0, j]
            for r in range(2):
                for i in range(3):
                    g_rows[r, i] = g_u[r, 0] * scaled[i, 0] + g_u[r, 1] * scaled[i, 1] + g_u[r, 2] * scaled[i, 2]
            for i in range(3):
                for j in range(3):
                    g_scaled[i, j] += rows[0, i] * g_u[0, j] + rows[1, i] * g_u[1, j]
            along_0, along_1, away_0, away_1 = 0.0, 0.0, 0.0, 0.0
            for i in range(3):
                along_0 += g_rows[0, i] * rows[0, i]
                along_1 += g_rows[1, i] * rows[1, i]
                away_0 += g_rows[0, i] * view[2, i]
                away_1 += g_rows[1, i] * view[2, i]
            kx, ky = K[0, 0] / depth, K[1, 1] / depth
            g_sx = K[0, 0] * g_means2d[c, g, 0] - (kx * away_0 if sx >= x0 and sx <= x1 else 0.0)
            g_sy = K[1, 1] * g_means2d[c, g, 1] - (ky * away_1 if sy >= y0 and sy <= y1 else 0.0)
            g_depth = g_shapes[c, g, 4] - (along_0 + along_1 + g_sx * sx + g_sy * sy) / depth
            g_sx, g_sy = g_sx / depth, g_sy / depth
            g_x += view[0, 0] * g_sx + view[1, 0] * g_sy + view[2, 0] * g_depth
            g_y += view[0, 1] * g_sx + view[1, 1] * g_sy + view[2, 1] * g_depth
            g_z += view[0, 2] * g_sx + view[1, 2] * g_sy + view[2, 2] * g_depth
        g_means[g, 0], g_means[g, 1], g_means[g, 2], g_opacities[g] = g_x, g_y, g_z, g_opacity

        for j in range(3):
            g_scales[g, j] = turn[0, j] * g_scaled[0, j] + turn[1, j] * g_scaled[1, j] + turn[2, j] * g_scaled[2, j]
            for i in range(3):
                g_scaled[i, j] *= scales[g, j]
        t = g_scaled
        qw, qx = quats[g, 0] * inverse_length, quats[g, 1] * inverse_length
        qy, qz = quats[g, 2] * inverse_length, quats[g, 3] * inverse_length
        gw = 2 * (qx * (t[2, 1] - t[1, 2]) + qy * (t[0, 2] - t[2, 0]) + qz * (t[1, 0] - t[0, 1]))
        gx = 2 * (qy * (t[0, 1] + t[1, 0]) + qz * (t[0, 2] + t[2, 0]) + qw * (t[2, 1] - t[1, 2]) - 2 * qx * (t[1, 1] + t[2, 2]))
        gy = 2 * (qx * (t[0, 1] + t[1, 0]) + qz * (t[1, 2] + t[2, 1]) + qw * (t[0, 2] - t[2, 0]) - 2 * qy * (t[0, 0] + t[2, 2]))
        gz = 2 * (qx * (t[0, 2] + t[2, 0]) + qy * (t[1, 2] + t[2, 1]) + qw * (t[1, 0] - t[0, 1]) - 2 * qz * (t[0, 0] + t[1, 1]))
        along = qw * gw + qx * gx + qy * gy + qz * gz
        g_quats[g, 0], g_quats[g, 1] = (gw - qw * along) * inverse_length, (gx - qx * along) * inverse_length
        g_quats[g, 2], g_quats[g, 3] = (gy - qy * along) * inverse_length, (gz - qz * along) * inverse_length


def array(tensor: Tensor, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """The numbers of a tensor of any device, contiguous."""
    return tensor.detach().to("cpu", dtype).contiguous().numpy()


class Project(torch.autograd.Function):
    """means2d (C, N, 2), shapes (C, N, 5) of conic, opacity and depth, and the constants extents (C, N, 2) and radii (C, N, 2)."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor,
                lens: Lens) -> tuple[Tensor, ...]:  # fmt: skip
        world = [array(t) for t in (means, quats, scales, opacities)]
        cameras = [array(t, torch.float64) for t in (viewmats, Ks)]
        views, n = len(viewmats), len(means)
        screen = [np.empty((views, n, width), np.float32) for width in (2, 5, 2)] + [np.empty((views, n, 2), np.int32)]

        def work(chunk: int) -> None:
            forward(chunk * GAUSSIANS_AT_ONCE, min((chunk + 1) * GAUSSIANS_AT_ONCE, n), *world, *cameras, tuple(lens), *screen)

        for_each(work, -(-n // GAUSSIANS_AT_ONCE))
        ctx.cameras, ctx.lens, ctx.radii = cameras, lens, screen[3]
        ctx.save_for_backward(means, quats, scales, opacities)
        means2d, shapes, extents, radii = (torch.from_numpy(part).to(means.device) for part in screen)
        ctx.mark_non_differentiable(extents, radii)
        return means2d, shapes, extents, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means2d: Tensor, g_shapes: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        world, screen = [array(t) for t in ctx.saved_tensors], [array(g_means2d), array(g_shapes)]
        n = len(world[0])
        sums = [np.empty(part.shape, np.float32) for part in world]

        def work(chunk: int) -> None:
            span = chunk * GAUSSIANS_AT_ONCE, min((chunk + 1) * GAUSSIANS_AT_ONCE, n)
            backward(*span, *world, *ctx.cameras, tuple(ctx.lens), ctx.radii, *screen, *sums)

        for_each(work, -(-n // GAUSSIANS_AT_ONCE))
        return *(torch.from_numpy(part).to(g_means2d.device) for part in sums), None, None, None
