"""Weights of the content, style and adversarial terms.

``fixed``: as configured. ``schedule``: the dynamic weights of 问答酱 (2025), the content weight
high at first and lower later. ``gradient``: weights divided by the norm of their term's gradient
at the output, so that the configured numbers are shares of the total gradient.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from .config import BalanceConfig

TERMS = ("content", "style", "adversarial")
DECAY = 0.9  # of the running mean of gradient norms
ROUNDING = 1e-3  # mean difference of photo and output, in [0,1]: a quarter of a gray level


class Balance:
    """Weights of the three terms over a run.

    Norms measured in a step are used from the next step on, so that a step does not depend on
    the number of processes or micro-batches.
    """

    def __init__(self, config: BalanceConfig, device: torch.device) -> None:
        self.config = config
        self.target = torch.tensor(
            [config.content, config.style, config.adversarial], device=device
        )
        self.norms = torch.zeros(len(TERMS), device=device)  # 0: not measured yet
        self._sum = torch.zeros(len(TERMS), device=device)

    def weights(self, progress: float) -> dict[str, Tensor]:
        """Return the weight () of each term at this fraction of the run."""
        weights = self.target.clone()
        if self.config.kind == "schedule":
            weights[0] *= self.config.shift ** (0.5 - progress)
        if self.config.kind == "gradient":
            weights = torch.where(self.norms > 0, weights / self.norms.clamp_min(1e-12), weights)
        return dict(zip(TERMS, weights.unbind(), strict=True))

    def measure(self, terms: Mapping[str, Tensor], image: Tensor, photo: Tensor) -> None:
        """Add one micro-batch's gradient norms of ``terms`` (B,) at the output (B,3,H,W).

        Where the output is still the photo (B,3,H,W), the gradient of the content term is rounding
        error, and counts as 0. The mean of per-image norms is linear in the batch, so micro-batches
        and processes add up.
        """
        changed = (image - photo).detach().abs().mean(dim=(1, 2, 3)) > ROUNDING
        terms = {**terms, "content": terms["content"] * changed}
        norms = [
            torch.autograd.grad(terms[name].sum(), image, retain_graph=True)[0]
            .flatten(1)
            .norm(dim=1)
            .mean()
            if name in terms
            else image.new_zeros(())
            for name in TERMS
        ]
        self._sum += torch.stack(norms)

    def update(self, accelerator: Accelerator, micro_batches: int) -> None:
        """Fold the norms measured in a step, averaged over processes, into the running mean."""
        norms = accelerator.reduce(self._sum / micro_batches, "mean")
        mixed = torch.where(self.norms > 0, self.norms * DECAY + norms * (1 - DECAY), norms)
        self.norms = torch.where((norms > 0) & norms.isfinite(), mixed, self.norms)
        self._sum.zero_()

    def shares(self, progress: float) -> dict[str, Tensor]:
        """Return each term's share of the summed weighted gradient norms."""
        pulls = torch.stack(list(self.weights(progress).values())) * self.norms
        shares = pulls / pulls.sum().clamp_min(1e-12)
        return dict(zip(TERMS, shares.unbind(), strict=True))
