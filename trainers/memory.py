"""Memory: keeping what is freed for the next step, and knowing how much is there."""

import ctypes
import re
import sys
from contextlib import suppress

import psutil
import torch

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
