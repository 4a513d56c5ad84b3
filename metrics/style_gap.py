"""Style gap closed: how much of the way from the photo to the painting an output went."""

import torch
from einops import rearrange
from torch import Tensor

Features = dict[str, Tensor]

#: k_l: standard deviation of the activations of the original VGG16 over 40 photos (ADE20K,
#: BSDS500) and 40 paintings of ten schools, 256x256. They make layers count alike.
ACTIVATION_STD = {"relu1_1": 39.67, "relu2_1": 234.3, "relu3_1": 418.1, "relu4_1": 302.5}
MIN_DISTANCE = 0.1  # a pair nearer than this at the start has no gap worth a ratio


def style_distance(a: Features, b: Features) -> Tensor:
    """d = √ Σ_l (||Δmean||² + ||Δstd||²) / (C_l · k_l²) of VGG16 features -> (B,)."""
    total = torch.zeros(())
    for layer, k in ACTIVATION_STD.items():
        (mean, std), (mean_, std_) = _mean_std(a[layer]), _mean_std(b[layer])
        square = (mean - mean_).square() + (std - std_).square()
        total = total.to(square.device) + square.mean(dim=1) / k**2
    return total.sqrt()


def style_gap_closed(stylized: Features, content: Features, style: Features) -> Tensor:
    """1 - d(stylized, style) / d(content, style), (B,).

    0: nothing happened; 1: the statistics match; negative: further away than the photo was.
    NaN marks pairs whose gap was under ``MIN_DISTANCE`` from the start; leave them out, and
    count them.
    """
    start = style_distance(content, style)
    closed = 1 - style_distance(stylized, style) / start.clamp_min(1e-12)
    return torch.where(start < MIN_DISTANCE, torch.nan, closed)


def _mean_std(features: Tensor) -> tuple[Tensor, Tensor]:
    f = rearrange(features.float(), "b c h w -> b c (h w)")
    return f.mean(-1), f.std(-1, correction=0)
