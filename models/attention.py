"""Attention branches: predict from the photo alone where stylization will damage content.

A branch regresses the standardized log error of the output, and its prediction g becomes

    A = n · softmax(√(2ρ) · standardize(g))        over the n positions of an image

For Gaussian g, the KL divergence of A/n to uniform is exactly the budget ρ, so A can be neither
flat nor collapsed, however well or badly g predicts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

# A prediction of smaller std gives a proportionally flatter map. The branch regresses a target of
# std about 0.7, so this affects only one that explains next to nothing, as at the start (g = 0).
MIN_SPREAD = 0.1


class PredictedError(NamedTuple):
    """Predicted standardized log errors of the output."""

    positions: Tensor  # (B,1,h,w)
    channels: dict[str, Tensor]  # loss layer -> (B,C); empty without channel attention


def attention_map(log_error: Tensor, budget: float) -> Tensor:
    """Return A = n · softmax(√(2ρ) · standardize(log_error)), float32 with mean 1 per image.

    Args:
        log_error: (B,...) with n entries per image; a constant one gives A = 1.
        budget: ρ in nats, the KL divergence of A/n to uniform if ``log_error`` is Gaussian.
    """
    flat = log_error.float().flatten(1)  # (B,n)
    flat = flat - flat.mean(1, keepdim=True)
    spread = flat.square().mean(1, keepdim=True).clamp_min(MIN_SPREAD**2).sqrt()
    weights = ((2 * budget) ** 0.5 * flat / spread).softmax(1) * flat.shape[1]
    return weights.view_as(log_error)


def attention_to_strength(attention: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the strength 1 / max(A, 1) at ``size``, (B,1,h,w) -> (B,1,H,W) in (0,1].

    The strength is 1 where A is at most its mean, 1/2 where A is twice the mean.
    """
    a = F.interpolate(attention, size, mode="bilinear")
    return 1 / a.clamp_min(1)


class SpatialAttention(nn.Module):
    """Map trunk features (B,C,h,w) to the predicted log error (B,1,h,w), both at stride 8.

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
        self.head = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, trunk: Tensor) -> Tensor:
        return self.head(self.body(trunk))


class ChannelAttention(nn.Module):
    """Map trunk features (B,C,h,w) to the predicted log error of each loss layer's channels."""

    def __init__(self, width: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({layer: nn.Linear(width, c) for layer, c in channels.items()})
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, trunk: Tensor) -> dict[str, Tensor]:
        pooled = F.relu(trunk).mean(dim=(2, 3))  # (B,C); without ReLU, instance norm makes it 0
        return {layer: head(pooled) for layer, head in self.heads.items()}
