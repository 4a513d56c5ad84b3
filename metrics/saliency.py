"""SSIM where people look, and a control: SSIM in the middle of the image."""

import torch
from torch import Tensor

from .perceptual import SSIM_WINDOW


def salient_ssim(local: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of a ``local_ssim``, weighted by the photo's saliency; and by its position.

    What exceeds the median of the saliency (B,1,H,W) counts, by how much it does.

    Salient objects often are in the middle, so a weight must beat the second value: its weights
    are a centered Gaussian with the standard deviations that the first weights have.

    Returns:
        (B,), (B,); NaN for a constant saliency.
    """
    margin = SSIM_WINDOW // 2
    inner = saliency.float()[..., margin:-margin, margin:-margin]
    weights = (inner - inner.flatten(2).median(dim=2).values[..., None, None]).clamp_min(0)
    return _weighted_mean(local, weights), _weighted_mean(local, centered(weights))


def centered(weights: Tensor) -> Tensor:
    """Return centered Gaussians (B,1,H,W), as wide along each axis as weights (B,1,H,W) are."""
    return _gaussian(weights.sum(3))[..., None] * _gaussian(weights.sum(2))[..., None, :]


def _gaussian(weights: Tensor) -> Tensor:
    """Return the centered Gaussian (…,N) with the variance of the weights (…,N)."""
    x = torch.linspace(-1, 1, weights.shape[-1], device=weights.device)
    p = weights / weights.sum(-1, keepdim=True)
    variance = (p * x.square()).sum(-1) - (p * x).sum(-1).square()
    return (-x.square() / (2 * variance[..., None])).exp()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
