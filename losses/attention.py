"""Attention objectives: which map A weights the content loss, and what the branch learns.

Minimizing the weighted content loss over A makes A *hide* the errors. So A enters that loss as a
constant, and the branch learns, by cross-entropy, a target A* that marks where content is damaged.
Maps are (B,1,h,w), >= 0, with spatial mean 1. Only the branch's own loss carries a gradient.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from kornia.color import rgb_to_grayscale
from kornia.metrics import ssim
from torch import Tensor, nn

from .content import Features, content_error

BISECTIONS = 40
MIN_DISSIMILARITY = 1e-3  # added to Q, so that an output equal to its photo has a flat Q
FLAT = 0.05  # a map whose KL is below this share of the budget is called flat
CLIP = 5.0  # range of the target ``structural``: [1/(2 CLIP), CLIP] times the mean


def mean_one(x: Tensor) -> Tensor:
    """Scale a non-negative map (B,1,h,w) to spatial mean 1; an all-zero map becomes ones."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return torch.where(mean > 0, x / mean.clamp_min(1e-20), torch.ones_like(x))


def kl_to_uniform(attention: Tensor) -> Tensor:
    """Return KL(A/hw || uniform) in nats, (B,): 0 if flat, log(hw) if all on one position."""
    return torch.special.xlogy(attention, attention).mean(dim=(1, 2, 3))


def robust_weights(error: Tensor, budget: float | Tensor) -> Tensor:
    """Return the weights that maximize mean(A·E) subject to KL(A/n || uniform) <= budget.

    Closed form A* = n · softmax(E/τ), τ by bisection on log τ (KL falls as τ grows) with a fixed
    number of steps, so that nothing is copied to the host. If the budget cannot be reached (a flat
    E, a tiny map), the sharpest softmax is returned.

    Args:
        error: (B,...) any non-negative error; all n entries per image are weighted.
        budget: in nats, a number or (B,).
    """
    flat = error.detach().flatten(1).double()
    n = flat.shape[1]
    spread = (flat.amax(1) - flat.amin(1)).clamp_min(1e-30)
    flat = (flat - flat.amax(1, keepdim=True)) / spread[:, None]  # in [-1,0]
    low, high = torch.full_like(spread, math.log(1e-6)), torch.full_like(spread, math.log(1e6))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        p = torch.softmax(flat / middle.exp()[:, None], dim=1)
        too_sharp = torch.special.xlogy(p, p * n).sum(1) > budget
        low, high = torch.where(too_sharp, middle, low), torch.where(too_sharp, high, middle)
    weights = n * torch.softmax(flat / high.exp()[:, None], dim=1)
    return weights.view_as(error).to(error.dtype)


def error_map(
    errors: Mapping[str, Tensor], layers: Mapping[str, float], grid: tuple[int, int]
) -> Tensor:
    """Return E = Σ_l λ_l · resize(E_l / mean(E_l)) on A's grid, (B,1,h,w); means per image."""
    parts = [
        weight
        * F.interpolate(mean_one(errors[layer].detach()), grid, mode="bilinear", antialias=True)
        for layer, weight in layers.items()
    ]
    return torch.stack(parts).sum(0).clamp_min(0)


