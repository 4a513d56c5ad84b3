"""Measure time, memory and FLOPs of a function, and the machine's peak rate."""

import gc
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ...trainers.runtime import has_bfloat16

T = TypeVar("T")
Work = Callable[[], object]

WARM_UP, REPEATS = 2, 9  # calls before and during the measurement
MAX_SECONDS = 30.0  # after which three timed calls are enough
MATRIX = 4096  # side of the matrices that measure the peak rate; half of it on a CPU


class Timing(NamedTuple):
    """Time of one call and peak memory."""

    median_s: float
    spread_s: float  # slowest minus fastest call
    peak_mb: float  # of the process, or of the GPU


def time_calls(work: Work, device: torch.device) -> Timing:
    """Time calls of ``work`` after a warm-up; each waits for the device to finish."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    started = time.perf_counter()
    gc.disable()
    while len(times) < REPEATS:
        synchronize()
        before = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - before)
        if len(times) >= 3 and time.perf_counter() - started > MAX_SECONDS:
            break
    gc.enable()
    return Timing(statistics.median(times), max(times) - min(times), peak_mb(device))


def peak_mb(device: torch.device) -> float:
    """Return the peak memory of the GPU, or of this process, in 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def count_flops(work: Work) -> int:
    """Count the FLOPs of convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large matrix product, as a product and as a 1x1 convolution.

    On a CPU torch uses a different library for each, of which one may be twice as fast.
    """
    n = MATRIX if device.type == "cuda" else MATRIX // 2
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    image = a.view(1, n, 1, n).to(memory_format=torch.channels_last)
    kernels = b.view(n, n, 1, 1)
    with torch.inference_mode():
        seconds = min(
            time_calls(lambda: a @ b, device).median_s,
            time_calls(lambda: F.conv2d(image, kernels), device).median_s,
        )
    return 2 * n**3 / seconds


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def machine(device: torch.device) -> str:
    """Describe the GPU, or the CPU with its vector units and threads, and the torch version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    units = torch.backends.cpu.get_cpu_capability()
    bf16 = "bf16" if has_bfloat16(device) else "no bf16"
    return f"{cpu} ({units}, {bf16}), {torch.get_num_threads()} threads, torch {torch.__version__}"
