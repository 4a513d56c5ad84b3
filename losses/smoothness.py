"""Total variation (Mahendran & Vedaldi 2015), from kornia, per pixel."""

from kornia.losses import total_variation
from torch import Tensor


def tv_loss(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (B,C,H,W) -> (B,)."""
    return total_variation(image) / (image[0].numel())
