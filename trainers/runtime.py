"""Helpers for memory, devices, signals and processes."""

import ctypes
import os
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

T = TypeVar("T")
R = TypeVar("R")
Device = Literal["auto", "cpu", "cuda", "mps"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|bad_alloc|ALLOC_FAILED")
#: How long processes wait for each other: rank 0 may spend this long building the image cache.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


def keep_freed_memory() -> None:
    """Make glibc reuse the memory that torch frees; no effect with other C libraries.

    By default glibc maps every large tensor anew and the kernel clears each page, which took a
    third of a training step on a CPU.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # no mallopt in this C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def out_of_memory(error: Exception) -> bool:
    """Return whether an exception reports exhausted memory, in any wording that torch uses."""
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def pick_device(name: str) -> torch.device:
    """Return the torch device for a ``Device``; ``auto`` is CUDA or the CPU.

    MPS, the GPU of a Mac, has to be asked for, because nothing was tested on one.

    Raises:
        ValueError: ``cuda`` or ``mps`` without such a device.
    """
    cuda = torch.cuda.is_available()
    if (name == "cuda" and not cuda) or (name == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(
            f"--device {name}: torch sees no {name.upper()} device; use --device auto or cpu"
        )
    return torch.device(name if name != "auto" else "cuda" if cuda else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 units; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def pick_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision for ``auto``, ``fp32`` or ``bf16``.

    There is no fp16: its loss scaling does not support two optimizers with gradient clipping.

    Raises:
        ValueError: ``bf16`` on MPS.
    """
    if name == "bf16" and device.type == "mps":
        raise ValueError("--precision bf16 is not supported on MPS; use auto or fp32")
    bf16 = name == "bf16" or (name == "auto" and has_bfloat16(device))
    return "bf16" if bf16 else "fp32"


class Interrupted(Exception):
    """Training was stopped by a signal; its state is saved."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; a second signal has its usual effect."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def join_processes(device: str) -> PartialState:
    """Return this process's rank and device; the first call connects the launched processes.

    Settings of ``accelerate config`` and other ``ACCELERATE_*`` variables, such as a dynamo
    backend, are dropped: a run is described by its configuration alone.

    Args:
        device: a ``Device``.

    Raises:
        ValueError: no such device, or several processes on MPS.
    """
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=COLLECTIVE_TIMEOUT)
    if device == "mps" and state.num_processes > 1:
        raise ValueError("--device mps works in one process only; start without accelerate launch")
    return state


def map_over_processes(
    processes: PartialState, work: Callable[[T], R], items: Sequence[T], title: str
) -> list[R]:
    """Apply ``work`` to all items, item i on process i mod n; return all results everywhere.

    Args:
        processes: the processes that share the work.
        work: item -> tensors, in any nesting of tuples, lists and dicts.
        items: the same on every process.
        title: title of the progress bar.
    """
    own = tqdm(
        range(processes.process_index, len(items), processes.num_processes),
        title, unit="batch", leave=False, disable=not processes.is_main_process,
    )  # fmt: skip
    results = [(i, work(items[i])) for i in own]
    # Through main memory: otherwise a tensor arrives on the GPU of the process that sent it.
    gathered = dict(gather_object(send_to_device(results, "cpu")))
    assert sorted(gathered) == list(range(len(items))), "every item exactly once"
    return send_to_device([gathered[i] for i in range(len(items))], processes.device)
