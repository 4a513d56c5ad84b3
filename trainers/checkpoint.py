"""A run's whole state in one file a checkpoint, in ``RUN/checkpoints``: the last few are kept.

Nothing random needs saving: every draw is a function of the seed and the position.
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
    """The run's checkpoint files, oldest first."""
    found = (run / "checkpoints").glob("step-*.safetensors")
    return sorted((path for path in found if _digits(path).isdecimal()), key=step_of)


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written, as its name says."""
    return int(_digits(path))


def _digits(path: Path) -> str:
    return path.stem.removeprefix("step-")


def saved_step(run: Path) -> int:
    """The step of the run's newest checkpoint, 0 if there is none."""
    return max([0, *map(step_of, checkpoints(run))])


def save_checkpoint(
    run: Path,
    step: int,
    modules: Modules,
    optimizers: Optimizers,
    tensors: Mapping[str, Tensor],
    keep: int,
) -> None:
    """Write the state after ``step`` steps; of the files up to it, the newest ``keep`` stay.

    Later ones are of a course that was left: the run went back behind them.
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
    found = checkpoints(run)
    kept = [path for path in found if step_of(path) <= step][-keep:]
    for path in set(found) - set(kept):
        path.unlink()


def load_checkpoint(
    run: Path, modules: Modules, optimizers: Optimizers
) -> tuple[int, dict[str, Tensor]] | None:
    """Restore modules and optimizers in place from the newest whole checkpoint.

    A damaged one is set aside, with a warning, and the one before it is used.

    Returns:
        Its step and the loose tensors; None if there is none.

    Raises:
        ValueError: the checkpoint belongs to other networks.
    """
    found = checkpoints(run)
    for path in reversed(found):
        try:
            flat, metadata = read_tensors(path)
        except ValueError as error:
            path.replace(path.with_suffix(".damaged"))
            instead = "starting over" if path == found[0] else "going back to the one before"
            warnings.warn(f"{error}; {instead}", stacklevel=2)
            continue
        try:
            step = int(metadata["step"])
            for name, module in modules.items():
                module.load_state_dict(_under(flat, name))
            for name, optimizer in optimizers.items():
                _load_optimizer(optimizer, _under(flat, name))
        except (RuntimeError, LookupError, ValueError):
            raise ValueError(f"{path} belongs to a run of other networks") from None
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
    # The file is contiguous, weights may be channels_last, and fused Adam reads both in the order
    # in which they lie in memory.
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter).copy_(value)
