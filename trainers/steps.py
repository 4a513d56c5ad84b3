"""One training step, as functions: perceive, the discriminator's loss, the generator's terms.

batch -> perceive -> Scene -> discriminator_loss -> D
                          -> generator_terms    -> G (and the attention branch)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.stream import Pair
from ..losses import adversarial as adv
from ..losses.attention import (
    AttentionObjective,
    AttentionStatistics,
    attention_statistics,
    error_map,
)
from ..losses.content import ContentLoss, content_error, pixel_loss
from ..losses.diffaugment import NUMBERS, diff_augment
from ..losses.smoothness import tv_loss
from ..losses.style import StyleLoss
from ..models.generator import Stylized
from ..models.style_code import style_code
from .config import TrainConfig, content_layers
from .networks import Networks

Features = dict[str, Tensor]


class Objectives(nn.Module):
    """The loss modules of a run."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.content = ContentLoss(config.content.layers, config.content.normalization)
        self.style = StyleLoss(config.style.layers, config.style.kind, config.style.relative)
        a = config.attention
        self.attention = AttentionObjective(
            dict(config.content.layers), a.objective, a.target, a.budget, a.channel_budget, a.clip
        )


class Scene(NamedTuple):
    """A batch after the frozen encoder and one pass of the generator."""

    batch: Pair
    content: Features  # of the photo, at the content layers
    style: Features  # of the painting, at the style layers
    standard: Tensor  # (B,D) the style code as the networks see it
    output: Stylized


class Terms(NamedTuple):
    """The generator's loss terms, each (B,), before weighting."""

    balanced: dict[str, Tensor]  # content, style, adversarial
    extra: dict[str, Tensor]  # attention (the branch's own), tv
    figures: dict[str, Tensor]  # (B,) each, of the attention map and the output


class Judged(NamedTuple):
    """D on a batch, each (B,)."""

    loss: Tensor
    accuracy: Tensor  # share told right, of the painting's patches and a full-strength output's


def perceive(networks: Networks, batch: Pair, config: TrainConfig) -> Scene:
    """Features of photo and painting, without gradient, and the generator's output."""
    encoder = networks.encoder
    with torch.no_grad():
        content = encoder(batch["content"], taps) if (taps := content_layers(config)) else {}
        style = encoder(batch["style"], config.style.layers)
        code = style_code(batch["style"], style)
    output = networks.generator(batch["content"], code, batch["strength"])
    return Scene(batch, content, style, networks.plain_generator.standard(code), output)


def discriminator_loss(discriminator: nn.Module, scene: Scene, config: TrainConfig) -> Judged:
    """D's loss: paintings are real, outputs at full strength are fake.

    One forward for both. Outputs of lower strength have weight 0, the others 1/share, so the
    expectation does not depend on how often the strength is full.
    """
    a = config.adversarial
    real = scene.batch["style"].detach().requires_grad_(a.r1 > 0)
    x = torch.cat([real, scene.output.image.detach()])
    uniform = scene.batch["uniform"][:, :NUMBERS].repeat(2, 1)
    x = diff_augment(x, uniform) if a.augment else x
    verdict = discriminator(x, scene.standard.repeat(2, 1) if a.projection else None)
    real_logits, fake_logits = zip(*(logits.chunk(2) for logits in verdict.logits), strict=True)
    full = scene.batch["full"]
    weight = full / config.full_strength
    loss = adv.real_loss(real_logits, a.game) + weight * adv.fake_loss(fake_logits, a.game)
    if a.r1 > 0:
        loss = loss + a.r1 / 2 * adv.r1_penalty(real_logits, real)
    real_right = adv.taken_for_real(real_logits, a.game)
    fake_right = full * (1 - adv.taken_for_real(fake_logits, a.game))
    return Judged(loss, (real_right + fake_right) / (1 + full))


def generator_terms(
    networks: Networks,
    objectives: Objectives,
    scene: Scene,
    config: TrainConfig,
    statistics: bool = False,
) -> Terms:
    """G's terms, with figures of the attention map and the output if asked for.

    The discriminator judges unwrapped and frozen.
    """
    image, photo = scene.output.image, scene.batch["content"]
    strength = scene.batch["strength"].mean(dim=(1, 2, 3))
    features = networks.encoder(image)
    balanced = {"style": strength * objectives.style(features, scene.style)}
    extra, figures = {}, {}

    if config.content.kind == "pixel":
        balanced["content"] = pixel_loss(image, photo)
    else:
        squared = objectives.content.squared_errors(features, scene.content)
        weighting = objectives.attention(
            scene.output.attention, scene.output.channels, squared, scene.content, image, photo
        )
        balanced["content"] = objectives.content(squared, weighting.attention, weighting.channels)
        extra["attention"] = weighting.loss
        observed = config.attention.objective == "observed"
        shown = scene.output.attention if observed else weighting.attention
        if statistics and shown is not None:
            figures = _statistics(shown, squared, objectives)._asdict()
            figures = {f"attention/{name}": value for name, value in figures.items()}
    if config.balance.tv > 0:
        extra["tv"] = config.balance.tv * tv_loss(image)

    if networks.plain_discriminator is not None:
        adversarial = _adversarial(networks.plain_discriminator, scene, config)
        balanced["adversarial"] = strength * adversarial
    if statistics:
        figures["output/change"] = (image - photo).detach().abs().mean(dim=(1, 2, 3))
    return Terms(balanced, extra, figures)


def _adversarial(discriminator: nn.Module, scene: Scene, config: TrainConfig) -> Tensor:
    a = config.adversarial
    uniform = scene.batch["uniform"][:, :NUMBERS]
    augment = (lambda x: diff_augment(x, uniform)) if a.augment else (lambda x: x)
    standard = scene.standard if a.projection else None
    with frozen(discriminator):
        verdict = discriminator(augment(scene.output.image), standard)
        loss = adv.generator_loss(verdict.logits, a.game)
        if a.feature_matching > 0:
            with torch.no_grad():
                photo = discriminator(augment(scene.batch["content"]), standard)
            matching = adv.feature_matching(verdict.features, photo.features)
            loss = loss + a.feature_matching * matching
    return loss


@torch.no_grad()
def _statistics(
    attention: Tensor, squared: Features, objectives: Objectives
) -> AttentionStatistics:
    h, w = attention.shape[-2:]
    errors = {layer: content_error(x.detach()) for layer, x in squared.items()}
    error = error_map(errors, objectives.content.layers, (h, w))
    return attention_statistics(attention.detach(), error)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient into the module's parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
