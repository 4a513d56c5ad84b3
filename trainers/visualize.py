"""Attention overlays and image grids."""

import torch
from torch import Tensor
from torchvision.utils import make_grid

from ..models.attention import enlarge

HEAT = torch.tensor([1.0, 0.35, 0.05])  # RGB of high attention


def overlay(photo: Tensor, attention: Tensor) -> Tensor:
    """Blend an attention map A (B,1,h,w) as heat over the gray photo (B,3,H,W), in [0,1].

    A = 0 is gray and A >= 3 is full heat in every image, so that a flat map looks flat.
    """
    a = enlarge(attention.float(), photo.shape[-2:])
    alpha = 0.85 * (a / 3).clamp(0, 1)
    gray = photo.mean(dim=1, keepdim=True)
    heat = HEAT.to(photo.device)[:, None, None]
    return (gray * (1 - alpha) + heat * alpha).clamp(0, 1)


def training_grid(content: Tensor, style: Tensor, stylized: Tensor, attention: Tensor) -> Tensor:
    """Return one row per example (photo, painting, output, attention) as (3,H,W) in [0,1]."""
    columns = torch.stack([content, style, stylized, overlay(content, attention)], dim=1)
    return make_grid(columns.flatten(0, 1).float().cpu(), nrow=4, padding=2, pad_value=1.0)
