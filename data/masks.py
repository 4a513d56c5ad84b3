"""Masks for people: colors painted over a photo say which style goes where."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from PIL import ImageColor
from torch import Tensor

from .convert import ImageLike, to_batch

GRID = 512  # positions on the longer side, on which edges are softened
SOFT = 1.5  # positions: the standard deviation of an edge


def region_weights(mask: ImageLike, colors: Sequence[str], size: tuple[int, int]) -> Tensor:
    """How much each color's region has of each pixel: (K,1,H,W), >= 0, sum one over K.

    Every pixel of the mask belongs to the nearest of the colors, so JPEGs and soft brushes do no
    harm; then the regions' edges are softened over about a hundredth of the photo.

    Args:
        mask: the mask, stretched to the size.
        colors: names as in CSS (``black``, ``red``) or ``#rrggbb``.
        size: height and width of the photo.

    Raises:
        ValueError: there is no such color, or two are the same.
    """
    rgb = torch.tensor([_rgb(color) for color in colors]) / 255  # (K,3)
    if len(rgb.unique(dim=0)) < len(colors):
        raise ValueError(f"the regions need colors of their own, and two of {colors} are the same")
    picture = to_batch(mask)[0].cpu()  # (3,h,w)
    nearest = torch.stack([(picture - c[:, None, None]).square().sum(0) for c in rgb]).argmin(0)
    regions = F.one_hot(nearest, len(colors)).permute(2, 0, 1)[:, None].float()  # (K,1,h,w)
    scale = min(1.0, GRID / max(size))
    grid = [max(1, round(side * scale)) for side in size]
    regions = F.interpolate(regions, grid, mode="area")
    regions = gaussian_blur2d(regions, 9, (SOFT, SOFT), border_type="replicate")
    return F.interpolate(regions, size, mode="bilinear")


def _rgb(color: str) -> tuple[int, ...]:
    try:
        return ImageColor.getrgb(color)[:3]
    except ValueError:
        raise ValueError(
            f"{color!r} is no color: name one as in CSS (black, red, …) or write #rrggbb"
        ) from None
