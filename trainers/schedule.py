"""Learning rate, averaging and intervals as functions of the step."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..losses.attention import learns_error
from .config import AttentionConfig, TrainConfig

ALONE_TIME = 0.12  # of a step of the branch alone, relative to one of all networks; on a CPU


def learns_alone(attention: AttentionConfig) -> bool:
    """Return whether the attention branch can learn alone: it predicts the error, and the decoder,
    which would see maps that it was not trained with, does not use A.
    """
    return learns_error(attention.objective) and not attention.gates_decoder


def joint_steps(config: TrainConfig) -> int:
    """Return the number of steps that train all networks; in those after them the attention branch
    learns alone, for the averaged generator.
    """
    a = config.attention
    if not learns_alone(a):
        return config.steps
    return config.steps - (config.steps // 10 if a.final_steps is None else a.final_steps)


def time_left(done: int, config: TrainConfig) -> float:
    """Return the time that a run needs after ``done`` steps, in steps of all networks."""
    joint = joint_steps(config)
    return max(0, joint - done) + ALONE_TIME * max(0, config.steps - max(done, joint))


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of the learning rate: linear warm-up times a cosine from 1 to 0.1; where
    the attention branch learns alone, from 1 linearly to 0.
    """
    joint = joint_steps(config)
    if step >= joint:
        return (config.steps - step) / (config.steps - joint)
    warmup = min(1.0, (step + 1) / max(1, config.optimizer.warmup))
    return warmup * (0.55 + 0.45 * math.cos(math.pi * step / joint))


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
    """Return whether a periodic action is due after ``done`` steps; always after the last one, and
    after the last one that trains the generator.
    """
    return done % every == 0 or done in (joint_steps(config), config.steps)


def duration(seconds: float) -> str:
    """Format a duration, rounded."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
