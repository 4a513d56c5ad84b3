"""Style code: a painting as one vector of color and feature statistics.

Layout of a code (B,D): color statistics (9), then per layer channel means (C), stds (C).
Codes can be averaged and interpolated; ``Generator.standardize`` brings them to one scale.
"""

import torch
from torch import Tensor

from .color import COLOR_SIZE, color_statistics, from_logit, recolor, to_logit
from .normalization import mean_std


def style_code(image: Tensor, features: dict[str, Tensor]) -> Tensor:
    """Return codes (B,D) of paintings (B,3,H,W) in [0,1] from their encoder features."""
    parts = [statistic for x in features.values() for statistic in mean_std(x)]
    return torch.cat([color_statistics(image), *parts], dim=1)


def match_color(photo: Tensor, code: Tensor) -> Tensor:
    """Give photos (B,3,H,W) the color mean and covariance of style codes (B,D); result in [0,1]."""
    z = recolor(to_logit(photo), color_statistics(photo), code[:, :COLOR_SIZE])
    return from_logit(z)
