"""Clocks and ceilings: how long work takes, how much memory, and how fast the machine can be."""

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

WARM_UP, REPEATS, PATIENCE_S = 2, 9, 30.0  # calls; calls timed, but three are enough after so long
MATRIX = 4096  # side of the matrices whose product is the ceiling; half of it on a CPU


class Timing(NamedTuple):
    """What a piece of work took."""

    median_s: float
    spread_s: float  # slowest less fastest call
    peak_mb: float  # of the process, or of the GPU


def time_calls(work: Work, device: torch.device) -> Timing:
    """Time calls of ``work``, after a warm-up; waits for the device at each."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    started = time.perf_counter()
    gc.disable()  # a collection belongs to no call
    while len(times) < REPEATS:
        _wait_for(device)
        before = time.perf_counter()
        work()
        _wait_for(device)
        times.append(time.perf_counter() - before)
        if len(times) >= 3 and time.perf_counter() - started > PATIENCE_S:
            break
    gc.enable()
    return Timing(statistics.median(times), max(times) - min(times), peak_mb(device))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device) -> float:
    """The most memory in use so far, in 10⁶ bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def count_flops(work: Work) -> int:
    """Floating-point operations of the convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product in this precision, by the faster of torch's two libraries.

    On a CPU torch multiplies float32 matrices with one library and convolves with another, which
    may be twice as fast; a 1x1 convolution is the same product.
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


def copy_ceiling() -> float:
    """Bytes per second that one core copies in memory."""
    source = torch.zeros(64 * 2**20, dtype=torch.uint8)
    target = torch.empty_like(source)
    return source.numel() / time_calls(lambda: target.copy_(source), torch.device("cpu")).median_s


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own: its peak of memory is nobody else's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    units = torch.backends.cpu.get_cpu_capability()
    bf16 = "bf16" if has_bfloat16(device) else "no bf16"
    return f"{cpu} ({units}, {bf16}), {torch.get_num_threads()} threads, torch {torch.__version__}"
