"""Feature normalization before two feature maps are compared, (B,C,H,W) -> (B,C,H,W).

The result is at least float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _wide(features: Tensor) -> Tensor:
    return features.to(_at_least_float32(features.dtype))


def l2(features: Tensor) -> Tensor:
    """Return f / ||f||_2 over (C,H,W), times sqrt(CHW), per image.

    With unit mean square, our mean of squared differences equals the sum over L2-normalized
    features in 问答酱 (2025).
    """
    # Converted in the kernel: without a copy.
    norm = torch.linalg.vector_norm(
        features, dim=(1, 2, 3), keepdim=True, dtype=_at_least_float32(features.dtype)
    )
    return features * (norm.square() / features[0].numel() + 1e-12).rsqrt()


def batch(features: Tensor) -> Tensor:
    """Apply BatchNorm without parameters, the paper's second option.

    The loss of an image then depends on the other images in its process's micro-batch.
    """
    return F.batch_norm(_wide(features), None, None, training=True)


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _wide,
    "l2": l2,
    "instance": lambda features: F.instance_norm(_wide(features)),
    "batch": batch,
}
