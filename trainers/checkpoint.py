"""A run's whole state in one file, so that a checkpoint is there or not, never half.

Nothing random needs saving: every draw is a function of the seed and the position.
"""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

FILE = "checkpoint.safetensors"


def save_checkpoint(
    run: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    tensors: dict[str, Tensor],
) -> None:
    """Write the state after ``step`` steps: aside, synced, renamed."""
    flat = {
        f"{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            flat |= {f"{name}/{index}/{slot}": torch.as_tensor(v) for slot, v in slots.items()}
    flat |= {f"tensors/{key}": value for key, value in tensors.items()}
    partial = run / f".{FILE}.part"
    # Cloned, because safetensors refuses tensors that share memory.
    save_file(
        {key: v.detach().cpu().clone().contiguous() for key, v in flat.items()},
        partial,
        {"step": str(step)},
    )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(run / FILE)


def saved_step(run: Path) -> int:
    """The step of the run's checkpoint, 0 if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def load_checkpoint(
    run: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
) -> tuple[int, dict[str, Tensor]] | None:
    """Restore modules and optimizers in place; (step, loose tensors), or None if there is none.

    Raises:
        ValueError: the file is damaged or belongs to other networks.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in modules.items():
            module.load_state_dict(_under(flat, name))
        for name, optimizer in optimizers.items():
            _load_optimizer(optimizer, _under(flat, name))
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or belongs to another run: {error}") from None
    return step, _under(flat, "tensors")


def _under(flat: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): v for key, v in flat.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: Optimizer, flat: dict[str, Tensor]) -> None:
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
