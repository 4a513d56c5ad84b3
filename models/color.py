"""The photo's own colors under the painting's light and dark."""

import torch
from torch import Tensor

from .style_code import COLOR_SIZE, mean_std

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: the Y of YIQ and of YCbCr


def keep_chroma(stylized: Tensor, photo: Tensor) -> Tensor:
    """The stylized picture's luma with the photo's chroma, (B,3,H,W) in [0,1].

    Luminance-only transfer (Gatys et al. 2016, Preserving Color in Neural Artistic Style Transfer)
    in YCbCr: there, another Y at the same chroma is one number added to red, green and blue. What
    leaves [0,1] is clamped. Where nothing was painted, the photo is returned as it is.
    """
    weights = torch.tensor(LUMA, dtype=photo.dtype, device=photo.device)[:, None, None]
    change = ((stylized - photo) * weights).sum(dim=1, keepdim=True)
    return (photo + change).clamp(0, 1)


def with_colors_of(code: Tensor, photo: Tensor) -> Tensor:
    """A style code (B,D) whose RGB mean and std are those of the photo (B,3,H,W).

    Else a dark painting would darken the photo under its colors, which then glow.
    """
    return torch.cat([*mean_std(photo), code[:, COLOR_SIZE:]], dim=1)
