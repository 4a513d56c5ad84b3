"""Record a function as CUDA graphs.

A training step launches thousands of small kernels, and the host needs longer to launch them than a
GPU to run them. A graph launches all of them at once.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
WARM_UP = 3  # calls before the first recording: autotuning, state of the optimizers


class Captured(Generic[R]):
    """Call ``function(inputs, *variant)``; after the first calls, replay its kernels instead.

    A graph repeats the kernels of one call on the same memory. So everything that differs between
    calls must be in ``inputs``, tensors of constant shapes, or in the variant, whose values select
    the graph; and the function must never wait for the device. The next call overwrites the
    outputs.
    """

    def __init__(self, function: Callable[..., R]) -> None:
        self.function = function
        self.calls = 0
        self.inputs: dict[str, Tensor] = {}  # where the graphs read
        self.graphs: dict[tuple[bool, ...], tuple[torch.cuda.CUDAGraph, R]] = {}
        self.pool = torch.cuda.graph_pool_handle()  # no two graphs run at once: they share memory

    def __call__(self, inputs: Mapping[str, Tensor], *variant: bool) -> R:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.function(inputs, *variant)
        if not self.inputs:
            self.inputs = {name: torch.empty_like(x, device="cuda") for name, x in inputs.items()}
        for name, x in inputs.items():
            self.inputs[name].copy_(x, non_blocking=True)
        if variant not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            # Other threads (pinning of the loader's batches) may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                output = self.function(self.inputs, *variant)
            self.graphs[variant] = graph, output
        graph, output = self.graphs[variant]
        graph.replay()
        return output
