"""Instance normalization, adaptive or not, and the spatial statistics of feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_norm(x: Tensor) -> Tensor:
    """Apply instance norm to (B,C,h,w)."""
    return F.group_norm(x, x.shape[1])  # one channel per group: faster on a CPU


def adain(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Apply instance norm to (B,C,h,w), then a scale and bias (B,C) from the style."""
    if x.shape[0] == 1:  # fused into the affine step of the norm: one pass over memory less
        return F.group_norm(x, x.shape[1], 1 + scale[0], bias[0])
    return torch.addcmul(bias[..., None, None], instance_norm(x), 1 + scale[..., None, None])


def mean_std(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Return spatial mean and standard deviation, (B,C,H,W) -> (B,C), (B,C) in float32."""
    x = x.float()
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(2, 3))  # several times faster than var on a CPU
    return mean[..., 0, 0], (variance + eps).sqrt()
