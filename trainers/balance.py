"""How content, style and adversarial terms are weighed against each other.

``fixed`` takes the weights as given. ``schedule`` is the paper's dynamic weighting: content
strong at first, weaker later. ``gradient`` divides each weight by the norm of its term's gradient
at the generator's output, so that the terms pull in the proportion the config says.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from .config import BalanceConfig

TERMS = ("content", "style", "adversarial")
MEMORY = 0.9  # of the running mean of gradient norms


class Balance:
    """Weights of the three terms over a run; its state is one small tensor.

    The gradient norms measured in one step are used from the next step on, so that neither the
    number of processes nor of micro-batches changes a step.
    """

    def __init__(self, config: BalanceConfig, device: torch.device) -> None:
        self.config = config
        self.target = torch.tensor(
            [config.content, config.style, config.adversarial], device=device
        )
        self.norms = torch.zeros(len(TERMS), device=device)  # zero: not measured yet
        self._sum = torch.zeros(len(TERMS), device=device)

    def weights(self, progress: float) -> dict[str, Tensor]:
        """Weight of each term (0-dim) at this share of the run."""
        weights = self.target.clone()
        if self.config.kind == "schedule":
            weights[0] *= self.config.shift ** (0.5 - progress)
        if self.config.kind == "gradient":
            weights = torch.where(self.norms > 0, weights / self.norms.clamp_min(1e-12), weights)
        return dict(zip(TERMS, weights.unbind(), strict=True))

    def measure(self, terms: Mapping[str, Tensor], image: Tensor) -> None:
        """Add one micro-batch's gradient norms at the output ``image`` (B,3,H,W).

        ``terms`` are per image (B,). The mean of the per-image norms is linear in the batch, so
        micro-batches and processes add up.
        """
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
        """Close a measured step: reduce over processes and fold into the running mean."""
        norms = accelerator.reduce(self._sum / micro_batches, "mean")
        mixed = torch.where(self.norms > 0, self.norms * MEMORY + norms * (1 - MEMORY), norms)
        self.norms = torch.where(mixed.isfinite(), mixed, self.norms)
        self.forget()

    def forget(self) -> None:
        """Drop what was measured since the last update."""
        self._sum.zero_()

    def shares(self, progress: float) -> dict[str, Tensor]:
        """Each term's share of the summed gradient norms, as measured."""
        pulls = torch.stack(list(self.weights(progress).values())) * self.norms
        shares = pulls / pulls.sum().clamp_min(1e-12)
        return dict(zip(TERMS, shares.unbind(), strict=True))
