"""Distances between two sets of images, given their features (N,D)."""

import torch
from torch import Tensor

MIN_IMAGES = 20  # per set; below, the sampling error exceeds the distances of interest
MIN_OUTPUTS = 1000  # for the Fréchet distance, whose bias grows as sets shrink


def frechet_distance(
    outputs: Tensor, paintings: Tensor, min_outputs: int | None = None
) -> float | None:
    """Compute the Fréchet distance of two feature sets (N,D) in float64 (Heusel et al. 2017).

    ||μ_a - μ_b||² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½). Call it "FID" only on Inception-2048 features.
    Biased upwards, more so for small sets: compare only values of equal N. None for fewer than
    ``min_outputs`` (default: ``MIN_OUTPUTS``) outputs or ``MIN_IMAGES`` paintings.
    """
    if len(outputs) < (min_outputs or MIN_OUTPUTS) or len(paintings) < MIN_IMAGES:
        return None
    a, b = _double(outputs), _double(paintings)
    means = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of Σ_a Σ_b are real and non-negative; rounding may push some below zero.
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    return float(means + cov_a.trace() + cov_b.trace() - 2 * root)


def kernel_distance(a: Tensor, b: Tensor) -> float | None:
    """Compute KID of two feature sets (N,D): unbiased MMD² with the kernel (x·y/D + 1)³.

    Bińkowski et al. 2018, over whole sets; torchmetrics takes only subsets of equal size. May be
    slightly negative. None if a set has fewer than ``MIN_IMAGES`` images.
    """
    if min(len(a), len(b)) < MIN_IMAGES:
        return None
    a, b = _double(a), _double(b)
    return float(_mean_over_pairs(a) + _mean_over_pairs(b) - 2 * _kernel(a, b).mean())


def _double(x: Tensor) -> Tensor:
    """Convert to float64, which MPS lacks."""
    return (x.cpu() if x.is_mps else x).double()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_over_pairs(x: Tensor) -> Tensor:
    """Mean kernel value over pairs of two distinct images of one set."""
    k, n = _kernel(x, x), len(x)
    return (k.sum() - k.trace()) / (n * (n - 1))
