"""A painting as one vector: colors and channel statistics of its features (DESIGN: style).

Layout of a code (B,D): RGB mean (3), RGB std (3), then per layer channel means (C), stds (C).
Codes of several paintings can be averaged and interpolated; ``Generator`` standardizes them.
"""

import torch
from torch import Tensor

COLOR_SIZE = 6


def mean_std(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Spatial mean and standard deviation, (B,C,H,W) -> (B,C), (B,C), in float32."""
    x = x.float()
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(2, 3))  # several times faster than var on a CPU
    return mean[..., 0, 0], (variance + eps).sqrt()


def style_code(image: Tensor, features: dict[str, Tensor]) -> Tensor:
    """Code (B,D) of paintings (B,3,H,W) in [0,1], given their encoder features."""
    parts = [mean_std(x) for x in (image, *features.values())]
    return torch.cat([statistic for pair in parts for statistic in pair], dim=1)


def match_color(photo: Tensor, code: Tensor, colors: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The photo (B,3,H,W) with the painting's RGB mean and std; in [0,1].

    The gain is at most 4, so that a flat photo stays flat instead of turning into noise.
    ``colors``: mean and std of the whole photo, where this is a part of it.
    """
    mean, std = colors or mean_std(photo)
    gain = (code[:, 3:6] / std.clamp_min(1e-3)).clamp(max=4.0)
    shifted = (photo - mean[..., None, None]) * gain[..., None, None] + code[:, :3, None, None]
    return shifted.clamp(0, 1)
