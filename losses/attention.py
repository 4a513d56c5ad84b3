"""Attention objectives: which errors weight the content loss, and what the branch learns.

Minimizing the weighted content loss over A makes A *hide* the errors. So A enters that loss as a
constant, and the branch learns to predict the standardized log structural error q of the output.
The error under one painting says little about the error under another; their mean is a property
of the photo and can be predicted from it. The regression is on q itself, because a loss that
ignores the scale of the prediction lets it grow without limit.

Maps are (B,1,h,w). An error becomes a map A in ``models.attention.attention_map``.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.color import luminance
from ..models.encoder import Features

MIN_DISSIMILARITY = 1e-3  # added to (1 - SSIM)/2 before the logarithm
MIN_STD = 0.1  # of log errors, added to the variance: 10 % of error
FLAT = 0.05  # a map whose KL is below this share of the budget is called flat

#: Where the map A comes from:
#:
#: - ``uniform``   A = 1.
#: - ``observed``  A = 1, but the branch learns: for inspection, or to start from.
#: - ``learned``   the branch's prediction.
#: - ``oracle``    the measured error of the output, without a branch: an upper bound for learned.
#: - ``shuffled``  the prediction for another photo: control for *where* A is high. Needs two
#:                 images per process.
#: - ``saliency``  energy of the photo's features.
#: - ``joint``     the naive minimizer: A with gradient. It hides the errors.
#: - ``gate``      A learns only through the decoder that it gates.
OBJECTIVES = ("uniform", "observed", "learned", "oracle", "shuffled", "saliency", "joint", "gate")


def needs_branch(objective: str) -> bool:
    """Return whether the generator needs an attention branch for this objective."""
    return objective in ("observed", "learned", "shuffled", "joint", "gate")


def learns_error(objective: str) -> bool:
    """Return whether the branch learns to predict the error."""
    return objective in ("observed", "learned", "shuffled")


def weighting_error(
    objective: str,
    predicted: Tensor,
    stylized: Tensor,
    content: Tensor,
    features: Features,
    layers: Mapping[str, float],
) -> Tensor | None:
    """Return the log error (B,1,h,w) whose map weights the content loss; None for A = 1.

    Args:
        objective: one of ``OBJECTIVES``.
        predicted: prediction of the attention branch (B,1,h,w).
        stylized, content: output and photo (B,3,H,W).
        features: of the photo, at the content layers.
        layers: content layer -> λ_l.
    """
    h, w = predicted.shape[-2:]
    match objective:
        case "learned" | "gate":
            return predicted.detach()
        case "joint":
            return predicted
        case "oracle":
            return log_structural_error(stylized, content, (h, w))
        case "saliency":
            return log_energy(features, layers, (h, w))
        case "shuffled":
            assert len(predicted) > 1
            return predicted.detach().roll(1, dims=0)
        case _:
            return None


def standardize(x: Tensor) -> Tensor:
    """Return logarithms x (B,...) with mean 0 and std 1 per image; a std far below 0.1 is noise,
    and is not brought to 1.
    """
    return F.layer_norm(x, x.shape[1:], eps=MIN_STD**2)


def log_structural_error(stylized: Tensor, content: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return q (B,1,h,w): the standardized logarithm of (1 - SSIM)/2 on the grid, no gradient.

    SSIM of the luminances of two images (B,3,H,W), in windows of 7x7 pixels.
    """
    gray = [luminance(x.detach().float()) for x in (stylized, content)]
    dissimilarity = F.adaptive_avg_pool2d((1 - ssim(gray[0], gray[1])) / 2, grid)
    return standardize((dissimilarity + MIN_DISSIMILARITY).log())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the SSIM map of images (B,1,H,W) in [0,1] (Wang et al. 2004), in 7x7 windows, σ 1.5.

    The arithmetic of ``kornia.metrics.ssim``, which copies its window to the device in each call
    and waits for that. The five moments are channels of one depthwise convolution, whose CUDA
    kernel, unlike that of other convolutions, does not round to TF32: variances would be lost.
    """
    x = torch.arange(-3, 4, device=a.device, dtype=a.dtype)
    window = F.softmax(-x.square() / (2 * 1.5**2), dim=0)
    moments = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    moments = moments.contiguous(memory_format=torch.channels_last)
    with torch.autocast(a.device.type, enabled=False):
        for shape, padding in (((1, 7), (3, 3, 0, 0)), ((7, 1), (0, 0, 3, 3))):
            padded = F.pad(moments, padding, mode="reflect")
            moments = F.conv2d(padded, window.expand(5, 1, 7).view(5, 1, *shape), groups=5)
    mean_a, mean_b, aa, bb, ab = moments.split(1, dim=1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a.square() + bb - mean_b.square()
    structure = (2 * covariance + 9e-4) / (variances + 9e-4)
    return structure * (2 * mean_a * mean_b + 1e-4) / (mean_a.square() + mean_b.square() + 1e-4)


def log_energy(features: Features, layers: Mapping[str, float], grid: tuple[int, int]) -> Tensor:
    """Return the standardized logarithm of the features' energy on the grid, (B,1,h,w)."""
    energy = {layer: features[layer].float().square().mean(1, keepdim=True) for layer in layers}
    return standardize((error_map(energy, layers, grid) + 1e-6).log())


