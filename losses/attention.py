"""What the attention map is aimed at, and how it learns it (DESIGN: how A is trained).

Minimizing the weighted content loss over A makes A *hide* the errors. So A enters that loss as a
constant, and the branch is taught, by cross-entropy, a target A* that points at the content in
danger. Maps are (B,1,h,w), >= 0, with spatial mean one; everything here is without gradient but
the branch's own loss.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from kornia.color import rgb_to_grayscale
from kornia.metrics import ssim
from torch import Tensor, nn

from .content import Features, content_error

BISECTIONS = 40
FLAT = 0.05  # a map whose KL to uniform is under this share of the budget is flat
LEAST_ERROR = 1e-3  # added to Q: an output that equals its photo is in danger nowhere


def mean_one(x: Tensor) -> Tensor:
    """A non-negative map (B,1,h,w) scaled to spatial mean one; all-zero maps become ones."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return torch.where(mean > 0, x / mean.clamp_min(1e-20), torch.ones_like(x))


def kl_to_uniform(attention: Tensor) -> Tensor:
    """KL(A/hw || uniform) in nats, (B,): 0 when flat, log(hw) when all on one position."""
    return torch.special.xlogy(attention, attention).mean(dim=(1, 2, 3))


def robust_weights(error: Tensor, budget: float | Tensor) -> Tensor:
    """The weights that maximize mean(A·E) subject to KL(A/hw || uniform) <= budget.

    Closed form A* = hw · softmax(E/τ); τ by bisection on its logarithm (KL falls as τ grows), a
    fixed number of halvings so that no value travels to the host. Where even τ -> 0 stays under
    the budget (a flat E, or a tiny map) the sharpest softmax is returned.

    Args:
        error: (B,...,n) any non-negative error, weighted over all its dimensions but the first.
        budget: ρ in nats, one for all or (B,).
    """
    flat = error.detach().flatten(1).double()
    n = flat.shape[1]
    spread = (flat.amax(1) - flat.amin(1)).clamp_min(1e-30)
    flat = (flat - flat.amax(1, keepdim=True)) / spread[:, None]  # in [-1, 0]
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
    """E = Σ_l λ_l · resize(E_l / mean(E_l)) on A's grid, (B,1,h,w); means are per image."""
    parts = [
        weight
        * F.interpolate(mean_one(errors[layer].detach()), grid, mode="bilinear", antialias=True)
        for layer, weight in layers.items()
    ]
    return torch.stack(parts).sum(0).clamp_min(0)


def structural_dissimilarity(stylized: Tensor, content: Tensor, grid: tuple[int, int]) -> Tensor:
    """Q = (1 - SSIM)/2 of the luminances, 7x7 window, averaged onto the grid, (B,1,h,w)."""
    gray = [rgb_to_grayscale(x.detach().float()) for x in (stylized, content)]
    return F.adaptive_avg_pool2d((1 - ssim(gray[0], gray[1], 7)) / 2, grid) + LEAST_ERROR


def structural_error(
    stylized: Tensor, content: Tensor, grid: tuple[int, int], clip: float = 5.0
) -> Tensor:
    """Q clipped to [1/(2 clip), clip] of its mean, then mean one (B,1,h,w).

    Where the paint is destroying the drawing.
    """
    q = structural_dissimilarity(stylized, content, grid)
    mean = q.mean(dim=(2, 3), keepdim=True)
    return mean_one(torch.clamp(q, min=mean / (2 * clip), max=clip * mean))


class TargetInputs(NamedTuple):
    """All that a target may look at. What it does not ask for is not computed."""

    squared: Features  # layer -> (F - P)², (B,C,h,w)
    channels: Mapping[str, Tensor]  # layer -> channel attention (B,C), if any
    features: Features  # of the photo
    stylized: Tensor
    content: Tensor
    layers: dict[str, float]
    grid: tuple[int, int]
    budget: float

    def errors(self) -> dict[str, Tensor]:
        """Layer -> E_l (B,1,h,w)."""
        return {k: content_error(v, self.channels.get(k)) for k, v in self.squared.items()}

    def energy(self) -> dict[str, Tensor]:
        """Layer -> mean over channels of the photo's P², (B,1,h,w)."""
        return {k: self.features[k].float().square().mean(1, keepdim=True) for k in self.layers}


def _structural(s: TargetInputs) -> Tensor:
    return structural_error(s.stylized, s.content, s.grid)


def _robust_structural(s: TargetInputs) -> Tensor:
    """Robust on Q: as sharp as the budget allows, where A ∝ Q is nearly flat on real outputs."""
    return robust_weights(structural_dissimilarity(s.stylized, s.content, s.grid), s.budget)


def _robust(s: TargetInputs) -> Tensor:
    return robust_weights(error_map(s.errors(), s.layers, s.grid), s.budget)


def _saliency(s: TargetInputs, kl: Tensor) -> Tensor:
    """Softmax of the encoder's energy at this KL (B,): what shouts, whether in danger or not."""
    return robust_weights(error_map(s.energy(), s.layers, s.grid), kl)


TARGETS: dict[str, Callable[[TargetInputs], Tensor]] = {
    "structural": _structural,
    "robust_structural": _robust_structural,
    "robust": _robust,
}
OBJECTIVES = ("uniform", "observed", "learned", "oracle", "shuffled", "saliency", "joint", "gate")


