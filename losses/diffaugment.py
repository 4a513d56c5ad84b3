"""DiffAugment (Zhao et al. 2020): the same random, differentiable change of real and fake images.

The random numbers are drawn per position of the data order, so that the result does not depend on
the number of processes.
"""

import kornia
import torch
from torch import Tensor

NUMBERS = 5  # uniform numbers per image


def diff_augment(image: Tensor, uniform: Tensor) -> Tensor:
    """Change colors and position of images (B,3,H,W) in [0,1]; the result is not clamped.

    ``uniform`` (B,5) in [0,1) sets brightness, saturation, contrast, shift x and shift y.
    """
    brightness, saturation, contrast, dx, dy = uniform.unbind(dim=1)
    image = kornia.enhance.adjust_brightness(image, brightness - 0.5, clip_output=False)
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (2 * saturation)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = mean + (image - mean) * (0.5 + contrast)[:, None, None, None]
    h, w = image.shape[-2:]
    shift = torch.stack([(dx - 0.5) * w / 4, (dy - 0.5) * h / 4], dim=1)
    return kornia.geometry.translate(image, shift.to(image.dtype), padding_mode="zeros")
