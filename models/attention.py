"""Attention branches: predict from the photo alone where stylization will damage content.

Spatial attention A is (B,1,h,w), >= 0, with spatial mean exactly 1 per image, so that A = 1 is the
unweighted loss. Channel attention is (B,C) per loss layer, >= 0, with mean 1.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def spatial_softmax(logits: Tensor) -> Tensor:
    """Return A = h*w * softmax over positions, (B,1,h,w) -> (B,1,h,w) float32 with mean 1."""
    h, w = logits.shape[-2:]
    flat = rearrange(logits.float(), "b 1 h w -> b (h w)").softmax(-1) * (h * w)
    return rearrange(flat, "b (h w) -> b 1 h w", h=h)


def attention_to_strength(attention: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the strength 1 / max(A, 1) at ``size``, (B,1,h,w) -> (B,1,H,W) in (0,1].

    The strength is 1 where A is at most its mean, 1/2 where A is twice the mean.
    """
    a = F.interpolate(attention, size, mode="bilinear")
    return 1 / a.clamp_min(1)


class SpatialAttention(nn.Module):
    """Map trunk features (B,C,h,w) to attention A (B,1,h,w), both at stride 8.

    Dilation widens the receptive field to 15 trunk positions (120 pixels). The last layer starts
    at zero, so training starts from A = 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 2
        self.body = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4),
            nn.ReLU(),
        )
        self.logits = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.logits.weight)

    def forward(self, trunk: Tensor) -> Tensor:
        return spatial_softmax(self.logits(self.body(trunk)))


class ChannelAttention(nn.Module):
    """Map trunk features (B,C,h,w) to one weight per channel of each loss layer, mean 1."""

    def __init__(self, width: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({layer: nn.Linear(width, c) for layer, c in channels.items()})
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, trunk: Tensor) -> dict[str, Tensor]:
        pooled = F.relu(trunk).mean(dim=(2, 3))  # (B,C); without ReLU, instance norm makes it 0
        logits = {layer: head(pooled).float() for layer, head in self.heads.items()}
        return {layer: x.softmax(-1) * x.shape[-1] for layer, x in logits.items()}
