"""An object that tells its mirror image: a block that shows the letter F in front, has a red left side, a blue back and a green top.

It looks along +Z with +Y up, so its own left is +X, which a viewer in front of it sees on the right.
"""

import torch
from lathe.pipelines.data.splats import Splats

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


def letter_splats() -> Splats:
    """The lettered block's front and red left side as small Gaussians."""
    x, y = torch.meshgrid(torch.linspace(-0.55, 0.55, 44), torch.linspace(-0.75, 0.75, 60), indexing="xy")
    front = torch.stack([x.flatten(), y.flatten(), torch.full_like(x.flatten(), float(HALF[2]))], dim=1)
    side = torch.stack([torch.full((300,), float(HALF[0])), torch.linspace(-0.7, 0.7, 300), torch.linspace(-0.2, 0.2, 300)], dim=1)
    dark = letter(front[:, 0], front[:, 1])
    color = torch.cat([torch.where(dark[:, None], 0.0, 1.0).expand(-1, 3), torch.tensor([[1.0, 0.0, 0.0]]).expand(300, 3)])
    places = torch.cat([front, side])
    count = len(places)
    rotations = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1)
    sh = ((color - 0.5) / 0.28209479177387814)[:, None]
    return Splats(places, torch.full((count, 3), 0.014), rotations, torch.full((count,), 0.99), sh)
