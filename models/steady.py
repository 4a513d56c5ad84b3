"""Steady paint: what a film's last frame showed of a thing, its next frame shows again.

Painted one by one, the frames of a film flicker: the network sees pixels in blocks of four, so
brush strokes change as a thing moves across them, and with the camera's noise. So each painted
frame is blended with the one before, moved along with the things in it. Where the photo, moved
likewise, does not fit the photo now (a thing uncovered, a motion misjudged, a cut), the new frame
stands alone: what moves leaves no ghost. Smoothing the statistics that the network normalises
with, which one might try instead, does next to nothing (results/README.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import LUMA

KEPT = 0.8  # of the frame before, where it fits; more blurs the strokes
UNLIKE = 0.06  # difference of the photos, in [0,1], at which that has fallen to a third of it
CUT = 0.1  # mean share kept below which it is another scene
WINDOW = 7  # pixels a side whose motion is taken to be one
ROUNDS = 3  # of refinement on each scale
COARSEST = 16  # pixels of the shorter side, at least, of the scale begun with


class Steady:
    """Steadies the painted frames of one film, given in order.

    Attributes:
        before: the last photo and its steady painting, (1,3,H,W) each; None before the first.
            Whoever sets it goes on from there.
    """

    def __init__(self) -> None:
        self.before: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, photo: Tensor, painted: Tensor) -> Tensor:
        """The painted frame, steadied.

        Args:
            photo: (1,3,H,W) in [0,1].
            painted: what was made of it, likewise.

        Returns:
            (1,3,H,W) in [0,1]; the first frame, and the first after a cut, as they were painted.
        """
        if self.before is not None and self.before[0].shape == photo.shape:
            last_photo, last_painted = self.before
            motion = find_motion(photo, last_photo)
            unlike = (photo - move(last_photo, motion)).abs().mean(dim=1, keepdim=True)
            kept = KEPT * torch.exp(-(mean_around(unlike, 5) / UNLIKE).square())  # (1,1,H,W)
            if kept.mean() >= CUT:
                painted = torch.lerp(painted, move(last_painted, motion), kept).clamp(0, 1)
        self.before = photo, painted
        return painted


def find_motion(now: Tensor, before: Tensor) -> Tensor:
    """Where the things in ``now`` were: pixels (x, y) to add to a position, (1,2,H,W).

    Lucas and Kanade's method, from coarse to fine: brightness is taken to move along, all of a
    small window alike. Where there is nothing to see, the motion is that of the coarser scale.

    Args:
        now, before: frames (1,3,H,W) in [0,1].
    """
    weights = torch.tensor(LUMA, dtype=now.dtype, device=now.device)[:, None, None]
    scales = [torch.cat([(x * weights).sum(dim=1, keepdim=True) for x in (now, before)])]
    while min(scales[-1].shape[-2:]) >= 2 * COARSEST:
        scales.append(F.avg_pool2d(mean_around(scales[-1], 3), 2, ceil_mode=True))
    motion = now.new_zeros(1, 2, *scales[-1].shape[-2:])
    for scale in reversed(scales):
        if motion.shape[-2:] != scale.shape[-2:]:
            motion = 2 * F.interpolate(motion, scale.shape[-2:], mode="bilinear")
        motion = refine(motion, *scale.split(1))
    return motion


def refine(motion: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """The motion (1,2,h,w) on one scale, from a guess at it and the brightness (1,1,h,w)."""
    padded = F.pad(now, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2  # the slopes of the brightness
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, yy, xy = (mean_around(product, WINDOW) for product in (x * x, y * y, x * y))
    xx, yy = xx + 1e-4, yy + 1e-4  # flat windows stay where they are
    determinant = xx * yy - xy.square()
    for _ in range(ROUNDS):
        change = now - move(before, motion, "bilinear")
        along_x, along_y = mean_around(x * change, WINDOW), mean_around(y * change, WINDOW)
        step = torch.cat([yy * along_x - xy * along_y, xx * along_y - xy * along_x], dim=1)
        motion = mean_around(motion + (step / determinant).clamp(-1, 1), 5)
    return motion


def move(x: Tensor, motion: Tensor, mode: str = "bicubic") -> Tensor:
    """``x`` (1,C,h,w) read at each position plus its motion (1,2,h,w); edges go on outside.

    Bicubic, because frame after frame is moved on, and bilinear reading blurs each time.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] + motion[:, 1]
    columns = torch.arange(width, dtype=x.dtype, device=x.device) + motion[:, 0]
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], dim=-1)
    return F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=True)


def mean_around(x: Tensor, side: int) -> Tensor:
    """Mean over the square around each position of (B,C,h,w)."""
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
