"""Checkpoints: the whole state of a run in one file each, in ``RUN/checkpoints``.

No random state is saved: every random number is a function of the seed and the position in the
stream of pairs.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .tensor_files import read_tensors, write_tensors

Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, Optimizer]


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint files of a run, oldest first."""
    files = (run / "checkpoints").glob("step-*.safetensors")
    return sorted((file for file in files if file.stem[5:].isdecimal()), key=step_of)


def step_of(path: Path) -> int:
    """Return the number of completed steps, from the name of a checkpoint file."""
    return int(path.stem.removeprefix("step-"))


def saved_step(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 without one."""
    return max([0, *map(step_of, checkpoints(run))])


def save_checkpoint(
    run: Path,
    step: int,
    modules: Modules,
    optimizers: Optimizers,
    tensors: Mapping[str, Tensor],
    keep: int,
) -> None:
    """Write the state after ``step`` steps; keep the newest ``keep`` checkpoints.

    Checkpoints of later steps are deleted: they belong to a run that was resumed before them.
    """
    flat = {
        f"{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            flat |= {f"{name}/{index}/{slot}": torch.as_tensor(v) for slot, v in slots.items()}
    flat |= {f"tensors/{key}": value for key, value in tensors.items()}
    write_tensors(run / "checkpoints" / f"step-{step:07}.safetensors", flat, step=str(step))
    files = checkpoints(run)
    kept = [path for path in files if step_of(path) <= step][-keep:]
    for path in set(files) - set(kept):
        path.unlink()


def load_checkpoint(
    run: Path, modules: Modules, optimizers: Optimizers
) -> tuple[int, dict[str, Tensor]] | None:
    """Restore modules and optimizers in place from the newest intact checkpoint.

    A damaged checkpoint is renamed to ``*.damaged``, with a warning, and the previous one is used.

    Returns:
        The step and the additional tensors; None without a checkpoint.

    Raises:
        ValueError: the checkpoint belongs to other networks.
    """
    files = checkpoints(run)
    for path in reversed(files):
        try:
            flat, metadata = read_tensors(path)
        except ValueError as error:
            path.replace(path.with_suffix(".damaged"))
            action = "starting over" if path == files[0] else "using the previous checkpoint"
            warnings.warn(f"{error}; {action}", stacklevel=2)
            continue
        try:
            step = int(metadata["step"])
            for name, module in modules.items():
                module.load_state_dict(_under(flat, name))
            for name, optimizer in optimizers.items():
                _load_optimizer(optimizer, _under(flat, name))
        except (RuntimeError, LookupError, ValueError):
            raise ValueError(f"{path} belongs to a run with other networks") from None
        return step, _under(flat, "tensors")
    return None


def _under(flat: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): v for key, v in flat.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: Optimizer, flat: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, slot = key.split("/")
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    # Files are contiguous, but weights may be channels_last, and fused Adam assumes that weights
    # and moments have the same memory layout.
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter).copy_(value)
