"""SSIM and LPIPS between photo and output, one value per image."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Literal

import torch
from einops import rearrange
from kornia.color import rgb_to_grayscale
from kornia.metrics import ssim
from torch import Tensor

from ..models.encoder import Features

SSIM_WINDOW = 11  # Wang et al. 2004: 11x11 Gaussian, sigma 1.5
ALEX_LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


def local_ssim(stylized: Tensor, content: Tensor) -> Tensor:
    """Compute the SSIM of luminance of images (B,3,H,W) around each position, (B,1,H-10,W-10)."""
    gray = [rgb_to_grayscale(x.float()) for x in (stylized, content)]
    # "valid" as in the reference implementation: no padded borders in the mean
    return ssim(gray[0], gray[1], SSIM_WINDOW, padding="valid")


def ssim_scores(local: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of a ``local_ssim`` and that over its worst tenth of positions, (B,), (B,).

    The worst tenth shows content that is lost locally.
    """
    values = local.flatten(1)
    worst = values.topk(max(1, values.shape[1] // 10), dim=1, largest=False).values
    return values.mean(1), worst.mean(1)


def lpips_heads(network: Literal["vgg", "alex"] = "vgg") -> list[Tensor]:
    """Load LPIPS' linear weights (C,) per layer for VGG16 or AlexNet (v0.1) from torchmetrics."""
    state = torchmetrics_weights(f"lpips_models/{network}.pth")
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(len(LPIPS_LAYERS))]


def torchmetrics_weights(name: str) -> dict[str, Tensor]:
    """Load a file of weights inside torchmetrics, relative to ``functional/image``."""
    with as_file(files("torchmetrics.functional.image").joinpath(name)) as path:
        state: dict[str, Tensor] = torch.load(path, "cpu", weights_only=True)  # noqa: TID251 (tensors only)
    return state


def lpips_vector(
    features: Features, heads: list[Tensor], layers: Sequence[str] = LPIPS_LAYERS
) -> Tensor:
    """Flatten features at the layers of LPIPS to a vector (B,D); see ``lpips``."""
    pairs = zip(layers, heads, strict=True)
    return torch.cat([_weighted(features[layer].float(), head) for layer, head in pairs], dim=1)


def _weighted(features: Tensor, head: Tensor) -> Tensor:
    """Unit features times √(w_c / positions): weights and mean of Eq. 1, moved into the square."""
    unit = features / (features.norm(dim=1, keepdim=True) + 1e-10)
    weights = (head / unit[0, 0].numel()).sqrt()
    return rearrange(unit * weights[:, None, None], "b c h w -> b (h w c)")


def lpips(a: Tensor, b: Tensor) -> Tensor:
    """Compute LPIPS (Zhang et al. 2018, Eq. 1) of two ``lpips_vector``s (B,D) -> (B,).

    It is the published LPIPS only on torchvision's ImageNet weights; name any other weights.
    """
    return (a - b).square().sum(dim=1)
