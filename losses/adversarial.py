"""Adversarial losses on patch logits (B,1,h,w), R1 and feature matching; one value per image, (B,).

Losses are averaged over patches and computed in float32.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GanLoss(NamedTuple):
    """Losses per patch, as functions of the logit."""

    real: Callable[[Tensor], Tensor]  # D on paintings
    fake: Callable[[Tensor], Tensor]  # D on outputs
    generator: Callable[[Tensor], Tensor]  # G on outputs
    threshold: float  # logits above it mean "painting"


GAN_LOSSES = {
    # Mao et al. 2017, with the 1/2 of their Eq. 9
    "lsgan": GanLoss(
        lambda x: 0.5 * (x - 1).square(),
        lambda x: 0.5 * x.square(),
        lambda x: 0.5 * (x - 1).square(),
        0.5,
    ),
    # Lim & Ye 2017
    "hinge": GanLoss(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x), lambda x: -x, 0.0),
    # Goodfellow et al. 2014, section 3; use it with R1 (Mescheder et al. 2018)
    "nonsaturating": GanLoss(
        lambda x: F.softplus(-x), lambda x: F.softplus(x), lambda x: F.softplus(-x), 0.0
    ),
}


def real_loss(logits: Tensor, gan_loss: str) -> Tensor:
    """Return the discriminator's loss on paintings."""
    return _mean(GAN_LOSSES[gan_loss].real(logits.float()))


def fake_loss(logits: Tensor, gan_loss: str) -> Tensor:
    """Return the discriminator's loss on outputs."""
    return _mean(GAN_LOSSES[gan_loss].fake(logits.float()))


def generator_loss(logits: Tensor, gan_loss: str) -> Tensor:
    """Return the generator's loss on its own outputs."""
    return _mean(GAN_LOSSES[gan_loss].generator(logits.float()))


def fraction_real(logits: Tensor, gan_loss: str) -> Tensor:
    """Return the fraction of patches classified as painting."""
    return _mean((logits.detach().float() > GAN_LOSSES[gan_loss].threshold).float())


def mean_logit(logits: Tensor) -> Tensor:
    """Return the mean logit over patches."""
    return _mean(logits.float())


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """Return ||∇_x D(x)||² on paintings (Mescheder et al. 2018, Eq. 9 without γ/2).

    ``real`` (B,3,H,W) must require gradients and have produced the logits.
    """
    (gradient,) = torch.autograd.grad(mean_logit(logits).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def feature_matching(stylized: Sequence[Tensor], content: Sequence[Tensor]) -> Tensor:
    """Compare the discriminator's features (B,C,h,w) of output and photo, averaged over layers.

    Each layer's squared distance is relative to the photo's features, so that all layers count
    alike. The photo's features are detached.
    """
    terms = []
    for f, p in zip(stylized, content, strict=True):
        p = p.detach().float()
        terms.append(_mean((f.float() - p).square()) / _mean(p.square()).clamp_min(1e-8))
    return torch.stack(terms).mean(0)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2, 3))
