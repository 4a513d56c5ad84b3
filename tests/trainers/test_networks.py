from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from underdrawing.trainers import runtime
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.networks import make_accelerator
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]


@pytest.mark.parametrize("supported", [True, False])
def test_precision_auto_uses_bfloat16_where_supported(
    supported: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several precisions can be used in one process."""
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: supported)
    auto = "bf16" if supported else "no"
    for precision, mixed in (("fp32", "no"), ("auto", auto), ("bf16", "bf16"), ("fp32", "no")):
        assert make_accelerator(tiny(precision=precision)).mixed_precision == mixed


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_only_the_frozen_convolutions_are_stored_in_bfloat16(
    precision: str, dtype: torch.dtype, tiny: Tiny
) -> None:
    networks = Trainer(tiny(precision=precision)).networks
    frozen = [m for m in networks.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert {layer.weight.dtype for layer in frozen} == {dtype}
    for module in networks.modules().values():
        assert {value.dtype for value in module.state_dict().values()} == {torch.float32}


def test_optimizers_use_the_betas_of_the_config(tiny: Tiny) -> None:
    config = tiny()
    optimizer = replace(config.optimizer, betas=(0.1, 0.2), betas_discriminator=(0.3, 0.4))
    optimizers = Trainer(replace(config, optimizer=optimizer)).networks.optimizers()
    assert optimizers["optimizer_g"].param_groups[0]["betas"] == (0.1, 0.2)
    assert optimizers["optimizer_d"].param_groups[0]["betas"] == (0.3, 0.4)


def test_crops_too_small_for_the_discriminator_are_refused(tiny: Tiny) -> None:
    config = tiny()
    with pytest.raises(ValueError, match=r"size 32 is too small .* lower --adversarial\.layers"):
        Trainer(replace(config, adversarial=replace(config.adversarial, layers=6)))
