"""DiffAugment (Zhao et al. 2020): the same random change to real and fake, differentiable.

The random numbers come with the batch, drawn per position of the data order, so that the result
does not depend on the number of processes.
"""

import kornia
import torch
from torch import Tensor

NUMBERS = 5  # uniform numbers used per picture


def diff_augment(image: Tensor, uniform: Tensor) -> Tensor:
    """Color and translation of pictures (B,3,H,W) in [0,1].

    Args:
        image: pictures.
        uniform: (B,5) in [0,1): brightness, saturation, contrast, shift x, shift y.
    """
    brightness, saturation, contrast, dx, dy = (uniform[:, i] for i in range(NUMBERS))
    image = kornia.enhance.adjust_brightness(image, brightness - 0.5, clip_output=False)
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (2 * saturation)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = mean + (image - mean) * (0.5 + contrast)[:, None, None, None]
    h, w = image.shape[-2:]
    shift = torch.stack([(dx - 0.5) * w / 4, (dy - 0.5) * h / 4], dim=1)
    return kornia.geometry.translate(image, shift.to(image.dtype), padding_mode="zeros")
