"""Content losses: pixel, feature, multi-scale, attention-weighted.

The paper writes sums, we write means: its ½ Σ_ij (F_ij - P_ij)² over C x h x w entries equals
ours times ``C·h·w / 2``. One value per image, (B,), everywhere.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .normalization import NORMALIZATIONS

Features = dict[str, Tensor]
LayerWeights = Sequence[tuple[str, float]]


def pixel_loss(stylized: Tensor, content: Tensor) -> Tensor:
    """Mean squared difference of two images (B,C,H,W) -> (B,); the table's baseline."""
    return (stylized - content).square().mean(dim=(1, 2, 3))


def attention_at(attention: Tensor, size: Sequence[int]) -> Tensor:
    """A (B,1,h,w) at another resolution, again with mean one.

    The logits (log A) are resized and go through the softmax again, as DESIGN fixes it; at its
    own resolution A comes back as it is.
    """
    if tuple(attention.shape[-2:]) == tuple(size):
        return attention
    logits = F.interpolate(
        attention.clamp_min(1e-8).log(), tuple(size), mode="bilinear", antialias=True
    )
    h, w = logits.shape[-2:]
    flat = rearrange(logits, "b 1 h w -> b (h w)").softmax(-1) * (h * w)
    return rearrange(flat, "b (h w) -> b 1 h w", h=h)


class ContentLoss(nn.Module):
    """Σ_l λ_l · mean(A_l · E_l): the paper's content losses, all of them.

    One layer with weight 1 is the paper's L_content, several are the multi-scale loss, A ≠ 1 is
    L_attention. It comes in two steps, because the attention objectives look at the errors
    before anything is weighted: ``squared_errors`` and then ``forward``.

    Args:
        layers: (name, λ_l) pairs.
        normalization: one of ``features.NORMALIZATIONS``.
    """

    def __init__(self, layers: LayerWeights, normalization: str = "l2") -> None:
        super().__init__()
        self.layers = dict(layers)
        self.normalize = NORMALIZATIONS[normalization]

    def squared_errors(self, stylized: Features, content: Features) -> Features:
        """Per layer (F - P)² of the normalized features, (B,C,h,w), float32."""
        return {
            layer: (
                self.normalize(stylized[layer].float()) - self.normalize(content[layer].float())
            ).square()
            for layer in self.layers
        }

    def forward(
        self,
        squared_errors: Features,
        attention: Tensor | None = None,
        channels: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Loss (B,) from squared errors; A (B,1,h,w) and a_c (B,C) default to ones."""
        per_layer = [
            weight * weighted(squared_errors[layer], attention, (channels or {}).get(layer))
            for layer, weight in self.layers.items()
        ]
        return torch.stack(per_layer).sum(0)


def content_error(squared: Tensor, channels: Tensor | None = None) -> Tensor:
    """E (B,1,h,w): mean over channels of (a_c ·) the squared errors (B,C,h,w)."""
    if channels is not None:
        squared = squared * channels[..., None, None]
    return squared.mean(dim=1, keepdim=True)


def weighted(squared: Tensor, attention: Tensor | None, channels: Tensor | None = None) -> Tensor:
    """mean_ij(A_ij · E_ij), (B,). Without A it is the plain mean, to the last bit."""
    error = content_error(squared, channels)
    if attention is not None:
        error = attention_at(attention, error.shape[-2:]) * error
    return error.mean(dim=(1, 2, 3))
