"""DiffAugment (Zhao et al. 2020): the same random, differentiable change of real and fake images.

The random numbers are drawn per position of the data order, so that the result does not depend on
the number of processes.
"""

import torch
from torch import Tensor

NUMBERS = 5  # uniform numbers per image


def diff_augment(image: Tensor, uniform: Tensor) -> Tensor:
    """Change colors and position of images (B,3,H,W) in [0,1]; the result is not clamped.

    ``uniform`` (B,5) in [0,1) sets brightness, saturation, contrast, shift x and shift y.
    """
    brightness, saturation, contrast, dx, dy = uniform.unbind(dim=1)
    image = image + (brightness - 0.5)[:, None, None, None]
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (2 * saturation)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = mean + (image - mean) * (0.5 + contrast)[:, None, None, None]
    return _translate(image, (dx - 0.5) / 4, (dy - 0.5) / 4)


def _translate(image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Move images (B,3,H,W) right and down by a share (B,) of their width and height.

    Bilinear, as a product with the weights along each axis: R1 differentiates it twice, which
    ``grid_sample`` does not support on a GPU.
    """
    h, w = image.shape[-2:]
    with torch.autocast(image.device.type, enabled=False):
        return _shift(dy * h, h).to(image) @ image @ _shift(dx * w, w).to(image).mT


def _shift(pixels: Tensor, size: int) -> Tensor:
    """Return the weights (B,1,output,input) of a shift by ``pixels`` (B,); zero from outside."""
    i = torch.arange(size, device=pixels.device)
    distance = i[:, None] - i - pixels[:, None, None, None]
    return (1 - distance.abs()).clamp_min(0)
