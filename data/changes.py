"""Changes that leave a photo's content alone: of its light, contrast, noise and compression.

Each grows with a severity, and 0 is the photo itself. What is random is drawn per position, and is
the same at every severity, so that curves over it are smooth.
"""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from kornia.enhance import adjust_brightness, adjust_contrast_with_mean_subtraction, adjust_gamma
from PIL import Image
from torch import Tensor

from .images import to_image, to_tensor

Generators = Sequence[np.random.Generator]  # one a picture


class Change(NamedTuple):
    """A kind of change."""

    apply: Callable[[Tensor, float, Generators], Tensor]
    severities: tuple[float, ...]  # from slight to severe
    unit: str  # what the severity is, in words


def _jpeg(images: Tensor, severity: float) -> Tensor:
    return torch.stack([_compressed(image, round(100 - severity)) for image in images]).to(images)


def _compressed(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    to_image(image).save(buffer, "JPEG", quality=quality)
    return to_tensor(Image.open(buffer))


def _noise(images: Tensor, severity: float, generators: Generators) -> Tensor:
    shape = images.shape[1:]
    drawn = [torch.from_numpy(g.standard_normal(shape, np.float32)) for g in generators]
    return (images + severity * torch.stack(drawn).to(images)).clamp(0, 1)


#: By name; the severities reach from what is hardly seen to what no one would publish.
CHANGES = {
    "brightness": Change(
        lambda images, severity, _: adjust_brightness(images, float(severity)),
        (0.05, 0.1, 0.2, 0.3, 0.4),
        "added to every value",
    ),
    "gamma": Change(
        lambda images, severity, _: adjust_gamma(images, 1 + float(severity)),
        (0.25, 0.5, 1.0, 1.5, 2.0),
        "exponent less 1: darker",
    ),
    "contrast": Change(
        lambda images, severity, _: adjust_contrast_with_mean_subtraction(images, 1.0 - severity),
        (0.1, 0.2, 0.4, 0.6, 0.8),
        "share of the contrast lost",
    ),
    "noise": Change(_noise, (0.02, 0.05, 0.1, 0.15, 0.2), "standard deviation"),
    "JPEG": Change(
        lambda images, severity, _: _jpeg(images, severity),
        (20, 50, 80, 90, 95),
        "100 less the quality",
    ),
}


def change(
    name: str, images: Tensor, severity: float, seed: int, positions: Sequence[int]
) -> Tensor:
    """Change pictures.

    Args:
        name: one of ``CHANGES``.
        images: (B,3,H,W) in [0,1].
        severity: in the change's own unit; 0 changes nothing.
        seed: of what is random.
        positions: of the pictures in their set; with the seed they decide what is drawn.

    Returns:
        (B,3,H,W) in [0,1].
    """
    if severity == 0:
        return images
    generators = [np.random.default_rng([seed, position]) for position in positions]
    return CHANGES[name].apply(images, severity, generators)