def needs_branch(objective: str) -> bool:
    """Whether the generator must have an attention branch for this objective."""
    return objective in ("observed", "learned", "shuffled", "joint", "gate")


def branch_loss(attention: Tensor, target: Tensor) -> Tensor:
    """KL(A*/hw || A/hw) in nats, (B,): cross-entropy from A* to A less A*'s own entropy."""
    log_ratio = target.clamp_min(1e-8).log() - attention.clamp_min(1e-8).log()
    return (target * log_ratio).mean(dim=tuple(range(1, target.dim())))


class AttentionResult(NamedTuple):
    """What an objective decides: the weights used by the content loss, and the branch's loss."""

    attention: Tensor | None  # (B,1,h,w); None is uniform
    channels: dict[str, Tensor]  # layer -> (B,C)
    loss: Tensor  # (B,)


class AttentionObjective(nn.Module):
    """One of the objectives, as (predicted maps, squared errors) -> ``Weighting``.

    - ``uniform``   A = 1.
    - ``observed``  A = 1, and the branch is taught the target all the same: to be looked at, or to
      be used by a run that starts from this one.
    - ``learned``   the branch's A, detached, taught the target.
    - ``oracle``    the target itself, no branch: is the branch worth it?
    - ``shuffled``  another photo's A: is *where* what matters? Needs two pictures per process.
    - ``saliency``  the encoder's energy, as far from uniform (KL) as the target.
    - ``joint``     the naive minimizer, A with gradient; kept to show the collapse.
    - ``gate``      A as predicted, detached; it learns only through the decoder's mixing.

    Args:
        layers: (name, λ_l) pairs of the content loss.
        objective: as above.  target: one of ``TARGETS``.
        budget: ρ in nats, for the maps.  channel_budget: the same for channel attention.
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
        self.layers, self.objective, self.budget = dict(layers), objective, budget
        self.target = TARGETS[target]
        self.channel_budget = channel_budget

    def forward(
        self,
        attention: Tensor,
        channels: dict[str, Tensor],
        squared: Features,
        content_features: Features,
        stylized: Tensor,
        content: Tensor,
    ) -> AttentionResult:
        """Decide the weights for a batch of photos ``content`` and outputs ``stylized``."""
        zero = attention.new_zeros(len(attention))
        channel_loss, frozen = zero, {k: v.detach() for k, v in channels.items()}
        for layer, predicted in channels.items():
            per_channel = reduce(squared[layer].detach(), "b c h w -> b c", "mean")
            goal = robust_weights(per_channel, self.channel_budget)
            channel_loss = channel_loss + branch_loss(predicted, goal) / len(channels)

        if self.objective == "uniform":
            return AttentionResult(None, frozen, channel_loss)
        if self.objective == "joint":
            return AttentionResult(attention, frozen, channel_loss)
        if self.objective == "gate":
            return AttentionResult(attention.detach(), frozen, channel_loss)

        h, w = attention.shape[-2:]
        situation = TargetInputs(
            {k: v.detach() for k, v in squared.items()},
            frozen,
            content_features,
            stylized.detach(),
            content,
            self.layers,
            (h, w),
            self.budget,
        )
        with torch.no_grad():
            goal = self.target(situation)
            if self.objective == "saliency":
                goal = _saliency(situation, kl_to_uniform(goal))
        if self.objective in ("oracle", "saliency"):
            return AttentionResult(goal, frozen, channel_loss)
        loss = channel_loss + branch_loss(attention, goal)
        if self.objective == "observed":
            return AttentionResult(None, frozen, loss)
        used = attention.detach()
        if self.objective == "shuffled":
            if len(used) < 2:
                raise ValueError("objective 'shuffled' needs at least two pictures per process")
            used = used.roll(1, dims=0)
        return AttentionResult(used, frozen, loss)


class AttentionStatistics(NamedTuple):
    """Figures that show a healthy map or a collapse, each (B,)."""

    peak: Tensor  # max A
    kl: Tensor  # nats
    correlation: Tensor  # corr(A, E)


def attention_statistics(attention: Tensor, error: Tensor) -> AttentionStatistics:
    """Statistics of maps A (B,1,h,w) against error maps E of the same shape."""
    a = rearrange(attention, "b 1 h w -> b (h w)")
    e = rearrange(error, "b 1 h w -> b (h w)")
    a0, e0 = a - a.mean(1, keepdim=True), e - e.mean(1, keepdim=True)
    norm = (a0.norm(dim=1) * e0.norm(dim=1)).clamp_min(1e-12)
    return AttentionStatistics(a.amax(1), kl_to_uniform(attention), (a0 * e0).sum(1) / norm)


def collapse_warning(peak: float, kl: float, positions: int, budget: float) -> str | None:
    """One sentence if a map has collapsed (flat, or piled onto few positions), else None."""
    if kl < FLAT * budget:
        return f"attention is flat: KL {kl:.4f} nats is under {FLAT} x the budget {budget}"
    if kl > 3 * budget or peak > positions / 2:
        return (
            f"attention has collapsed: KL {kl:.2f} nats (budget {budget}), "
            f"max A {peak:.0f} of {positions}"
        )
    return None
