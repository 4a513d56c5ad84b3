"""Style losses: Gram matrices (Gatys et al. 2016), channel statistics (Huang & Belongie 2017) and
sliced Wasserstein distance (Rabin et al. 2011, Heitz et al. 2021).

One value per image, (B,). Computed in at least float32 even under autocast, since a Gram matrix
overflows half precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..models.encoder import Features
from .normalization import at_least_float32


class Moments(NamedTuple):
    """Channel statistics of features (B,C,h,w), in at least float32."""

    gram: Tensor  # G = F Fᵀ / (C·h·w), (B,C,C)
    mean: Tensor  # (B,C)
    variance: Tensor  # (B,C)


def moments(features: Tensor) -> Moments:
    """Return the statistics of features (B,C,h,w).

    Fastest, because it needs no copy, on features in channels_last.
    """
    return Moments(*_Moments.apply(rearrange(features, "b c h w -> b (h w) c")))


class _Moments(torch.autograd.Function):
    """Gram matrix (B,C,C), mean and variance (B,C) of positions (B,n,C).

    With one matrix product in each direction. Autograd would treat the two factors of the Gram
    matrix as distinct, and read and write the features a dozen times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gram, mean = _gram(x), x.mean(1, dtype=torch.promote_types(x.dtype, torch.float32))
        ctx.save_for_backward(x, mean)
        if x.dtype != mean.dtype:  # E[x²] - E[x]² loses no digit that such features have
            mean_square = gram.diagonal(dim1=1, dim2=2) * x.shape[2]
            return gram, mean, (mean_square - mean.square()).clamp_min(0)
        # Several times faster than ``var`` on a CPU.
        return gram, mean, (x - mean[:, None]).square_().mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gram: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        x, center = ctx.saved_tensors
        slope = variance * (2 / x.shape[1])
        shift = mean / x.shape[1] - slope * center
        matrix = (gram + gram.mT) / x[0].numel() + slope.diag_embed()
        # The result is rounded to the precision of x anyway, so its factors may be as well.
        with torch.autocast(x.device.type, enabled=False):
            return torch.baddbmm(shift[:, None].to(x.dtype), x, matrix.to(x.dtype))


def _gram(x: Tensor) -> Tensor:
    if x.is_cuda and x.dtype in (torch.bfloat16, torch.float16):  # summed in float32: no copy
        with torch.autocast("cuda", enabled=False):
            return torch.bmm(x.mT, x, out_dtype=torch.float32) / x[0].numel()
    f = at_least_float32(x)
    # Numbers that were bfloat16 multiply exactly on bfloat16 units and are summed in float32:
    # the same result, three to four times faster.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if x.dtype == torch.bfloat16 else before)
    try:
        with torch.autocast(x.device.type, enabled=False):
            return torch.baddbmm(f.new_zeros(()), f.mT, f, beta=0, alpha=1 / f[0].numel())
    finally:
        torch.set_float32_matmul_precision(before)


def gram_loss(stylized: Moments, style: Moments, relative: bool = True) -> Tensor:
    """Return ||G - G*||²; ``relative`` as in ``StyleLoss``."""
    difference = (stylized.gram - style.gram).square()
    if not relative:
        return difference.mean(dim=(1, 2))
    return difference.sum(dim=(1, 2)) / style.gram.square().sum(dim=(1, 2)).clamp_min(1e-12)


def statistics_loss(stylized: Moments, style: Moments, relative: bool = True) -> Tensor:
    """Return ||Δmean||² + ||Δstd||² of the channels."""
    std, target_std = ((x.variance + 1e-5).sqrt() for x in (stylized, style))
    difference = (stylized.mean - style.mean).square() + (std - target_std).square()
    if not relative:
        return difference.mean(dim=1)
    norm = (style.mean.square() + target_std.square()).sum(dim=1).clamp_min(1e-12)
    return difference.sum(dim=1) / norm


