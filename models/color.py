"""Color-preserving stylization: the painting changes lightness, the photo keeps its chroma."""

import torch
from torch import Tensor

from .normalization import mean_std
from .style_code import COLOR_SIZE

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: Y of YIQ and YCbCr


def keep_chroma(stylized: Tensor, photo: Tensor) -> Tensor:
    """Combine the luma of ``stylized`` with the chroma of ``photo``, (B,3,H,W) in [0,1].

    Luminance-only transfer (Gatys et al. 2016, "Preserving Color in Neural Artistic Style
    Transfer") in YCbCr, where changing Y at constant chroma adds one number to R, G and B.
    Values outside [0,1] are clamped. Pixels equal to the photo's are returned unchanged.
    """
    weights = torch.tensor(LUMA, dtype=photo.dtype, device=photo.device)[:, None, None]
    change = ((stylized - photo) * weights).sum(dim=1, keepdim=True)
    return (photo + change).clamp(0, 1)


def with_colors_of(code: Tensor, photo: Tensor) -> Tensor:
    """Replace the RGB mean and std of style codes (B,D) by those of photos (B,3,H,W).

    Use it before ``keep_chroma``: otherwise a dark painting darkens the photo under its own chroma.
    """
    return torch.cat([*mean_std(photo), code[:, COLOR_SIZE:]], dim=1)
