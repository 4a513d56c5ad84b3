"""Style gap closed: the share of the distance from photo to painting that an output covers."""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from ..models.encoder import Features

#: k_l: standard deviation of the activations of the original VGG16 over 40 photos (ADE20K,
#: BSDS500) and 40 paintings of ten schools, 256x256. Gives layers equal weight.
ACTIVATION_STD = {"relu1_1": 39.67, "relu2_1": 234.3, "relu3_1": 418.1, "relu4_1": 302.5}
#: The same for EfficientNet-Lite0 (timm's names; the last stage at each of the strides 2, 4, 8, 16)
#: over 20 photos each of ADE20K and BSDS500 and 4 paintings each of ten schools, 256x256.
LITE0_ACTIVATION_STD = {"stage1": 6.485, "stage2": 8.425, "stage3": 7.185, "stage5": 5.906}
MIN_DISTANCE = 0.1  # from photo to painting; the ratio is meaningless below


def style_vector(features: Features, scales: Mapping[str, float] = ACTIVATION_STD) -> Tensor:
    """Scaled channel means and stds at the layers of ``scales`` (layer -> k_l), (B,D)."""
    parts = []
    for layer, k in scales.items():
        f = rearrange(features[layer].float(), "b c h w -> b c (h w)")
        statistics = torch.cat([f.mean(-1), f.std(-1, correction=0)], dim=1)
        parts.append(statistics / (k * math.sqrt(f.shape[1])))
    return torch.cat(parts, dim=1)


def style_distance(a: Tensor, b: Tensor) -> Tensor:
    """d = √ Σ_l (||Δmean||² + ||Δstd||²) / (C_l · k_l²) of two ``style_vector``s (B,D) -> (B,)."""
    return (a - b).norm(dim=1)


def style_gap_closed(stylized: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """1 - d(stylized, style) / d(content, style) of ``style_vector``s (B,D) -> (B,).

    0: no stylization; 1: statistics match; negative: further from the painting than the photo.
    NaN for pairs with d(content, style) < ``MIN_DISTANCE``: exclude and count them.
    """
    start = style_distance(content, style)
    closed = 1 - style_distance(stylized, style) / start.clamp_min(1e-12)
    return torch.where(start < MIN_DISTANCE, torch.nan, closed)
