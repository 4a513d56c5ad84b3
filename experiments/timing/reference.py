"""Reference implementation of training, written the way published code usually is.

float32, default memory layout, no compilation; every loss makes its own encoder passes, real and
fake images go through the discriminator one after the other, and every loss is read at every step.
``underdrawing benchmark`` times it, and the tests compare ``trainers.train_step`` with it.
"""

import torch
from torch import Tensor, nn

from ...data.dataset import Batch
from ...losses import adversarial as adv
from ...losses.attention import log_structural_error, prediction_loss
from ...losses.content import ContentLoss
from ...losses.diffaugment import NUMBERS, diff_augment
from ...models.color import OPPONENT, REGULARIZATION, to_logit
from ...models.discriminator import PatchGAN
from ...models.encoder import Encoder
from ...models.generator import Generator, Stylized
from ...trainers.config import TrainConfig


class ReferenceTrainer:
    """Train with feature content loss, relative Gram loss, attention and adversarial loss.

    Loss weights are those of the config (balance ``fixed``), learning rates constant.
    """

    def __init__(
        self, config: TrainConfig, encoder: Encoder, generator: Generator, averaged: Generator,
        discriminator: PatchGAN, codes: Tensor,
    ) -> None:  # fmt: skip
        assert config.content.kind == "feature"
        assert config.style.kind == "gram"
        assert config.attention.objective == "learned"
        self.config, self.encoder, self.codes = config, encoder, codes
        self.generator, self.averaged, self.discriminator = generator, averaged, discriminator
        o = config.optimizer
        self.optimizer_g = torch.optim.Adam(generator.parameters(), o.lr, o.betas)
        self.optimizer_d = torch.optim.Adam(
            discriminator.parameters(), o.lr_discriminator, o.betas_discriminator
        )
        self.content_loss = ContentLoss(config.content.layers, config.content.normalization)

    def step(self, batch: Batch) -> dict[str, float]:
        """Update G and D, both from the state before the step; return the losses by name."""
        balance, o = self.config.balance, self.config.optimizer
        code = reference_style_code(batch["style"], self.encoder, self.config)
        output = self.generator(
            batch["content"], code, batch["strength"], noise_offset=batch["uniform"][:, -2:]
        )
        code = self.generator.standardize(code)  # as D sees it
        attention = prediction_loss(output.predicted.positions, self._mean_log_error(batch))
        strength = batch["strength"].mean(dim=(1, 2, 3))
        losses = {
            "content": self._content_loss(batch, output).mean(),
            "style": (strength * self._style_loss(batch, output.image)).mean(),
            "adversarial": (strength * self._adversarial_loss(batch, output.image, code)).mean(),
            "attention": attention.mean(),
            "discriminator": self._discriminator_loss(batch, output.image, code).mean(),
        }
        loss_g = (
            balance.content * losses["content"]
            + balance.style * losses["style"]
            + balance.adversarial * losses["adversarial"]
            + losses["attention"]
        )
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_d.zero_grad()  # also removes the gradient of G's adversarial loss
        losses["discriminator"].backward()
        self.optimizer_d.step()
        self.discriminator.advance_spectral_norm()
        nn.utils.clip_grad_norm_(self.generator.parameters(), o.clip)
        self.optimizer_g.step()
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.generator.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, 1 - o.ema)
        return {name: value.item() for name, value in losses.items()}

    def _content_loss(self, batch: Batch, output: Stylized) -> Tensor:
        layers = [layer for layer, _ in self.config.content.layers]
        with torch.no_grad():
            photo = self.encoder(batch["content"], layers)
        errors = self.content_loss.squared_errors(self.encoder(output.image, layers), photo)
        return self.content_loss(errors, output.attention.detach())

    @torch.no_grad()
    def _mean_log_error(self, batch: Batch) -> Tensor:
        photo, k, errors = batch["content"], self.config.attention.paintings, []
        for i in range(k):
            codes = self.codes[(batch["position"] * k + i) % len(self.codes)]
            image = self.generator(photo, codes, noise_offset=batch["uniform"][:, -2:]).image
            grid = (image.shape[-2] // 8, image.shape[-1] // 8)
            errors.append(log_structural_error(image, photo, grid))
        return torch.stack(errors).mean(0)

    def _style_loss(self, batch: Batch, image: Tensor) -> Tensor:
        layers = self.config.style.layers
        with torch.no_grad():
            painting = self.encoder(batch["style"], layers)
        stylized = self.encoder(image, layers)
        distances = []
        for layer in layers:
            target = reference_gram(painting[layer])
            difference = (reference_gram(stylized[layer]) - target).square().sum(dim=(1, 2))
            distances.append(difference / target.square().sum(dim=(1, 2)))
        return torch.stack(distances).mean(0)

    def _adversarial_loss(self, batch: Batch, image: Tensor, code: Tensor) -> Tensor:
        fake = self.discriminator(diff_augment(image, batch["uniform"][:, :NUMBERS]), code)
        return adv.generator_loss(fake.logits, self.config.adversarial.gan_loss)

    def _discriminator_loss(self, batch: Batch, image: Tensor, code: Tensor) -> Tensor:
        gan_loss, numbers = self.config.adversarial.gan_loss, batch["uniform"][:, :NUMBERS]
        real = self.discriminator(diff_augment(batch["style"], numbers), code)
        fake = self.discriminator(diff_augment(image.detach(), numbers), code)
        weight = batch["full"] / self.config.full_strength_prob
        return adv.real_loss(real.logits, gan_loss) + weight * adv.fake_loss(fake.logits, gan_loss)


def reference_gram(features: Tensor) -> Tensor:
    """Return the Gram matrices (B,C,C) of features (B,C,h,w)."""
    b, c, h, w = features.shape
    f = features.reshape(b, c, h * w)
    return torch.bmm(f, f.transpose(1, 2)) / (c * h * w)


def reference_color_statistics(image: Tensor) -> Tensor:
    """Return the color statistics (B,9) of images (B,3,H,W)."""
    z = to_logit(image).flatten(2)  # (B,3,HW)
    axes = torch.tensor(OPPONENT, device=image.device)
    centered = axes @ (z - z.mean(-1, keepdim=True))
    covariance = centered @ centered.transpose(1, 2) / z.shape[-1]
    regularized = covariance + REGULARIZATION**2 * torch.eye(3, device=image.device)
    row, column = torch.tril_indices(3, 3)
    return torch.cat([z.mean(-1) @ axes.T, torch.linalg.cholesky(regularized)[:, row, column]], 1)


@torch.no_grad()
def reference_style_code(painting: Tensor, encoder: Encoder, config: TrainConfig) -> Tensor:
    """Return the style codes (B,D) of paintings (B,3,H,W)."""
    parts = [reference_color_statistics(painting)]
    for x in encoder(painting, config.style.layers).values():
        flat = x.flatten(2)
        parts += [flat.mean(-1), (flat.var(-1, correction=0) + 1e-5).sqrt()]
    return torch.cat(parts, dim=1)
