import ctypes
import os
import platform
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from underdrawing.trainers import runtime
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.networks import make_accelerator
from underdrawing.trainers.runtime import (
    has_bfloat16,
    join_processes,
    keep_freed_memory,
    pick_device,
    pick_precision,
    stop_signals,
)

#: Page faults of writing 64 MiB after 64 MiB were freed, before and after ``keep_freed_memory``.
PAGE_FAULTS = """
import resource
from underdrawing.trainers.runtime import keep_freed_memory

def faults():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = b"x" * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
keep_freed_memory()
print(default, faults())
"""


def test_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused() -> None:
    command = [sys.executable, "-c", PAGE_FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    default, reused = map(int, done.stdout.split())
    assert reused < default / 4


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_needs_hardware_support(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported",
        lambda including_emulation=True: supported or including_emulation,
    )  # fmt: skip
    assert has_bfloat16(torch.device("cpu")) == supported
    assert has_bfloat16(torch.device("cuda")) == supported


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        pick_device("cuda")


def test_mps_must_be_asked_for_and_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no MPS device"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps").type == "mps"
    assert pick_device("auto").type == "cpu"


def test_what_mps_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps = torch.device("mps")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert pick_precision("auto", mps) == pick_precision("fp32", mps) == "fp32"
    with pytest.raises(ValueError, match="precision bf16 is not supported on MPS"):
        pick_precision("bf16", mps)
    with pytest.raises(ValueError, match="compile is not supported on MPS"):
        make_accelerator(TrainConfig(device="mps", compile=True))
    monkeypatch.setattr(runtime, "PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="device mps works in one process only"):
        join_processes("mps")


def test_operations_that_mps_lacks_run_on_the_cpu() -> None:
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_first_stop_signal_is_collected_and_the_second_one_raises() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # other tests may have changed it
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
