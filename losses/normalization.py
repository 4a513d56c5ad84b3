"""Feature normalization before two feature maps are compared, (B,C,H,W) -> (B,C,H,W)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def l2(features: Tensor) -> Tensor:
    """Return f / ||f||_2 over (C,H,W), times sqrt(CHW), per image.

    With unit mean square, our mean of squared differences equals the sum over L2-normalized
    features in 问答酱 (2025).
    """
    return features * features.square().mean(dim=(1, 2, 3), keepdim=True).add(1e-12).rsqrt()


def batch(features: Tensor) -> Tensor:
    """Apply BatchNorm without parameters, the paper's second option.

    The loss of an image then depends on the other images in its process's micro-batch.
    """
    return F.batch_norm(features, None, None, training=True)


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "l2": l2,
    "instance": F.instance_norm,
    "batch": batch,
}
