"""Attention branches: predict from the photo alone where stylization will damage content.

A branch regresses the standardized log error of the output, and its prediction g becomes

    A = n · softmax(γ · standardize(g))        over the n positions of an image

with γ such that the KL divergence of A/n to uniform is the budget ρ. So A can be neither flat nor
collapsed, however well or badly g predicts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .color import luminance

# A prediction of smaller std gives a flatter map. The branch regresses a target of std about 0.7,
# so this affects only one that explains next to nothing, as at the start (g = 0).
MIN_SPREAD = 0.1
BISECTIONS = 20


class PredictedError(NamedTuple):
    """Predicted standardized log errors of the output."""

    positions: Tensor  # (B,1,h,w)
    channels: dict[str, Tensor]  # loss layer -> (B,C); empty without channel attention


def attention_map(log_error: Tensor, budget: float) -> Tensor:
    """Return A = n · softmax(γ · standardize(log_error)), float32 with mean 1 per image.

    γ = √(2ρ) is exact if the standardized error is Gaussian. For others, bisection finds γ within
    a factor of 8 of it; a fixed number of steps copies nothing to the host.

    Args:
        log_error: (B,...) with n entries per image; a constant one gives A = 1.
        budget: ρ in nats.
    """
    x = log_error.float().flatten(1)  # (B,n)
    x = x - x.mean(1, keepdim=True)
    spread = x.detach().square().mean(1, keepdim=True).sqrt()
    x = x / spread.clamp_min(1e-12)
    with torch.no_grad():
        low = torch.full_like(spread, -3.0)  # log2 of γ / √(2ρ)
        step, log_n = 3.0, torch.zeros_like(x).logsumexp(1, keepdim=True)
        for _ in range(BISECTIONS):
            gamma = (2 * budget) ** 0.5 * (low + step).exp2()
            log_p = (gamma * x).log_softmax(1)
            kl = (log_p.exp() * log_p).sum(1, keepdim=True) + log_n
            low = torch.where(kl < budget, low + step, low)
            step /= 2
        gamma = (2 * budget) ** 0.5 * low.exp2() * (spread / MIN_SPREAD).clamp(max=1)
    return ((gamma * x).softmax(1) * x.shape[1]).view_as(log_error)


def attention_to_strength(attention: Tensor, size: Sequence[int]) -> Tensor:
    """Return the strength 1 / max(A, 1) at ``size``, (B,1,h,w) -> (B,1,H,W) in (0,1].

    The strength is 1 where A is at most its mean, 1/2 where A is twice the mean.
    """
    return 1 / enlarge(attention, size).clamp_min(1)


def enlarge(attention: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge a map of 8x8 pixels per position to the photo's size, (B,1,h,w) -> (B,1,H,W).

    The last positions may extend beyond the photo, which was padded: that part is cut off.
    """
    return F.interpolate(attention, scale_factor=8, mode="bilinear")[..., : size[0], : size[1]]


def luminance_statistics(photo: Tensor) -> Tensor:
    """Return mean, log variance and log fine variance of the luminance in windows of 8x8 pixels,
    (B,3,H,W) -> (B,3,h,w) of order one. The trunk's instance norm removes absolute contrast.
    """
    height, width = photo.shape[-2:]
    y = luminance(photo.float())
    y = F.pad(y, (0, -width % 8, 0, -height % 8), mode="reflect")  # (B,1,8h,8w), as for the trunk

    def average(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 8)

    def small(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)

    mean = average(y)  # (B,1,h,w)
    variance = average(y.square()) - mean.square()
    fine = average(small(y.square()) - small(y).square())
    logs = [x.clamp_min(0).add(1e-5).log() / 4 for x in (variance, fine)]
    return torch.cat([mean, *logs], dim=1)


class SpatialAttention(nn.Module):
    """Predict the log error (B,1,h,w) from a photo and its trunk features.

    Dilation widens the receptive field to 15 trunk positions (120 pixels). The last layer starts
    at zero, so training starts from A = 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = half = width // 2
        self.down = nn.Conv2d(half, half, 2, stride=2)
        self.body = nn.Sequential(
            nn.Conv2d(width + half + 3, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, photo: Tensor, x4: Tensor, x8: Tensor) -> Tensor:
        """Return g (B,1,h,w) of photos (B,3,H,W) and features (B,C/2,2h,2w) and (B,C,h,w)."""
        inputs = [x8, self.down(x4), luminance_statistics(photo)]
        return self.head(self.body(torch.cat(inputs, dim=1)))


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
