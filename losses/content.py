"""Content losses: pixel, feature, multi-scale and attention-weighted; one value per image, (B,).

They follow 问答酱, "Content-aware loss optimization: a breakthrough for image style transfer"
(内容感知损失优化：图像风格迁移的核心突破), 18 September 2025:

    L_content   = 1/2 Σ_ij (F_ij - P_ij)²          one layer
    L           = Σ_l λ_l L_content^l              several layers ("multi-scale")
    L_attention = Σ_ij A_ij (F_ij - P_ij)²         weighted by an attention map

with features F of the output and P of the photo. This differs from the paper: it writes sums, we
take means. Its L_content over C x h x w entries is ours times C·h·w / 2.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..models.color import luminance
from ..models.encoder import Features
from .normalization import NORMALIZATIONS

GRADIENT_BINS, MAX_GRADIENT = 64, 0.5  # of the histogram; Sobel magnitudes of images in [0,1]
TYPICAL_COMPLEXITY = 0.59, 0.12  # mean and std over 112 photos of ADE20K and BSDS500 at 192 px


def pixel_loss(stylized: Tensor, content: Tensor) -> Tensor:
    """Return the mean squared difference of two images (B,C,H,W): the table's baseline."""
    return (stylized - content).square().mean(dim=(1, 2, 3))


class ContentLoss(nn.Module):
    """Σ_l λ_l · mean(A_l · E_l), with E_l the squared feature error averaged over channels.

    One layer with weight 1 is L_content, several are the multi-scale loss, and A ≠ 1 is
    L_attention. The loss is computed in two steps, ``squared_errors`` and ``forward``, because
    attention objectives need the errors before they are weighted.
    """

    def __init__(self, layers: Sequence[tuple[str, float]], normalization: str = "l2") -> None:
        super().__init__()
        self.layers = dict(layers)
        self.normalize = NORMALIZATIONS[normalization]

    def squared_errors(self, stylized: Features, content: Features) -> Features:
        """Return (F - P)² of the normalized features per layer, (B,C,h,w) in float32."""
        return {
            layer: (self.normalize(stylized[layer]) - self.normalize(content[layer])).square()
            for layer in self.layers
        }

    def forward(
        self,
        squared_errors: Features,
        attention: Tensor | None = None,
        channels: Mapping[str, Tensor] | None = None,
        layers: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the loss (B,).

        Args:
            squared_errors: output of the method of this name.
            attention: A (B,1,h,w); default 1.
            channels: channel attention {layer: (B,C)}; default 1.
            layers: λ_l per photo {layer: (B,)}, see ``dynamic_layers``; default the fixed ones.
        """
        terms = []
        for layer, weight in (layers or self.layers).items():
            error = content_error(squared_errors[layer], (channels or {}).get(layer))
            if attention is not None:
                error = attention_at(attention, error.shape[-2:]) * error
            terms.append(weight * error.mean(dim=(1, 2, 3)))
        return torch.stack(terms).sum(0)


@torch.no_grad()
def complexity(photo: Tensor) -> Tensor:
    """Return the entropy of the luminance gradients of photos (B,3,H,W), (B,) in [0,1].

    That of a histogram of their magnitudes, divided by its maximum: 0 for a flat photo.
    """
    magnitudes = _sobel(luminance(photo.float())).flatten(1).clamp(max=MAX_GRADIENT)
    bins = (magnitudes * (GRADIENT_BINS - 1) / MAX_GRADIENT).round().long()  # (B,HW)
    counts = magnitudes.new_zeros(len(photo), GRADIENT_BINS)
    p = counts.scatter_add_(1, bins, torch.ones_like(magnitudes)) / bins.shape[1]
    return -torch.special.xlogy(p, p).sum(1) / math.log(GRADIENT_BINS)


def _sobel(x: Tensor) -> Tensor:
    """Return gradient magnitudes (B,1,H,W) of a map, with kernels of unit sum of magnitudes."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]  # smoothed vertically
    columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    dx, dy = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
    return ((dx / 8).square() + (dy / 8).square() + 1e-6).sqrt()


def dynamic_layers(photo: Tensor, layers: Mapping[str, float]) -> dict[str, Tensor]:
    """Choose λ_l (B,) for each photo (B,3,H,W) from its complexity, which 问答酱 (2025) leaves to
    future work: λ_l · exp(z · d), renormalized to the same sum.

    z is the standardized complexity; d rises from -1 for the first to 1 for the last layer. So the
    deep layers, which describe structure, count more in complex photos, and the shallow ones,
    which describe detail, in simple photos.
    """
    z = (complexity(photo) - TYPICAL_COMPLEXITY[0]) / TYPICAL_COMPLEXITY[1]  # (B,)
    depths = np.linspace(-1, 1, len(layers)) if len(layers) > 1 else [0]
    weights = torch.stack([w * (z * d).exp() for w, d in zip(layers.values(), depths, strict=True)])
    weights = weights * sum(layers.values()) / weights.sum(0)  # (L,B)
    return dict(zip(layers, weights, strict=True))


def content_error(squared: Tensor, channels: Tensor | None = None) -> Tensor:
    """Return E (B,1,h,w): squared errors (B,C,h,w), weighted by (B,C) if given, mean over C."""
    if channels is not None:
        squared = squared * channels[..., None, None]
    return squared.mean(dim=1, keepdim=True)


def attention_at(attention: Tensor, size: Sequence[int]) -> Tensor:
    """Resize A (B,1,h,w) to another resolution and restore mean 1.

    Resizes log A and applies the softmax again. At its own resolution A is returned as it is.
    """
    if tuple(attention.shape[-2:]) == tuple(size):
        return attention
    logits = attention.clamp_min(1e-8).log()
    logits = F.interpolate(logits, tuple(size), mode="bilinear", antialias=True)
    h, w = logits.shape[-2:]
    flat = rearrange(logits, "b 1 h w -> b (h w)").softmax(-1) * (h * w)
    return rearrange(flat, "b (h w) -> b 1 h w", h=h)
