"""Feature normalization: what is divided out before two feature maps are compared."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def l2(features: Tensor) -> Tensor:
    """f / ||f||_2 over (C,H,W), times sqrt(CHW), per image.

    The factor gives unit mean square, so that our *mean* of squared differences equals the
    paper's *sum* over its L2-normalized features.
    """
    return features * features.square().mean(dim=(1, 2, 3), keepdim=True).add(1e-12).rsqrt()


def batch(features: Tensor) -> Tensor:
    """BatchNorm without parameters (the paper's second option). Averages over the batch, so a
    picture's loss depends on the others in its (per-process) batch.
    """
    return F.batch_norm(features, None, None, training=True)


#: (B,C,H,W) -> (B,C,H,W)
NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "l2": l2,
    "instance": F.instance_norm,
    "batch": batch,
}
