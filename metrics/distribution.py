"""Distances between two sets of pictures, given their features (N,D)."""

import torch
from torch import Tensor

MIN_PICTURES = 20  # a side; below, the estimate's own spread exceeds what it measures


def frechet_distance(a: Tensor, b: Tensor) -> float | None:
    """||μ_a - μ_b||² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½) (Heusel et al. 2017), in float64.

    It is "FID" only on Inception-2048 features. None ("n/a") unless both sets are larger than
    the feature dimension (the covariances would be singular and the distance biased upwards), or
    for fewer than ``MIN_PICTURES`` pictures on a side.
    """
    if min(len(a), len(b)) < max(MIN_PICTURES, a.shape[1] + 1):
        return None
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of Σ_a Σ_b are real and non-negative; rounding may push some under zero.
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * root)


def kernel_distance(a: Tensor, b: Tensor) -> float | None:
    """KID: unbiased MMD² with the kernel (x·y/D + 1)³ (Bińkowski et al. 2018), over whole sets.

    None ("n/a") for fewer than ``MIN_PICTURES`` pictures on a side. Can be slightly negative.
    """
    if min(len(a), len(b)) < MIN_PICTURES:
        return None
    a, b = a.double(), b.double()
    # By hand, because torchmetrics' estimator takes two sets of one size.
    across = _kernel(a, b).mean()
    return float(_mean_over_pairs(a) + _mean_over_pairs(b) - 2 * across)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_over_pairs(x: Tensor) -> Tensor:
    """Mean kernel over pairs of two different pictures of one set."""
    k, n = _kernel(x, x), len(x)
    return (k.sum() - k.trace()) / (n * (n - 1))
