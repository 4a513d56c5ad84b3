"""Reference implementation of training, written the way published code usually is.

float32, default memory layout, no compilation; every loss makes its own encoder passes, real and
fake images go through the discriminator one after the other, and every loss is read at every step.
``underdrawing benchmark`` times it, and the tests compare ``trainers.train_step`` with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.dataset import Batch
from ...losses import adversarial as adv
from ...losses.attention import log_structural_error, prediction_loss
from ...losses.content import ContentLoss
from ...losses.diffaugment import NUMBERS, diff_augment
from ...losses.style import WASSERSTEIN_SIDE
from ...models.color import OPPONENT, REGULARIZATION, to_logit
from ...models.discriminator import PatchGAN
from ...models.encoder import Encoder
from ...models.generator import Generator, Stylized
from ...trainers.config import TrainConfig


class ReferenceTrainer:
    """Train with feature content loss, the full style loss, attention and adversarial loss.

    Loss weights are those of the config (balance ``fixed``), learning rates constant.
    """

    def __init__(
        self, config: TrainConfig, encoder: Encoder, generator: Generator, averaged: Generator,
        discriminator: PatchGAN, codes: Tensor,
    ) -> None:  # fmt: skip
        assert config.content.kind == "feature"
        assert config.style.kind == "sliced_wasserstein"
        assert config.style.relative
        assert config.attention.objective == "learned"
        self.config, self.encoder, self.codes, self.steps = config, encoder, codes, 0
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
            batch["content"], code, batch["strength"], cond_strength=batch["strength"],
            noise_offset=batch["uniform"][:, -2:],
        )  # fmt: skip
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
        self.steps += 1
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
        layers, painting, at_each_size = self.config.style.layers, batch["style"], []
        for weight in (1.0, 0.5):  # full and half size
            with torch.no_grad():
                targets = self.encoder(painting, layers)
            features = self.encoder(image, layers)
            pairs = [(features[layer], targets[layer]) for layer in layers]
            small = [(f, p) for f, p in pairs if max(f.shape[2:]) <= WASSERSTEIN_SIDE]
            wasserstein = [reference_wasserstein(f, p, self.steps) for f, p in small]
            distances = [reference_gram_loss(f, p) + reference_statistics(f, p) for f, p in pairs]
            mean = torch.stack(distances).mean(0) + 0.2 * torch.stack(wasserstein).mean(0)
            at_each_size.append(weight * mean)
            painting, image = F.avg_pool2d(painting, 2), F.avg_pool2d(image, 2)
        return torch.stack(at_each_size).sum(0)

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


def reference_gram_loss(features: Tensor, painting: Tensor) -> Tensor:
    """Return the relative Gram loss (B,) of features (B,C,h,w)."""
    target = reference_gram(painting)
    difference = (reference_gram(features) - target).square().sum(dim=(1, 2))
    return difference / target.square().sum(dim=(1, 2))


def reference_statistics(features: Tensor, painting: Tensor) -> Tensor:
    """Return the relative loss (B,) of channel means and standard deviations."""
    found, target = (
        torch.cat([x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt()], dim=1)
        for x in (features, painting)
    )
    return (found - target).square().sum(1) / target.square().sum(1)


def reference_wasserstein(features: Tensor, painting: Tensor, seed: int) -> Tensor:
    """Return the relative sliced Wasserstein distance (B,) of features (B,C,h,w)."""
    generator = torch.Generator(features.device).manual_seed(seed)
    channels = features.shape[1]
    drawn = torch.randn(channels, 64, generator=generator, device=features.device)
    directions = drawn / drawn.norm(dim=0)
    found, target = (
        torch.einsum("bchw,ck->bkhw", x, directions).flatten(2).sort().values
        for x in (features, painting)
    )
    return (found - target).square().mean((1, 2)) / target.var(2, correction=0).mean(1)


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
