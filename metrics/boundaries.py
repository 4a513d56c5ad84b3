"""How well the edges that people drew in a photo survive in an output."""

from kornia.color import rgb_to_grayscale
from kornia.filters import gaussian_blur2d, sobel
from torch import Tensor

BLUR = 1 / 128  # of the side: drawn lines are one pixel wide and 1 to 2 pixels off


def boundaries_kept(stylized: Tensor, content: Tensor, drawn: Tensor) -> Tensor:
    """Correlate the gradient magnitudes of luminance near drawn boundaries.

    Weighted Pearson correlation; weights: ``drawn``, blurred. 1 for the photo itself (also if it
    has other contrast or is inverted), about 0 for another image.

    Args:
        stylized, content: images (B,3,H,W) in [0,1].
        drawn: share of annotators who drew a boundary, (B,1,H,W) in [0,1]; NaN: not annotated.

    Returns:
        (B,); NaN without annotation or without any boundary.
    """
    sigma = max(1.0, BLUR * min(drawn.shape[-2:]))
    side = 2 * round(3 * sigma) + 1
    weights = gaussian_blur2d(drawn.float(), (side, side), (sigma, sigma)).flatten(1)
    weights = weights / weights.sum(1, keepdim=True)

    def centered(images: Tensor) -> Tensor:
        gradients = sobel(rgb_to_grayscale(images.float()), eps=1e-12).flatten(1)
        return gradients - (weights * gradients).sum(1, keepdim=True)

    a, b = centered(stylized), centered(content)
    norms = ((weights * a.square()).sum(1) * (weights * b.square()).sum(1)).sqrt()
    return (weights * a * b).sum(1) / norms.clamp_min(1e-12)
