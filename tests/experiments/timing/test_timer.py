import os
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from underdrawing.experiments.timing import timer

CPU = torch.device("cpu")


@pytest.mark.parametrize("inference", [False, True])
def test_effort_of_a_matrix_product(inference: bool) -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    expected = timer.Effort(2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))
    with torch.inference_mode(inference):
        assert timer.count_effort(lambda: (a @ b).relu()) == expected
        assert timer.count_effort(lambda: torch.einsum("ij,jk->ik", a, b)).flops == expected.flops


def test_flops_are_those_of_torchs_counter() -> None:
    layer, x = torch.nn.Conv2d(3, 8, 3), torch.rand(2, 3, 9, 9, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    effort = timer.count_effort(lambda: layer(x).sum().backward())
    assert effort.flops == counter.get_total_flops() > 0


def test_time_calls_covers_the_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "REPEATS", 3)
    assert timer.time_calls(lambda: time.sleep(0.01), CPU).median_s >= 0.01


def test_peak_rate_is_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "REPEATS", 3)
    monkeypatch.setattr(timer, "MATRIX", 128)
    assert timer.peak_flops(CPU, torch.float32) > 1e6
    monkeypatch.setattr(timer, "BUFFER", 4096)
    assert timer.peak_bandwidth(CPU) > 1e6


def test_fresh_process_is_another_process() -> None:
    assert timer.in_fresh_process(os.getpid) != os.getpid()
