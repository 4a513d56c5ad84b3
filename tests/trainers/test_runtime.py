import ctypes
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

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


def test_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_needs_hardware_support(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported",
        lambda including_emulation=True: supported or including_emulation,
    )  # fmt: skip
    assert has_bfloat16(torch.device("cpu")) == supported
    assert has_bfloat16(torch.device("cuda")) == supported


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_torch_does_not_see_is_refused(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match=f"torch sees no {kind.upper()} device"):
        pick_device(kind)


def test_mps_must_be_asked_for_and_what_it_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    mps = pick_device("mps")
    assert (mps.type, pick_device("auto").type) == ("mps", "cpu")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
    assert pick_precision("auto", mps) == pick_precision("fp32", mps) == "fp32"
    with pytest.raises(ValueError, match="precision bf16 is not supported on MPS"):
        pick_precision("bf16", mps)
    with pytest.raises(ValueError, match="compile is not supported on MPS"):
        make_accelerator(TrainConfig(device="mps", compile=True))
    monkeypatch.setattr(runtime, "PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="device mps works in one process only"):
        join_processes("mps")


def test_first_stop_signal_is_collected_and_the_second_one_raises() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # other tests may have changed it
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
