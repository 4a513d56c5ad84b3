"""What can quietly go wrong in a run, each said once; and steps that did not count."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..losses.attention import collapse_warning
from .config import TrainConfig
from .train_step import StepCheck

WINDOW = 100  # steps over which the share of skipped ones is taken
NAMED = 20  # skipped steps whose pictures are named
OVERPOWERING = 0.98  # share of patches that D tells right
MEMORIZED = 0.6  # the r_v at which Karras et al. 2020 hold their augmentation
UNCHANGED = 0.01  # mean difference between photo and output, of a range of 1


def health_warnings(numbers: Mapping[str, float], config: TrainConfig) -> Iterator[tuple[str, str]]:
    """What a run's figures complain of: a short name each, and one sentence."""
    if "attention/kl" in numbers:
        positions = math.ceil(config.size / 8) ** 2
        peak, kl = numbers["attention/peak"], numbers["attention/kl"]
        if sentence := collapse_warning(peak, kl, positions, config.attention.budget):
            yield "attention", sentence
    if numbers.get("discriminator/accuracy", 0) > OVERPOWERING:
        yield (
            "overpowering",
            f"the discriminator tells {numbers['discriminator/accuracy']:.0%} of the patches "
            "right, so that its gradient says little; lower --optimizer.lr-discriminator, or set "
            "--adversarial.r1 1",
        )
    if numbers.get("validation/memorized", 0) > MEMORIZED:
        yield (
            "memorized",
            "the discriminator knows the training paintings by heart (r_v is "
            f"{numbers['validation/memorized']:.2f}; 0: not at all, 1: wholly): add paintings, "
            "keep --adversarial.augment, or take the best model so far (RUN/best)",
        )
    if numbers.get("output/change", 1) < UNCHANGED:
        yield (
            "unchanged",
            f"outputs equal their photos (mean difference {numbers['output/change']:.4f}); raise "
            "--balance.style or lower --balance.content",
        )


class HealthMonitor:
    """Says once what goes wrong; ends a run of which too many steps do not count.

    Its state is two numbers: the steps skipped in all, and in the window of 100 steps begun last.
    """

    def __init__(self, config: TrainConfig, speaks: bool = True) -> None:
        self.config, self.speaks = config, speaks  # one process speaks for all
        self.said: set[str] = set()
        self.skipped = self.window = 0

    def figures(self, step: int, numbers: Mapping[str, float]) -> None:
        """Look at figures, once training has found its feet."""
        if step <= self.config.optimizer.warmup * 5:  # the attention branch starts flat, say
            return
        for name, sentence in health_warnings(numbers, self.config):
            if name not in self.said:
                self.said.add(name)
                warnings.warn(f"step {step}: {sentence}", stacklevel=2)

    def steps(self, checks: Sequence[StepCheck], names: Callable[[int], str]) -> None:
        """Count the steps that were skipped, and name this process's pictures that were to blame.

        Args:
            checks: of consecutive steps; the device is waited for.
            names: position in the stream to its pictures' names.

        Raises:
            ValueError: too many steps of a window were skipped.
        """
        if not checks:
            return
        for check, skipped in zip(
            checks, torch.stack([v.skipped for v in checks]).tolist(), strict=True
        ):
            if check.step % WINDOW == 0:
                self.window = 0
            if not skipped:
                continue
            self.skipped, self.window = self.skipped + 1, self.window + 1
            self._name(check, names)
            if self.window > self.config.max_skipped * WINDOW:
                raise ValueError(
                    f"{self.window} of the last {check.step % WINDOW + 1} steps had losses or "
                    "gradients that are not finite; begin anew in another --out, maybe with --init "
                    f"{self.config.out}, and a lower --optimizer.lr or --precision fp32"
                )

    def _name(self, check: StepCheck, names: Callable[[int], str]) -> None:
        bad = check.position[~check.finite.cpu()]
        elsewhere = len(bad) == 0 and (bool(check.losses) or not self.speaks)
        if self.skipped > NAMED or elsewhere:
            return
        blamed = [names(int(position)) for position in (bad if len(bad) else check.position)]
        what = "loss of" if len(bad) else "gradient, with"
        warnings.warn(
            f"step {check.step + 1} was skipped: not finite is the {what} {'; '.join(blamed)}",
            stacklevel=2,
        )

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"skipped": torch.tensor([self.skipped, self.window])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        self.skipped, self.window = state["skipped"].tolist()
