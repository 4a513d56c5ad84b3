"""Total variation (Mahendran & Vedaldi 2015), from kornia, per pixel."""

from kornia.losses import total_variation
from torch import Tensor


def tv_loss(image: Tensor) -> Tensor:
    """Mean absolute difference of neighboring pixels, (B,C,H,W) -> (B,)."""
    per_channel = total_variation(image).reshape(len(image), -1)
    return per_channel.sum(dim=1) / image[0].numel()
