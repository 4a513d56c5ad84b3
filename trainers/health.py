"""Warnings about failing runs, and a limit on steps with non-finite losses or gradients."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..losses.attention import collapse_warning
from .config import TrainConfig
from .train_step import StepCheck

WINDOW = 100  # steps per window in which skipped steps are counted
MAX_NAMED = 20  # skipped steps whose images are named
OVERPOWERING = 0.98  # accuracy of D
BLIND = 0.55  # accuracy of D on held-out images
BLIND_AFTER = 1500  # steps; in the training of the shipped model D was blind for 1,000
MEMORIZED = 0.6  # target r_v of Karras et al. 2020
UNCHANGED = 0.01  # mean absolute difference of photo and output, in [0,1]


def health_warnings(metrics: Mapping[str, float], config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yield a short name and a sentence for each problem that the logged metrics show."""
    if "attention/kl" in metrics:
        positions = math.ceil(config.size / 8) ** 2
        peak, kl = metrics["attention/peak"], metrics["attention/kl"]
        if warning := collapse_warning(peak, kl, positions, config.attention.budget):
            yield "attention", warning
    if (accuracy := metrics.get("discriminator/accuracy", 0)) > OVERPOWERING:
        yield (
            "overpowering",
            f"discriminator accuracy is {accuracy:.0%}: its gradient carries little signal; lower "
            "--optimizer.lr-discriminator or set --adversarial.r1 1",
        )
    if (accuracy := metrics.get("validation/accuracy", 1)) < BLIND:
        yield (
            "blind",
            f"discriminator accuracy on held-out images is {accuracy:.0%} (chance level): its "
            "gradient carries no signal; keep --adversarial.spectral-norm False or raise "
            "--optimizer.lr-discriminator",
        )
    if (memorized := metrics.get("validation/memorized", 0)) > MEMORIZED:
        yield (
            "memorized",
            f"the discriminator is overfitting (r_v = {memorized:.2f}, Karras et al. 2020): add "
            "paintings, keep --adversarial.augment True, or use the best model so far (RUN/best)",
        )
    if (change := metrics.get("output/change", 1)) < UNCHANGED:
        yield (
            "unchanged",
            f"outputs equal their photos (mean difference {change:.4f}); raise --balance.style or "
            "lower --balance.content",
        )


class HealthMonitor:
    """Give each warning once, and stop a run in which too many steps are skipped."""

    def __init__(self, config: TrainConfig, is_main: bool = True) -> None:
        self.config, self.is_main = config, is_main
        self.warned: set[str] = set()
        self.skipped = self.window = 0  # skipped steps in total, and in the current window

    def check_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warn about logged metrics, once the first steps have passed (A starts flat)."""
        if step <= self.config.optimizer.warmup * 5:
            return
        for name, sentence in health_warnings(metrics, self.config):
            if name == "blind" and step < BLIND_AFTER:
                continue
            if name not in self.warned:
                self.warned.add(name)
                warnings.warn(f"step {step}: {sentence}", stacklevel=2)

    def check_steps(self, checks: Sequence[StepCheck], pair_name: Callable[[int], str]) -> None:
        """Count the skipped ones of consecutive steps and name their images, of which ``pair_name``
        gives the names by the position in the stream; waits for the device.

        Raises:
            ValueError: too many steps of a window were skipped.
        """
        if not checks:
            return
        skipped = torch.stack([check.skipped for check in checks]).tolist()
        for check, is_skipped in zip(checks, skipped, strict=True):
            if check.step % WINDOW == 0:
                self.window = 0
            if not is_skipped:
                continue
            self.skipped, self.window = self.skipped + 1, self.window + 1
            if self.skipped <= MAX_NAMED:
                self._warn_skipped(check, pair_name)
            if self.window > self.config.max_skipped * WINDOW:
                run = self.config.out
                saved = (run / "model.safetensors").is_file()
                raise ValueError(
                    f"{self.window} of the last {check.step % WINDOW + 1} steps had non-finite "
                    "losses or gradients; start again in another --out, with "
                    f"{f'--init {run} and ' if saved else ''}a lower --optimizer.lr or "
                    "--precision fp32"
                )

    def _warn_skipped(self, check: StepCheck, pair_name: Callable[[int], str]) -> None:
        """Each process names its images with a non-finite loss; else rank 0 names its batch."""
        bad = check.position[~check.finite.cpu()].tolist()
        cause = "loss for" if bad else "gradient (or loss on another process) in the batch of"
        if bad or self.is_main:
            names = "; ".join(map(pair_name, bad or check.position.tolist()))
            message = f"step {check.step + 1} skipped: non-finite {cause} {names}"
            warnings.warn(message, stacklevel=2)

    def state(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        return {"skipped": torch.tensor([self.skipped, self.window])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the output of ``state``."""
        self.skipped, self.window = state["skipped"].tolist()
