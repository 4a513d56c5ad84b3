"""Learning rate, averaging and intervals as functions of the step."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import TrainConfig


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of the learning rate: linear warm-up times a cosine from 1 to 0.1."""
    warmup = min(1.0, (step + 1) / max(1, config.optimizer.warmup))
    return warmup * (0.55 + 0.45 * math.cos(math.pi * step / config.steps))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of all groups; a scheduler prepared by Accelerate steps once per process."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # where a captured step reads it
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@torch.no_grad()
def average_into(averaged: nn.Module, current: nn.Module, step: int, decay: float) -> None:
    """Update the exponential moving average of the parameters in place.

    The decay ramps up, so that the initial weights do not dominate short runs.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(current.parameters()), 1 - d)


def is_due(every: int, done: int, config: TrainConfig) -> bool:
    """Return whether a periodic action is due after ``done`` steps; always after the last one."""
    return done % every == 0 or done == config.steps


def duration(seconds: float) -> str:
    """Format a duration, rounded."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
