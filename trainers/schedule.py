"""What goes by the step: learning rates, the averaged generator, and what is due now and then."""

import math

import torch
from torch import nn
from torch.optim import Optimizer

from .config import TrainConfig


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from 1 to 0.1."""
    warmup = min(1.0, (step + 1) / max(1, config.optimizer.warmup))
    return warmup * (0.55 + 0.45 * math.cos(math.pi * step / config.steps))


def is_due(every: int, done: int, config: TrainConfig) -> bool:
    """Whether what is done every so many steps, and at the last, is due after this one."""
    return done % every == 0 or done == config.steps


def duration(seconds: float) -> str:
    """In words, as exact as a guess is."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of all groups.

    By hand, because a scheduler prepared by Accelerate steps once per process.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def average_into(averaged: nn.Module, current: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the parameters, in place.

    The decay ramps up, so that a short run is not an average of its own start.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(current.parameters()), 1 - d)
