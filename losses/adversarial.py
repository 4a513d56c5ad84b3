"""Adversarial losses on patch logits, the R1 penalty and feature matching; each (B,) per image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Sequence[Tensor]  # one (B,1,h,w) per scale


class GanLoss(NamedTuple):
    """Per-patch losses of one adversarial game."""

    real: Callable[[Tensor], Tensor]  # D on paintings
    fake: Callable[[Tensor], Tensor]  # D on outputs
    generator: Callable[[Tensor], Tensor]
    middle: float  # logits above it say "painting"


GAN_LOSSES = {
    # Mao et al. 2017, with the ½ of their Eq. 9
    "lsgan": GanLoss(
        lambda x: 0.5 * (x - 1).square(),
        lambda x: 0.5 * x.square(),
        lambda x: 0.5 * (x - 1).square(),
        0.5,
    ),
    # Lim & Ye 2017
    "hinge": GanLoss(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x), lambda x: -x, 0.0),
    # Goodfellow et al. 2014, section 3; wants R1 (Mescheder et al. 2018)
    "nonsaturating": GanLoss(
        lambda x: F.softplus(-x), lambda x: F.softplus(x), lambda x: F.softplus(-x), 0.0
    ),
}


def _per_image(logits: Logits, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over patches, then over scales."""
    return torch.stack([loss(x.float()).mean(dim=(1, 2, 3)) for x in logits]).mean(0)


def real_loss(logits: Logits, gan_loss: str) -> Tensor:
    """D's loss on paintings, (B,)."""
    return _per_image(logits, GAN_LOSSES[gan_loss].real)


def fake_loss(logits: Logits, gan_loss: str) -> Tensor:
    """D's loss on outputs, (B,)."""
    return _per_image(logits, GAN_LOSSES[gan_loss].fake)


def generator_loss(logits: Logits, gan_loss: str) -> Tensor:
    """G's loss on its own outputs, (B,)."""
    return _per_image(logits, GAN_LOSSES[gan_loss].generator)


def fraction_real(logits: Logits, gan_loss: str) -> Tensor:
    """Share of patches that D takes for a painting's, (B,)."""
    return _per_image(logits, lambda x: (x.detach() > GAN_LOSSES[gan_loss].middle).float())


def mean_logit(logits: Logits) -> Tensor:
    """Mean logit, (B,): how much of a painting D sees."""
    return _per_image(logits, lambda x: x)


def r1_penalty(logits: Logits, real: Tensor) -> Tensor:
    """||∇_x D(x)||² on paintings (Mescheder et al. 2018, Eq. 9 without γ/2), (B,).

    ``real`` (B,3,H,W) must require grad and have produced the logits.
    """
    (gradient,) = torch.autograd.grad(mean_logit(logits).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def feature_matching(
    stylized: Sequence[Sequence[Tensor]], content: Sequence[Sequence[Tensor]]
) -> Tensor:
    """The content-aware loss on D's own features, output against photo, (B,).

    Each layer's squared distance is relative to the photo's features, so that widths and scales
    count alike; the photo's side carries no gradient.
    """
    terms = []
    for scale, scale_ in zip(stylized, content, strict=True):
        for f, p in zip(scale, scale_, strict=True):
            p = p.detach().float()
            error = (f.float() - p).square().mean(dim=(1, 2, 3))
            terms.append(error / p.square().mean(dim=(1, 2, 3)).clamp_min(1e-8))
    return torch.stack(terms).mean(0)