def structural_dissimilarity(stylized: Tensor, content: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return Q = (1 - SSIM)/2 of the luminances in 7x7 windows, averaged on the grid, (B,1,h,w)."""
    gray = [rgb_to_grayscale(x.detach().float()) for x in (stylized, content)]
    return F.adaptive_avg_pool2d((1 - ssim(gray[0], gray[1], 7)) / 2, grid) + MIN_DISSIMILARITY


TARGETS = ("structural", "robust_structural", "robust")
OBJECTIVES = ("uniform", "observed", "learned", "oracle", "shuffled", "saliency", "joint", "gate")


def needs_branch(objective: str) -> bool:
    """Return whether the generator needs an attention branch for this objective."""
    return objective in ("observed", "learned", "shuffled", "joint", "gate")


def branch_loss(attention: Tensor, target: Tensor) -> Tensor:
    """Return KL(A*/n || A/n) in nats, (B,), for maps (B,1,h,w) or channel weights (B,C)."""
    log_ratio = target.clamp_min(1e-8).log() - attention.clamp_min(1e-8).log()
    return (target * log_ratio).mean(dim=tuple(range(1, target.dim())))


class AttentionResult(NamedTuple):
    """Weights for the content loss, and the branch's own loss."""

    attention: Tensor | None  # (B,1,h,w); None means A = 1
    channels: dict[str, Tensor]  # layer -> (B,C)
    loss: Tensor  # (B,)


class AttentionObjective(nn.Module):
    """Choose the weights of the content loss and compute the branch's loss.

    Objectives:

    - ``uniform``   A = 1.
    - ``observed``  A = 1, but the branch learns the target: for inspection, or to start from.
    - ``learned``   the branch's A, detached; the branch learns the target.
    - ``oracle``    the target itself, without a branch: an upper bound for ``learned``.
    - ``shuffled``  another photo's A: control for *where* A is high. Needs two images per process.
    - ``saliency``  the encoder's energy, at the same KL to uniform as the target.
    - ``joint``     the naive minimizer, A with gradient; collapses.
    - ``gate``      the branch's A, detached; it learns only through the gated decoder.

    Targets:

    - ``structural``         proportional to the dissimilarity Q; nearly flat on real outputs.
    - ``robust_structural``  ``robust_weights`` of Q: as sharp as the budget allows.
    - ``robust``             ``robust_weights`` of the content error E.

    Args:
        layers: layer name -> λ_l of the content loss.
        objective, target: as above.
        budget: KL to uniform of robust targets, in nats.
        channel_budget: the same for channel attention.
    """

    def __init__(
        self,
        layers: Mapping[str, float],
        objective: str = "learned",
        target: str = "structural",
        budget: float = 0.5,
        channel_budget: float = 0.1,
    ) -> None:
        super().__init__()
        assert objective in OBJECTIVES
        assert target in TARGETS
        self.layers, self.objective, self.target = dict(layers), objective, target
        self.budget, self.channel_budget = budget, channel_budget

    def forward(
        self,
        attention: Tensor,
        channels: dict[str, Tensor],
        squared: Features,
        content_features: Features,
        stylized: Tensor,
        content: Tensor,
    ) -> AttentionResult:
        """Weight a batch.

        Args:
            attention: predicted A (B,1,h,w).
            channels: predicted channel attention, layer -> (B,C).
            squared: squared errors of ``ContentLoss``, layer -> (B,C,h,w).
            content_features: features of the photo.
            stylized, content: output and photo (B,3,H,W).

        Raises:
            ValueError: ``shuffled`` with a single image.
        """
        loss = attention.new_zeros(len(attention))
        for layer, predicted in channels.items():
            per_channel = reduce(squared[layer].detach(), "b c h w -> b c", "mean")
            target = robust_weights(per_channel, self.channel_budget)
            loss = loss + branch_loss(predicted, target) / len(channels)
        frozen = {layer: weights.detach() for layer, weights in channels.items()}

        if self.objective == "uniform":
            return AttentionResult(None, frozen, loss)
        if self.objective == "joint":
            return AttentionResult(attention, frozen, loss)
        if self.objective == "gate":
            return AttentionResult(attention.detach(), frozen, loss)

        h, w = attention.shape[-2:]
        target = self._target(squared, frozen, stylized, content, (h, w))
        if self.objective == "oracle":
            return AttentionResult(target, frozen, loss)
        if self.objective == "saliency":
            energy = {k: content_features[k].float().square().mean(1, True) for k in self.layers}
            energy_map = error_map(energy, self.layers, (h, w))
            saliency = robust_weights(energy_map, kl_to_uniform(target))
            return AttentionResult(saliency, frozen, loss)
        loss = loss + branch_loss(attention, target)
        if self.objective == "observed":
            return AttentionResult(None, frozen, loss)
        used = attention.detach()
        if self.objective == "shuffled":
            if len(used) < 2:
                raise ValueError(
                    "attention objective 'shuffled' needs at least two images per process and "
                    "micro-batch; raise batch_size or lower accumulate"
                )
            used = used.roll(1, dims=0)
        return AttentionResult(used, frozen, loss)

    @torch.no_grad()
    def _target(
        self, squared: Features, channels: Features, stylized: Tensor, content: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """Return the target A* on the grid, (B,1,h,w)."""
        if self.target == "robust":
            errors = {layer: content_error(x, channels.get(layer)) for layer, x in squared.items()}
            return robust_weights(error_map(errors, self.layers, grid), self.budget)
        q = structural_dissimilarity(stylized, content, grid)
        if self.target == "robust_structural":
            return robust_weights(q, self.budget)
        mean = q.mean(dim=(2, 3), keepdim=True)
        return mean_one(q.clamp(min=mean / (2 * CLIP), max=CLIP * mean))


class AttentionStatistics(NamedTuple):
    """Statistics that tell a healthy map from a collapsed one, each (B,)."""

    peak: Tensor  # max A
    kl: Tensor  # to uniform, nats
    correlation: Tensor  # corr(A, E)


def attention_statistics(attention: Tensor, error: Tensor) -> AttentionStatistics:
    """Return statistics of maps A (B,1,h,w) against error maps E of the same shape."""
    a, e = attention.flatten(1), error.flatten(1)
    a0, e0 = a - a.mean(1, keepdim=True), e - e.mean(1, keepdim=True)
    norm = (a0.norm(dim=1) * e0.norm(dim=1)).clamp_min(1e-12)
    return AttentionStatistics(a.amax(1), kl_to_uniform(attention), (a0 * e0).sum(1) / norm)


def collapse_warning(peak: float, kl: float, positions: int, budget: float) -> str | None:
    """Return a warning if a map has collapsed (flat, or piled onto few positions), else None."""
    if kl < FLAT * budget:
        return f"attention is flat: KL {kl:.4f} nats is under {FLAT} x the budget {budget}"
    if kl > 3 * budget or peak > positions / 2:
        return (
            f"attention has collapsed: KL {kl:.2f} nats (budget {budget}), "
            f"max A {peak:.0f} of {positions}"
        )
    return None
