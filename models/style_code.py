"""Style code: a painting as one vector of color and feature statistics.

Layout of a code (B,D): RGB mean (3), RGB std (3), then per layer channel means (C), stds (C).
Codes can be averaged and interpolated; ``Generator.standardize`` brings them to one scale.
"""

import torch
from torch import Tensor

from .normalization import mean_std

COLOR_SIZE = 6  # RGB mean and std


def style_code(image: Tensor, features: dict[str, Tensor]) -> Tensor:
    """Return codes (B,D) of paintings (B,3,H,W) in [0,1] from their encoder features."""
    parts = [mean_std(x) for x in (image, *features.values())]
    return torch.cat([statistic for pair in parts for statistic in pair], dim=1)


def match_color(photo: Tensor, code: Tensor, colors: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Give a photo (B,3,H,W) the RGB mean and std of a style code (B,D); result in [0,1].

    The gain is limited to 4, so that the noise of a flat photo is not amplified without bound.

    Args:
        photo: images, or tiles of them.
        code: style codes.
        colors: mean and std (B,3) of the whole photo, when ``photo`` is a tile of it.
    """
    mean, std = colors or mean_std(photo)
    gain = (code[:, 3:6] / std.clamp_min(1e-3)).clamp(max=4.0)
    shifted = (photo - mean[..., None, None]) * gain[..., None, None] + code[:, :3, None, None]
    return shifted.clamp(0, 1)
