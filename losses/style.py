"""Style losses: Gram matrices (Gatys et al. 2016) and channel statistics (Huang & Belongie 2017).

One value per image, (B,), averaged over layers. Computed in float32 even under autocast: a Gram
matrix overflows half precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Features = dict[str, Tensor]


def gram(features: Tensor) -> Tensor:
    """G = F Fᵀ / (C·h·w), (B,C,h,w) -> (B,C,C) in at least float32.

    Fastest, without a copy, on features in channels_last.
    """
    return _Gram.apply(rearrange(features, "b c h w -> b (h w) c"))


class _Gram(torch.autograd.Function):
    """Positions (B,n,C) to their Gram matrix / (C·n), with one product in each direction.

    Autograd would see two factors and make two products and a sum of their gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        f = x if x.dtype == torch.float64 else x.float()
        with torch.autocast(x.device.type, enabled=False), _exact_products(x.dtype):
            return torch.baddbmm(f.new_zeros(()), f.mT, f, beta=0, alpha=1 / f[0].numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # The result is rounded to the features' precision anyway, so the factor may be as well.
        symmetric = ((grad + grad.mT) / x[0].numel()).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return x @ symmetric


@contextmanager
def _exact_products(dtype: torch.dtype) -> Iterator[None]:
    """float32 products of numbers that are bfloat16 already may use bfloat16 units: they multiply
    exactly and add up in float32, three to four times faster.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
    f = features.float()
    mean = f.mean(dim=(2, 3), keepdim=True)
    variance = (f - mean).square().mean(dim=(2, 3))  # several times faster than var on a CPU
    return mean[..., 0, 0], (variance + 1e-5).sqrt()


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
