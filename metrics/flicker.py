"""Flicker: how much a film changes beside the motion of what it shows, where that is known."""

from collections.abc import Sequence

import torch
from kornia.geometry.transform import warp_perspective
from torch import Tensor


def warping_error(frames: Sequence[Tensor], motions: Sequence[Tensor]) -> float:
    """Root of the mean squared difference between each frame and the one before, moved onto it.

    The warping error of Lai et al. (2018, Learning Blind Video Temporal Consistency) with the true
    motion, which has no occlusions here; 0 for paint that sticks to things. Bicubic reading alone
    makes some of it: set it beside that of the film before it was painted.

    Args:
        frames: (1,3,H,W) in [0,1] each, at least two.
        motions: for each frame but the first, the homography (3,3) from pixels (x, y) of the frame
            before to its own.

    Returns:
        In grey levels, from 0 to 255, over the pixels that were in the frame before.
    """
    errors = []
    for before, now, motion in zip(frames[:-1], frames[1:], motions, strict=True):
        size = (now.shape[-2], now.shape[-1])
        moved = warp_perspective(before, motion[None], size, mode="bicubic")
        inside = warp_perspective(
            torch.ones_like(before[:, :1]), motion[None], size, mode="bicubic"
        )
        seen = (inside - 1).abs() < 1e-3  # read from the frame alone, nothing beyond its edges
        change = (now - moved).square().mean(dim=1, keepdim=True)
        errors.append(change[seen].mean())
    return 255 * torch.stack(errors).mean().sqrt().item()


def detail(frames: Sequence[Tensor]) -> float:
    """Mean difference of neighbouring pixels, in grey levels: what blurring takes away.

    Args:
        frames: (1,3,H,W) in [0,1] each.
    """
    steps = [x.diff(dim=dim).abs().mean() for x in frames for dim in (-2, -1)]
    return 255 * torch.stack(steps).mean().item()
