"""Style losses: Gram matrices (Gatys et al. 2016), channel statistics (Huang & Belongie 2017).

One value per image, (B,). Computed in at least float32 even under autocast, since a Gram matrix
overflows half precision.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Features = dict[str, Tensor]


def gram(features: Tensor) -> Tensor:
    """Return G = F Fᵀ / (C·h·w), (B,C,h,w) -> (B,C,C).

    Fastest, because it needs no copy, on features in channels_last.
    """
    return _Gram.apply(rearrange(features, "b c h w -> b (h w) c"))


class _Gram(torch.autograd.Function):
    """Gram matrix (B,C,C) of positions (B,n,C), with one matrix product in each direction.

    Autograd would treat the two factors as distinct: two products and a sum in the backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        f = x if x.dtype == torch.float64 else x.float()
        # Numbers that were bfloat16 multiply exactly on bfloat16 units and are summed in float32:
        # the same result, three to four times faster.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium" if x.dtype == torch.bfloat16 else before)
        try:
            with torch.autocast(x.device.type, enabled=False):
                return torch.baddbmm(f.new_zeros(()), f.mT, f, beta=0, alpha=1 / f[0].numel())
        finally:
            torch.set_float32_matmul_precision(before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # The result is rounded to the precision of x anyway, so this factor may be as well.
        symmetric = ((grad + grad.mT) / x[0].numel()).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return x @ symmetric


def gram_loss(stylized: Tensor, style: Tensor, relative: bool = True) -> Tensor:
    """Return ||G - G*||² of two feature maps (B,C,h,w); ``relative`` as in ``StyleLoss``."""
    target = gram(style)
    difference = (gram(stylized) - target).square()
    if not relative:
        return difference.mean(dim=(1, 2))
    return difference.sum(dim=(1, 2)) / target.square().sum(dim=(1, 2)).clamp_min(1e-12)


def statistics_loss(stylized: Tensor, style: Tensor, relative: bool = True) -> Tensor:
    """Return ||Δmean||² + ||Δstd||² of the channels of two feature maps (B,C,h,w)."""
    (mean, std), (target_mean, target_std) = _mean_std(stylized), _mean_std(style)
    difference = (mean - target_mean).square() + (std - target_std).square()
    if not relative:
        return difference.mean(dim=1)
    norm = (target_mean.square() + target_std.square()).sum(dim=1).clamp_min(1e-12)
    return difference.sum(dim=1) / norm


def _mean_std(features: Tensor) -> tuple[Tensor, Tensor]:
    f = features.float()
    mean = f.mean(dim=(2, 3), keepdim=True)
    variance = (f - mean).square().mean(dim=(2, 3))  # several times faster than var on a CPU
    return mean[..., 0, 0], (variance + 1e-5).sqrt()


KINDS = {"gram": gram_loss, "statistics": statistics_loss}


class StyleLoss(nn.Module):
    """Style distance of outputs to paintings, averaged over layers.

    Args:
        layers: names of the style layers.
        kind: one of ``KINDS``.
        relative: divide each layer's distance by the squared norm of the painting's own
            statistics, so that all layers and encoders count alike. This differs from Gatys et
            al.; False is the published form.
    """

    def __init__(self, layers: tuple[str, ...], kind: str = "gram", relative: bool = True) -> None:
        super().__init__()
        self.layers, self.distance, self.relative = layers, KINDS[kind], relative

    def forward(self, stylized: Features, style: Features) -> Tensor:
        per_layer = [
            self.distance(stylized[layer], style[layer], self.relative) for layer in self.layers
        ]
        return torch.stack(per_layer).mean(0)
