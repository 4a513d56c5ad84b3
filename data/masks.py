"""Region masks: colors painted over a photo select one style per region."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from kornia.filters import gaussian_blur2d
from PIL import ImageColor
from torch import Tensor

from .convert import ImageLike, check_aspect, to_batch

GRID = 512  # longer side of the grid on which region edges are blurred
EDGE_SIGMA = 1.5  # standard deviation of the blur, in grid cells


def region_weights(mask: ImageLike, colors: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Return each region's weight per pixel: (K,1,H,W), >= 0, summing to 1 over K.

    Every mask pixel is assigned to the nearest color, so JPEG artifacts and soft brushes do not
    matter. Region edges are then blurred over about a hundredth of the photo.

    Raises:
        ValueError: another aspect ratio, several masks, an unknown color, or two equal ones.
    """
    rgb = parse_colors(colors)
    batch = to_batch(mask).cpu()
    if len(batch) > 1:
        raise ValueError(f"a mask is one image for all photos, not a batch of {len(batch)}")
    image = batch[0]  # (3,h,w)
    check_aspect(image.shape[1], image.shape[2], size)
    nearest = torch.stack([(image - c[:, None, None]).square().sum(0) for c in rgb]).argmin(0)
    regions = rearrange(F.one_hot(nearest, len(colors)).float(), "h w k -> k 1 h w")
    scale = min(1.0, GRID / max(size))
    regions = F.interpolate(regions, [max(1, round(side * scale)) for side in size], mode="area")
    regions = gaussian_blur2d(regions, 9, (EDGE_SIGMA, EDGE_SIGMA), border_type="replicate")
    return F.interpolate(regions, size, mode="bilinear")


def parse_colors(colors: Sequence[str]) -> Tensor:
    """Convert K CSS names (``black``, ``red``) or ``#rrggbb`` codes to (K,3) in [0,1].

    Raises:
        ValueError: an unknown color, or two equal ones.
    """
    values = []
    for color in colors:
        try:
            values.append(ImageColor.getrgb(str(color))[:3])
        except ValueError:
            message = f"{color!r} is no color: use a CSS name (black, red, …) or #rrggbb"
            raise ValueError(message) from None
    if len(set(values)) < len(colors):
        raise ValueError(f"each region needs a color of its own, but two of {colors} are the same")
    return torch.tensor(values) / 255
