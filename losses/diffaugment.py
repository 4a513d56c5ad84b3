"""DiffAugment (Zhao et al. 2020): the same random, differentiable change of real and fake images.

The random numbers are drawn per position of the data order, so that the result does not depend on
the number of processes.
"""

import torch
import torch.nn.functional as F
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
    """Move images (B,3,H,W) right and down by a share (B,) of their width and height."""
    h, w = image.shape[-2:]
    one, zero = torch.ones_like(dx), torch.zeros_like(dx)
    x, y = -2 * dx * w / (w - 1), -2 * dy * h / (h - 1)  # the grid spans [-1,1] from pixel 0
    matrix = torch.stack([one, zero, x, zero, one, y], dim=1).view(-1, 2, 3).to(image.dtype)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=True)
    return F.grid_sample(image, grid, align_corners=True).to(image.dtype)
