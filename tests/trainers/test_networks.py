from collections.abc import Callable

import pytest
import torch
from torch import nn
from underdrawing.trainers import networks
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.runtime import has_bfloat16, make_accelerator
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("able", [True, False])
def test_auto_takes_bfloat16_where_the_device_computes_in_it(
    able: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "has_bfloat16", lambda device: able)
    assert make_accelerator(tiny(precision="auto")).mixed_precision == ("bf16" if able else "no")


def test_a_process_may_train_in_one_precision_after_the_other(tiny: Tiny) -> None:
    for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        assert make_accelerator(tiny(precision=precision)).mixed_precision == mixed


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_a_precision_asked_for_is_taken_on_any_device(
    precision: str, mixed: str, able: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "has_bfloat16", lambda device: able)
    assert make_accelerator(tiny(precision=precision)).mixed_precision == mixed


@pytest.mark.parametrize("able", [True, False])
def test_a_cpu_has_bfloat16_with_its_avx512_units(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    assert has_bfloat16(CPU) == able


@pytest.mark.parametrize("able", [True, False])
def test_emulated_bfloat16_of_a_gpu_does_not_count(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return able or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bfloat16(GPU) == able


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_only_the_frozen_convolutions_are_kept_in_bfloat16(
    precision: str, dtype: torch.dtype, tiny: Tiny
) -> None:
    built = Trainer(tiny(precision=precision)).networks
    frozen = [m for m in built.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert {layer.weight.dtype for layer in frozen} == {dtype}
    assert built.plain_discriminator is not None
    for trained in (built.plain_generator, built.averaged, built.plain_discriminator):
        assert {value.dtype for value in trained.state_dict().values()} == {torch.float32}


def test_the_layout_follows_the_network(tiny: Tiny) -> None:
    """channels_last where it is faster; the generator chooses its own at each pass."""
    built = Trainer(tiny()).networks
    assert built.plain_discriminator is not None
    for module, last in ((built.encoder, True), (built.plain_discriminator, True),
                         (built.plain_generator, False)):  # fmt: skip
        wide = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
        wide = [w for w in wide if min(w.shape) > 1]  # else both layouts are one
        assert all(w.is_contiguous(memory_format=torch.channels_last) == last for w in wide)