def draw_directions(channels: int, seed: int, device: torch.device) -> Tensor:
    """Return random unit directions (C,64) that depend on the seed alone."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.randn((channels, DIRECTIONS), generator=generator, device=device)
    return F.normalize(drawn, dim=0)


def sliced_wasserstein(
    stylized: Tensor, style: Tensor, relative: bool = True, directions: Tensor | None = None
) -> Tensor:
    """Return the mean squared distance of sorted projections of two feature maps (B,C,h,w).

    The projections are those of all positions onto ``directions`` (C,64), by default of seed 0.
    """
    if directions is None:
        directions = draw_directions(stylized.shape[1], 0, stylized.device)
    sorted_stylized, target = _project(stylized, directions), _project(style, directions)
    if (n := sorted_stylized.shape[2]) != target.shape[2]:  # quantiles of a painting's other size
        target = F.interpolate(target, n, mode="linear")  # (B,64,n)
    distance = (sorted_stylized - target).square().mean(dim=(1, 2))
    if not relative:
        return distance
    # The variance of a flat painting is nearly 0, its power is not.
    variance, power = target.var(dim=2, correction=0).mean(1), target.square().mean(dim=(1, 2))
    return distance / torch.maximum(variance, 0.01 * power).clamp_min(1e-12)


def _project(features: Tensor, directions: Tensor) -> Tensor:
    """Return the sorted projections (B,K,h·w) of features (B,C,h,w) onto directions (C,K)."""
    f = rearrange(at_least_float32(features), "b c h w -> b (h w) c")
    with torch.autocast(features.device.type, enabled=False):
        return (f @ directions.to(f.dtype)).mT.sort(dim=2).values


#: Levels of the style loss; each adds to those before it.
KINDS = ("gram", "statistics", "half_size", "sliced_wasserstein")
DIRECTIONS = 64
WASSERSTEIN_WEIGHT = 0.2  # relative to Gram and statistics
WASSERSTEIN_SIDE = 64  # larger maps are left out, which saves most of the time
HALF_SIZE_WEIGHT = 0.5


def half_size(images: Tensor, kind: str) -> list[Tensor]:
    """Return the half-size copies of images (B,3,H,W) that this kind also compares: one or none."""
    return [F.avg_pool2d(images, 2)] if KINDS.index(kind) >= KINDS.index("half_size") else []


class StyleLoss(nn.Module):
    """Style distance of outputs to paintings, averaged over layers.

    gram + statistics + 0.2 sliced Wasserstein, plus half of the same at half size.

    Args:
        layers: names of the style layers.
        kind: the last of ``KINDS`` to include.
        relative: divide each layer's distance by the squared norm of the painting's own
            statistics (Wasserstein: its variance), so that all layers and encoders count alike.
            This differs from Gatys et al.; False is the published form.
    """

    def __init__(
        self, layers: tuple[str, ...], kind: str = KINDS[-1], relative: bool = True
    ) -> None:
        super().__init__()
        self.layers, self.relative, self.level = layers, relative, KINDS.index(kind)

    def forward(
        self,
        stylized: Sequence[Features],
        style: Sequence[Features],
        directions: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Compare features at full size and, if ``half_size`` returns a copy, at half size.

        ``directions`` are those of the sliced Wasserstein distance, by number of channels.
        """
        pairs = zip(stylized, style, strict=True)
        values = [HALF_SIZE_WEIGHT**i * self._distance(*x, directions) for i, x in enumerate(pairs)]
        return torch.stack(values).sum(0)

    def _distance(
        self, stylized: Features, style: Features, directions: Mapping[int, Tensor] | None
    ) -> Tensor:
        def wasserstein(layer: str) -> Tensor:
            f, p = stylized[layer], style[layer]
            chosen = None if directions is None else directions[f.shape[1]]
            return sliced_wasserstein(f, p, self.relative, chosen)

        distances = []
        for layer in self.layers:
            pair = moments(stylized[layer]), moments(style[layer])
            distances.append(gram_loss(*pair, self.relative))
            if self.level >= KINDS.index("statistics"):
                distances[-1] = distances[-1] + statistics_loss(*pair, self.relative)
        total = torch.stack(distances).mean(0)
        if self.level >= KINDS.index("sliced_wasserstein"):
            sides = {layer: max(stylized[layer].shape[2:]) for layer in self.layers}
            small = [layer for layer in self.layers if sides[layer] <= WASSERSTEIN_SIDE]
            sliced = [wasserstein(layer) for layer in small or self.layers[-1:]]
            total = total + WASSERSTEIN_WEIGHT * torch.stack(sliced).mean(0)
        return total