def prediction_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return mean((g - q)²) per image, (B,), for errors (B,...)."""
    return (predicted.float() - target.detach()).square().flatten(1).mean(1)


def mean_one(x: Tensor) -> Tensor:
    """Scale a non-negative map (B,1,h,w) to spatial mean 1; an all-zero map becomes ones."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return torch.where(mean > 0, x / mean.clamp_min(1e-20), torch.ones_like(x))


def error_map(
    errors: Mapping[str, Tensor], layers: Mapping[str, float], grid: tuple[int, int]
) -> Tensor:
    """Return E = Σ_l λ_l · resize(E_l / mean(E_l)) on A's grid, (B,1,h,w); means per image."""
    parts = [
        weight
        * F.interpolate(mean_one(errors[layer].detach()), grid, mode="bilinear", antialias=True)
        for layer, weight in layers.items()
    ]
    return torch.stack(parts).sum(0).clamp_min(0)


def kl_to_uniform(attention: Tensor) -> Tensor:
    """Return KL(A/hw || uniform) in nats, (B,): 0 if flat, log(hw) if all on one position."""
    return torch.special.xlogy(attention, attention).mean(dim=(1, 2, 3))


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return the Pearson correlation of two maps (B,1,h,w) over positions, (B,); 0 if flat."""
    x0, y0 = (z.flatten(1) - z.flatten(1).mean(1, keepdim=True) for z in (x, y))
    return (x0 * y0).sum(1) / (x0.norm(dim=1) * y0.norm(dim=1)).clamp_min(1e-12)


def attention_statistics(attention: Tensor, error: Tensor | None = None) -> dict[str, Tensor]:
    """Return max A, KL to uniform in nats and, given E, corr(A, E), (B,) each, of maps A and E
    (B,1,h,w).
    """
    statistics = {"peak": attention.flatten(1).amax(1), "kl": kl_to_uniform(attention)}
    if error is not None:
        statistics["correlation"] = correlation(attention, error)
    return statistics


def collapse_warning(peak: float, kl: float, positions: int, budget: float) -> str | None:
    """Return a warning if a map is flat or concentrated on few positions, else None."""
    if kl < FLAT * budget:
        return f"attention is flat: KL {kl:.4f} nats is under {FLAT} x the budget {budget}"
    if kl > 3 * budget or peak > positions / 2:
        return (
            f"attention has collapsed: KL {kl:.2f} nats (budget {budget}), "
            f"max A {peak:.0f} of {positions}"
        )
    return None
