"""The same work written the way published codes are: what `underdrawing benchmark` compares with.

float32, default memory layout, eager, one optimizer loop; every loss makes its own passes through
the encoder, real and fake go through the discriminator one after the other, and every number is
read at every step. Kept simple, and kept: the tests hold the fast step against it.
"""

import torch
from torch import Tensor

from ...data.dataset import Batch
from ...losses import adversarial as adv
from ...losses.attention import AttentionObjective
from ...losses.content import ContentLoss
from ...losses.diffaugment import NUMBERS, diff_augment
from ...models.discriminator import PatchGAN
from ...models.encoder import Encoder
from ...models.generator import Generator, Stylized
from ...trainers.config import TrainConfig


class PlainLearner:
    """Feature content loss, relative Gram loss, attention and adversary; no options beyond that.

    ``step`` takes a batch and returns the losses. Weights are the config's (balance ``fixed``).
    """

    def __init__(
        self,
        config: TrainConfig,
        encoder: Encoder,
        generator: Generator,
        averaged: Generator,
        discriminator: PatchGAN,
    ) -> None:
        assert config.content.kind == "feature" and config.style.kind == "gram"  # noqa: PT018
        self.config, self.encoder = config, encoder
        self.generator, self.averaged, self.discriminator = generator, averaged, discriminator
        o = config.optimizer
        self.optimizer_g = torch.optim.Adam(generator.parameters(), o.lr, betas=(0.9, 0.99))
        self.optimizer_d = torch.optim.Adam(
            discriminator.parameters(), o.lr_discriminator, betas=(0.5, 0.99)
        )
        self.content_loss = ContentLoss(config.content.layers, config.content.normalization)
        self.objective = AttentionObjective(
            dict(config.content.layers), config.attention.objective, config.attention.target,
            config.attention.budget,
        )  # fmt: skip

    def step(self, batch: Batch) -> dict[str, float]:
        """G and D learn, each from the other as it was; returns the losses by name."""
        code = plain_style_code(batch["style"], self.encoder, self.config)
        output = self.generator(batch["content"], code, batch["strength"])
        standard = self.generator.standardize(code)
        losses = {"discriminator": self._discriminator_loss(batch, output.image, standard)}
        content, attention = self._content_loss(batch, output)
        strength = batch["strength"].mean(dim=(1, 2, 3))
        losses["content"] = content.mean()
        losses["attention"] = attention.mean()
        losses["style"] = (strength * self._style_loss(batch, output.image)).mean()
        losses["adversarial"] = self._adversarial_loss(batch, output.image, standard, strength)
        b = self.config.balance
        loss = (
            b.content * losses["content"]
            + b.style * losses["style"]
            + b.adversarial * losses["adversarial"]
            + losses["attention"]
        )
        self.optimizer_g.zero_grad()
        loss.backward()
        self.optimizer_d.zero_grad()  # of what G's loss left there
        losses["discriminator"].backward()
        self.optimizer_d.step()
        self.discriminator.advance_spectral_norm()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.config.optimizer.clip)
        self.optimizer_g.step()
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.generator.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, 1 - self.config.optimizer.ema)
        return {name: value.item() for name, value in losses.items()}

    def _discriminator_loss(self, batch: Batch, image: Tensor, standard: Tensor) -> Tensor:
        gan_loss, uniform = self.config.adversarial.gan_loss, batch["uniform"][:, :NUMBERS]
        real = self.discriminator(diff_augment(batch["style"], uniform), standard)
        fake = self.discriminator(diff_augment(image.detach(), uniform), standard)
        full = batch["full"] / self.config.full_strength_prob
        return (
            adv.real_loss(real.logits, gan_loss) + full * adv.fake_loss(fake.logits, gan_loss)
        ).mean()

    def _adversarial_loss(
        self, batch: Batch, image: Tensor, standard: Tensor, strength: Tensor
    ) -> Tensor:
        uniform = batch["uniform"][:, :NUMBERS]
        verdict = self.discriminator(diff_augment(image, uniform), standard)
        return (
            strength * adv.generator_loss(verdict.logits, self.config.adversarial.gan_loss)
        ).mean()

    def _content_loss(self, batch: Batch, output: Stylized) -> tuple[Tensor, Tensor]:
        layers = [layer for layer, _ in self.config.content.layers]
        with torch.no_grad():
            photo = self.encoder(batch["content"], layers)
        squared = self.content_loss.squared_errors(self.encoder(output.image, layers), photo)
        weighting = self.objective(
            output.attention, output.channels, squared, photo, output.image, batch["content"]
        )
        return self.content_loss(squared, weighting.attention), weighting.loss

    def _style_loss(self, batch: Batch, image: Tensor) -> Tensor:
        layers = self.config.style.layers
        with torch.no_grad():
            painting = self.encoder(batch["style"], layers)
        stylized = self.encoder(image, layers)
        distances = []
        for layer in layers:
            target = plain_gram(painting[layer])
            difference = (plain_gram(stylized[layer]) - target).square().sum(dim=(1, 2))
            distances.append(difference / target.square().sum(dim=(1, 2)))
        return torch.stack(distances).mean(0)


def plain_gram(features: Tensor) -> Tensor:
    """Gram matrices (B,C,C) of features (B,C,h,w)."""
    b, c, h, w = features.shape
    f = features.reshape(b, c, h * w)
    return torch.bmm(f, f.transpose(1, 2)) / (c * h * w)


@torch.no_grad()
def plain_style_code(painting: Tensor, encoder: Encoder, config: TrainConfig) -> Tensor:
    """Style codes (B,D) of paintings (B,3,H,W)."""
    parts = []
    for x in (painting, *encoder(painting, config.style.layers).values()):
        flat = x.reshape(x.shape[0], x.shape[1], -1)
        parts += [flat.mean(-1), (flat.var(-1, correction=0) + 1e-5).sqrt()]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def plain_stylize(
    photo: Tensor, painting: Tensor, encoder: Encoder, generator: Generator, config: TrainConfig
) -> Tensor:
    """One photo (1,3,H,W) after the manner of one painting, its style code made anew."""
    return generator(photo, plain_style_code(painting, encoder, config)).image
