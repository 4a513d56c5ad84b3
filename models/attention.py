"""The attention branch: where a photo is about to lose its content.

Spatial attention A is (B,1,h,w), >= 0, with spatial mean exactly 1, so that A = 1 everywhere is
the unweighted loss. Channel attention a is (B,C) per loss layer, >= 0, with mean 1.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def spatial_softmax(logits: Tensor) -> Tensor:
    """softmax over positions x h*w: logits (B,1,h,w) -> A (B,1,h,w) with mean one."""
    h, w = logits.shape[-2:]
    flat = rearrange(logits.float(), "b 1 h w -> b (h w)").softmax(-1) * (h * w)
    return rearrange(flat, "b (h w) -> b 1 h w", h=h)


def attention_to_strength(attention: Tensor, size: tuple[int, int]) -> Tensor:
    """A strength that spares what A marks: 1 / max(A, 1), as (B,1,H,W) of the size given.

    Full where A is at most its mean, half where it is twice that, a fifth where it is five times.
    """
    a = F.interpolate(attention, size, mode="bilinear")
    return 1 / a.clamp_min(1)


class SpatialAttention(nn.Module):
    """Trunk features (B,C,4h,4w at stride 4 -> stride 8) to the attention map A (B,1,h,w).

    Two dilated convolutions widen the view to about 150 pixels of the photo, enough to tell a
    face from a wall; the last layer starts at zero, so training starts from A = 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1),  # stride 4 -> 8
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=4, dilation=4),
            nn.ReLU(),
        )
        self.logits = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.logits.weight)

    def forward(self, trunk: Tensor) -> Tensor:
        return spatial_softmax(self.logits(self.body(trunk)))


class ChannelAttention(nn.Module):
    """Pooled trunk (B,C,h,w) to one weight per channel of each loss layer, mean one."""

    def __init__(self, width: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({layer: nn.Linear(width, c) for layer, c in channels.items()})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, trunk: Tensor) -> dict[str, Tensor]:
        pooled = F.relu(trunk).mean(dim=(2, 3))  # after instance norm the plain mean is zero
        logits = {layer: head(pooled).float() for layer, head in self.heads.items()}
        return {layer: x.softmax(-1) * x.shape[-1] for layer, x in logits.items()}
