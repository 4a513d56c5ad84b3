"""Style losses: Gram matrices (Gatys et al. 2016) and channel statistics (Huang & Belongie 2017).

One value per image, (B,), averaged over layers. Computed in float32 even under autocast: a Gram
matrix overflows half precision.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

Features = dict[str, Tensor]


def gram(features: Tensor) -> Tensor:
    """G = F Fᵀ / (C·h·w), (B,C,h,w) -> (B,C,C).

    Divided *before* the product, which keeps the sums small.
    """
    c, h, w = features.shape[1:]
    f = rearrange(features.float(), "b c h w -> b c (h w)") / (c * h * w) ** 0.5
    with torch.autocast(f.device.type, enabled=False):
        return f @ f.mT


def gram_loss(stylized: Tensor, style: Tensor, relative: bool = True) -> Tensor:
    """||G - G*||² of two feature maps (B,C,h,w) -> (B,), see ``StyleLoss`` for ``relative``."""
    target = gram(style)
    difference = (gram(stylized) - target).square()
    if not relative:
        return difference.mean(dim=(1, 2))
    return difference.sum(dim=(1, 2)) / target.square().sum(dim=(1, 2)).clamp_min(1e-12)


def statistics_loss(stylized: Tensor, style: Tensor, relative: bool = True) -> Tensor:
    """||Δmean||² + ||Δstd||² of the channels of two feature maps -> (B,)."""
    (mean, std), (mean_, std_) = _mean_std(stylized), _mean_std(style)
    difference = (mean - mean_).square() + (std - std_).square()
    if not relative:
        return difference.mean(dim=1)
    return difference.sum(dim=1) / (mean_.square() + std_.square()).sum(dim=1).clamp_min(1e-12)


def _mean_std(features: Tensor) -> tuple[Tensor, Tensor]:
    f = rearrange(features.float(), "b c h w -> b c (h w)")
    return f.mean(-1), (f.var(-1, correction=0) + 1e-5).sqrt()


KINDS = {"gram": gram_loss, "statistics": statistics_loss}


class StyleLoss(nn.Module):
    """Mean over layers of the style distance of outputs to paintings, (B,).

    ``relative`` divides each layer's distance by the painting's own squared norm, so that layers
    and encoders count alike (here we depart from Gatys; False gives the published form).
    """

    def __init__(self, layers: tuple[str, ...], kind: str = "gram", relative: bool = True) -> None:
        super().__init__()
        self.layers, self.distance, self.relative = layers, KINDS[kind], relative

    def forward(self, stylized: Features, style: Features) -> Tensor:
        per_layer = [
            self.distance(stylized[layer], style[layer], self.relative) for layer in self.layers
        ]
        return torch.stack(per_layer).mean(0)
