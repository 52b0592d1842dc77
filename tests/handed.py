"""An object that tells its mirror image: a block that shows the letter F in front, has a red left side, a blue back and a green top.

It looks along +Z with +Y up, so its own left is +X, which a viewer in front of it sees on the right.
"""

import torch

HALF = torch.tensor([0.6, 0.8, 0.3])
BARS = ((-0.35, -0.2, -0.5, 0.5), (-0.35, 0.35, 0.35, 0.5), (-0.35, 0.15, -0.05, 0.1))  # x from, to, y from, to: stem, top, middle


def letter(x, y):
    """True inside the F that a viewer in front reads."""
    inside = torch.zeros_like(x, dtype=torch.bool)
    for left, right, low, high in BARS:
        inside |= (x > left) & (x < right) & (y > low) & (y < high)
    return inside


class LetterField:
    """The block as an sdf; implements the Field protocol."""

    kind = "sdf"
    level = 0.0
    bound = 1.0

    def geometry(self, points):
        q = points.abs() - HALF.to(points)
        return q.clamp(min=0).norm(dim=-1) + q.max(dim=-1).values.clamp(max=0)

    def color(self, points):
        """White, with paint on four sides. The paint of each side starts a little before its edge."""
        x, y, z = points.unbind(-1)
        color = torch.ones_like(points)
        front = z > 0.9 * HALF[2]
        color[front & letter(x, y)] = 0.0
        color[z < -0.9 * HALF[2]] = torch.tensor([0.0, 0.0, 1.0]).to(points)
        color[(y > 0.97 * HALF[1]) & ~front] = torch.tensor([0.0, 1.0, 0.0]).to(points)
        color[x > 0.85 * HALF[0]] = torch.tensor([1.0, 0.0, 0.0]).to(points)
        return color

    def flexi_grid(self, resolution=None, chunk=65536, tick=None):
        return None

    def to(self, device):
        return self


def read_front(image, points_x, points_y):
    """How well a front view reads: correlation of its darkness with the F, and with the F mirrored left to right.

    Args:
        image: (3, H, W).
        points_x, points_y: (H, W) where the pixels lie on the block's front.
    """
    inside = (points_x.abs() < 0.45) & (points_y.abs() < 0.7)
    dark = 1 - image.mean(0)[inside]
    scores = []
    for sign in (1, -1):
        pattern = letter(sign * points_x[inside], points_y[inside]).float()
        scores.append(float(torch.corrcoef(torch.stack([dark, pattern]))[0, 1]))
    return scores


def signed_volume(vertices, faces):
    """Volume enclosed by a closed mesh; positive where faces are counter-clockwise seen from outside."""
    a, b, c = vertices.double()[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)
