"""Memory: keeping what is freed for the next step, and knowing how much is there."""

import ctypes
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, TypeVar

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from tqdm.auto import tqdm

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|bad_alloc|ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library reuse what torch frees, for this process; on glibc only.

    By default it maps every large tensor anew, and the kernel clears each of its pages: a third
    of a training step on a CPU (measured in results/README.md).
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch's, in any of its wordings, says that memory ran out."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or bool(NO_MEMORY.search(str(error)))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def pick_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: cuda asked for, none here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; without such units it is slower there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def pick_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision for ``auto``, ``fp32`` or ``bf16``."""
    # fp16 is not offered: with two optimizers and clipping its loss scaling goes wrong.
    bf16 = name == "bf16" or (name == "auto" and has_bfloat16(device))
    return "bf16" if bf16 else "fp32"


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGINT or SIGTERM arrives; a second one kills as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for received_signal, handler in previous.items():
            signal.signal(received_signal, handler)


T = TypeVar("T")
R = TypeVar("R")

# While the first process decodes a large folder into the cache, the others wait this long for it;
# and for one that is stuck. One that has died is noticed within seconds.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


def join_processes(device: str) -> PartialState:
    """This process among those of its launch; alone without one. The first call connects them.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; the state's ``device`` is this process's own.

    Raises:
        ValueError: cuda asked for, none here.
    """
    return PartialState(cpu=pick_device(device).type == "cpu", timeout=COLLECTIVE_TIMEOUT)


def map_over_processes(
    processes: PartialState, work: Callable[[T], R], items: Sequence[T], title: str
) -> list[R]:
    """``work`` of every item, in order: of n processes, process r does items r, r + n, …

    Every process gets all results, so an item's result must not depend on who works on it.

    Args:
        processes: those that share the work.
        work: item -> tensors, in any nesting of tuples, lists and dicts.
        items: the same on every process.
        title: of the progress bar.
    """
    own = tqdm(
        range(processes.process_index, len(items), processes.num_processes),
        title, unit="batch", leave=False, disable=not processes.is_main_process,
    )  # fmt: skip
    done = [(k, work(items[k])) for k in own]
    # By way of the main memory: a GPU's tensor would arrive on the GPU of its sender.
    gathered = dict(gather_object(send_to_device(done, "cpu")))
    assert sorted(gathered) == list(range(len(items))), "every item once"
    return send_to_device([gathered[k] for k in range(len(items))], processes.device)
