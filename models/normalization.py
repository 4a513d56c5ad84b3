"""Instance normalization, adaptive or not, and spatial statistics, exact for planes of any size.

A float32 sum over millions of positions loses digits unless it is taken in parts. Torch's ``mean``
does so; its group norm on a CPU does so only in the contiguous layout, ONNX Runtime never.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
CHUNK = 2**19  # values, 2 MB: small enough for the cache of a CPU core


def instance_norm(x: Tensor) -> Tensor:
    """Apply instance norm to (B,C,h,w)."""
    if group_norm_is_exact(x):
        return _group_norm(x)
    mean, variance = moments(x)  # (B,C,1,1)
    scale = (variance + EPS).rsqrt()
    return torch.addcmul(-mean * scale, x, scale).to(x.dtype)


def adain(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Apply instance norm to (B,C,h,w), then multiply by 1 + ``scale`` and add ``bias`` (B,C)."""
    scale, bias = 1 + scale[..., None, None], bias[..., None, None]  # (B,C,1,1)
    if not group_norm_is_exact(x):
        mean, variance = moments(x)  # (B,C,1,1)
        scale = scale * (variance + EPS).rsqrt()
        return torch.addcmul(bias - mean * scale, x, scale).to(x.dtype)
    # The affine step of the norm, with each image's channels as further channels of one image.
    y = _group_norm(x.flatten(0, 1)[None], scale.flatten(), bias.flatten())
    return torch.ops.aten._unsafe_view(y, x.shape)  # autograd copies views that change in place


def _group_norm(x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Normalize with one channel per group: faster on a CPU.

    Moments are float32 for every dtype. Autocast would make the result float32 on a GPU, twice as
    much memory traffic in what follows; on a CPU it does not.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.group_norm(x, x.shape[1], scale, bias, EPS)


def mean_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return spatial mean and standard deviation, (B,C,H,W) -> (B,C), (B,C), at least float32."""
    mean, variance = moments(x)
    return mean[..., 0, 0], (variance[..., 0, 0] + EPS).sqrt()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return spatial mean and variance of (B,C,h,w), (B,C,1,1) each, at least float32.

    In two passes: E[x²] - E[x]² loses digits where the mean is large. On a CPU, the second one in
    chunks of rows stores no copy of x and is several times faster than torch's ``var``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if not x.is_cpu or torch.compiler.is_compiling():
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=wide)  # without a float32 copy
        if x.dtype != wide:  # E[x²] - E[x]² loses no digit that it has
            norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True, dtype=wide)
            square = norm.square() / (x.shape[2] * x.shape[3])
            return mean, (square - mean.square()).clamp_min(0)
        return mean, (x - mean).square().mean(dim=(2, 3), keepdim=True)
    x = x.to(wide)
    mean = x.mean(dim=(2, 3), keepdim=True)
    batch, channels, height, width = x.shape
    rows = max(1, CHUNK // (batch * channels * width))
    squares = [(y - mean).square().sum(dim=(2, 3), keepdim=True) for y in x.split(rows, dim=2)]
    return mean, torch.stack(squares).sum(0) / (height * width)


def group_norm_is_exact(x: Tensor) -> bool:
    """Return whether ``F.group_norm`` has exact moments of (B,C,h,w).

    On a CPU in channels_last, it computes E[x²] - E[x]² from one float32 sum per channel. In ONNX,
    it becomes an operator that ONNX Runtime computes from one float32 sum per plane.
    """
    if torch.compiler.is_exporting():
        return False
    channels_last = x.is_contiguous(memory_format=torch.channels_last)  # and contiguous if C = 1
    return not x.is_cpu or (x.is_contiguous() and not channels_last)
