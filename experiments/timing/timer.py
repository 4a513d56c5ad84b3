"""Measure time, memory and effort of a function, and the machine's peak rates."""

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
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...trainers.runtime import has_bfloat16

T = TypeVar("T")
Work = Callable[[], object]

WARM_UP, REPEATS = 2, 9  # calls before and during the measurement
MAX_SECONDS = 30.0  # after which three timed calls are enough
BUFFER = 2**28  # float32 values whose copy measures the bandwidth; a quarter of it on a CPU
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
    synchronize = torch.get_device_module(device).synchronize
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


class Effort(NamedTuple):
    """The least that a call must compute and move through memory."""

    flops: int = 0  # of convolutions and matrix products
    bytes: int = 0  # of their inputs and outputs, as if all other operations were fused into them


def count_effort(work: Work) -> Effort:
    """Count the FLOPs and bytes of one call."""
    with _Counter() as counter:
        work()
    return Effort(counter.flops, counter.bytes)


class _Counter(TorchDispatchMode):
    """Count like ``FlopCounterMode``, and the bytes of the same operations."""

    flops = bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs, packet = kwargs or {}, function.overloadpacket
        if packet not in flop_registry and function is not torch.ops.prim.device.default:
            with self:  # einsum and others consist of matrix products
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.nbytes for x in tensors)
        return result


def expensive_operations(work: Work, device: torch.device, count: int = 10) -> list[list[str]]:
    """Profile one call; return a header and a row for each of the most expensive operations."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    for _ in range(WARM_UP):
        work()
    with profile(activities=activities) as profiler:
        work()
    time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    operations = [e for e in profiler.key_averages() if e.device_type.name == "CPU"]
    operations.sort(key=lambda e: getattr(e, time), reverse=True)
    total = sum(getattr(e, time) for e in operations)
    return [["operation", "calls", "ms", "share"]] + [
        [e.key, str(e.count), f"{getattr(e, time) / 1000:.1f}", f"{getattr(e, time) / total:.0%}"]
        for e in operations[:count]
    ]


def peak_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second of a large copy, read and written."""
    source = torch.ones(BUFFER if device.type == "cuda" else BUFFER // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_calls(lambda: target.copy_(source), device).median_s


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
    cpu = "MPS of " * (device.type == "mps") + cpu
    return f"{cpu} ({units}, {bf16}), {torch.get_num_threads()} threads, torch {torch.__version__}"
