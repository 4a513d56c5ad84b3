from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from underdrawing.trainers import runtime
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import build_generator, load_config
from underdrawing.trainers.networks import check_layers, load_initial_model, make_accelerator
from underdrawing.trainers.trainer import Trainer, train

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


def test_crops_too_small_for_the_discriminator_are_refused(tiny: Tiny) -> None:
    config = tiny()
    with pytest.raises(ValueError, match=r"size 32 is too small .* lower --adversarial\.layers"):
        Trainer(replace(config, adversarial=replace(config.adversarial, layers=6)))


@pytest.mark.parametrize(
    ("section", "settings", "allowed"),
    [
        ("style", {"layers": ("relu1_1", "pool5")}, {"kind": "gram"}),  # not at half size
        ("content", {"layers": (("pool5", 1.0),), "normalization": "instance"},
         {"normalization": "l2"}),  # a variance needs two positions
    ],
)  # fmt: skip
def test_layers_too_deep_for_the_crops_are_refused_before_the_run_is_begun(
    section: str, settings: dict[str, Any], allowed: dict[str, Any], tiny: Tiny
) -> None:
    def config(settings: dict[str, Any]) -> TrainConfig:
        return tiny(**{section: replace(getattr(tiny(), section), **settings)})

    with pytest.raises(ValueError, match=rf"size 32 is too small for {section}\.layers .*pool5"):
        train(config(settings))
    assert not config(settings).out.exists()
    check_layers(replace(config(settings), size=64))
    check_layers(config(settings | allowed))


def test_shuffled_maps_need_two_images_in_a_micro_batch(tiny: Tiny) -> None:
    config = tiny(accumulate=2)
    make_accelerator(config)
    attention = replace(config.attention, objective="shuffled")
    make_accelerator(replace(config, attention=attention, accumulate=1))
    with pytest.raises(ValueError, match="shuffled needs at least two images"):
        make_accelerator(replace(config, attention=attention))


@pytest.mark.parametrize("name", ["encoder.name", "style.layers"])
def test_initial_model_with_codes_of_other_features_is_refused(name: str, model_dir: Path) -> None:
    """Codes of equal length, but the model's standardization does not fit them."""
    config = replace(load_config(model_dir), init=model_dir)
    load_initial_model(build_generator(config), config)
    if name == "encoder.name":
        config = replace(config, encoder=replace(config.encoder, name="vgg19"))
    else:
        layers = ("conv1_1", "conv2_1", "conv3_1", "conv4_1")
        config = replace(config, style=replace(config.style, layers=layers))
    with pytest.raises(ValueError, match=f"differ in {name}: .* -> .*; use the model's settings"):
        load_initial_model(build_generator(config), config)
