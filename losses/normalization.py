"""Feature normalization before two feature maps are compared, (B,C,H,W) -> (B,C,H,W).

The result is at least float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; other features are returned as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2(features: Tensor) -> Tensor:
    """Return f / ||f||_2 over (C,H,W), times sqrt(CHW), per image.

    With unit mean square, our mean of squared differences equals the sum over L2-normalized
    features in 问答酱 (2025).
    """
    # Converted in the kernel: without a copy.
    wide = torch.promote_types(features.dtype, torch.float32)
    norm = torch.linalg.vector_norm(features, dim=(1, 2, 3), keepdim=True, dtype=wide)
    return features * (norm.square() / features[0].numel() + 1e-12).rsqrt()


def batch(features: Tensor) -> Tensor:
    """Apply BatchNorm without parameters, the paper's second option.

    The loss of an image then depends on the other images in its process's micro-batch.
    """
    return F.batch_norm(at_least_float32(features), None, None, training=True)


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": at_least_float32,
    "l2": l2,
    "instance": lambda features: F.instance_norm(at_least_float32(features)),
    "batch": batch,
}
