import os
import time

import pytest
import torch
from underdrawing.experiments.timing import timer

CPU = torch.device("cpu")


def test_count_flops_of_a_matrix_product() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert timer.count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_time_calls_covers_the_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "REPEATS", 3)
    assert timer.time_calls(lambda: time.sleep(0.01), CPU).median_s >= 0.01


def test_peak_rate_is_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "REPEATS", 3)
    monkeypatch.setattr(timer, "MATRIX", 128)
    assert timer.peak_flops(CPU, torch.float32) > 1e6


def test_fresh_process_is_another_process() -> None:
    assert timer.in_fresh_process(os.getpid) != os.getpid()


def test_machine_names_torch() -> None:
    assert f"torch {torch.__version__}" in timer.machine(CPU)
