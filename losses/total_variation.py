"""Total variation (Mahendran & Vedaldi 2015), from kornia."""

from kornia.losses import total_variation
from torch import Tensor


def tv_loss(image: Tensor) -> Tensor:
    """Sum the absolute differences of neighboring pixels per value, (B,C,H,W) -> (B,)."""
    per_channel = total_variation(image).reshape(len(image), -1)
    return per_channel.sum(dim=1) / image[0].numel()
