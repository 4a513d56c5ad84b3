from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from underdrawing.data.dataset import Batch, unpack
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.train_step import discriminator_loss, forward, frozen, generator_terms
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def first_batch(trainer: Trainer) -> Batch:
    return unpack(next(trainer._batches(0)), trainer.device)


@pytest.fixture
def trainer(tiny: Tiny) -> Trainer:
    config = tiny()
    assert config.adversarial.spectral  # whose buffers must not move in the G step
    adversarial = replace(config.adversarial, feature_matching=0.5)
    return Trainer(replace(config, adversarial=adversarial))


def test_generator_step_leaves_the_discriminator_alone(trainer: Trainer) -> None:
    networks = trainer.networks
    assert networks.plain_discriminator is not None
    before = snapshot(networks.plain_discriminator)
    scene = forward(networks, first_batch(trainer), trainer.config)
    terms = generator_terms(networks, trainer.train_step.objectives, scene, trainer.config)
    sum(term.sum() for term in terms.balanced.values()).backward()  # type: ignore[union-attr]
    assert not gradients(networks.plain_discriminator)
    assert unchanged(networks.plain_discriminator, before)
    assert all(p.requires_grad for p in networks.plain_discriminator.parameters())
    assert gradients(networks.plain_generator)


def test_discriminator_step_leaves_the_generator_alone(trainer: Trainer) -> None:
    networks = trainer.networks
    assert networks.discriminator is not None
    scene = forward(networks, first_batch(trainer), trainer.config)
    discriminator_loss(networks.discriminator, scene, trainer.config).loss.sum().backward()
    assert gradients(networks.discriminator)
    assert not gradients(networks.plain_generator)


def test_encoder_is_bit_identical_after_training(trainer: Trainer) -> None:
    before = snapshot(trainer.networks.encoder)
    trainer.run()
    assert unchanged(trainer.networks.encoder, before)
    assert not gradients(trainer.networks.encoder)


def test_every_trainable_parameter_receives_a_gradient(trainer: Trainer) -> None:
    """What DDP demands; the zero-initialized paint blocks gradients, so it is moved first."""
    networks = trainer.networks
    for parameter in networks.plain_generator.parameters():
        nn.init.normal_(parameter, std=0.05)
    scene = forward(networks, first_batch(trainer), trainer.config)
    terms = generator_terms(networks, trainer.train_step.objectives, scene, trainer.config)
    loss = sum(term.sum() for term in (terms.balanced | terms.extra).values())
    loss.backward()  # type: ignore[union-attr]
    missing = [n for n, p in networks.plain_generator.named_parameters() if p.grad is None]
    assert not missing


def test_strength_zero_carries_no_style_gradient(trainer: Trainer) -> None:
    batch = first_batch(trainer)
    batch["strength"] = torch.zeros_like(batch["strength"])
    scene = forward(trainer.networks, batch, trainer.config)
    terms = generator_terms(trainer.networks, trainer.train_step.objectives, scene, trainer.config)
    assert torch.equal(scene.output.image, batch["content"])
    assert terms.balanced["style"].abs().max() == 0
    assert terms.balanced["adversarial"].abs().max() == 0


def test_discriminator_weighs_only_full_strength_outputs(trainer: Trainer) -> None:
    config = replace(trainer.config, full_strength_prob=0.5)
    discriminator = trainer.networks.discriminator
    assert discriminator is not None
    batch = first_batch(trainer)
    scene = forward(trainer.networks, batch, config)
    batch["full"] = torch.tensor([0.0, 1.0])
    partial = discriminator_loss(discriminator, scene, config).loss
    batch["full"] = torch.tensor([0.0, 0.0])
    real_only = discriminator_loss(discriminator, scene, config).loss
    assert partial[0] == real_only[0]
    assert partial[1] > real_only[1]


def test_frozen_restores_the_module_after_an_error() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), frozen(module):
        raise RuntimeError
    assert all(p.requires_grad for p in module.parameters())


def test_accuracy_is_of_the_patches_that_were_judged(trainer: Trainer) -> None:
    """Whatever the share of outputs at full strength, it lies between 0 and 1."""
    discriminator = trainer.networks.discriminator
    assert discriminator is not None
    batch = first_batch(trainer)
    scene = forward(trainer.networks, batch, trainer.config)
    batch["full"] = torch.ones(2)
    both = discriminator_loss(discriminator, scene, trainer.config).accuracy
    batch["full"] = torch.zeros(2)
    real = discriminator_loss(discriminator, scene, trainer.config).accuracy
    assert ((both >= 0) & (both <= 1)).all()
    assert ((2 * both - real >= -1e-6) & (2 * both - real <= 1 + 1e-6)).all()
