"""One optimization step of generator G and discriminator D.

batch -> forward -> generator_terms -> total_loss -> backward      D frozen
                 -> discriminator_loss            -> backward      output of G detached
then one Adam step of both, or of neither if a loss or gradient is not finite

In the last steps the attention branch learns alone, for the averaged generator:

batch -> branch_terms -> backward -> Adam
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from accelerate import Accelerator
from einops import reduce
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..data.dataset import Batch, RawBatch, split, unpack
from ..losses import adversarial as adv
from ..losses.attention import (
    attention_statistics,
    correlation,
    error_map,
    learns_error,
    log_structural_error,
    prediction_loss,
    standardize,
    weighting_error,
)
from ..losses.content import ContentLoss, content_error, dynamic_layers, pixel_loss
from ..losses.diffaugment import NUMBERS, diff_augment
from ..losses.style import StyleLoss, draw_directions, half_size
from ..losses.text import TextLoss
from ..losses.total_variation import tv_loss
from ..models.attention import attention_map
from ..models.clip import load_clip
from ..models.encoder import Encoder, Features
from ..models.generator import STRIDE, Generator, Stylized
from ..models.style_code import style_code
from .balance import TERMS, Balance
from .capture import Captured
from .config import TrainConfig, content_layers
from .networks import Networks
from .schedule import average_into, is_due, joint_steps, learning_rate_factor, set_learning_rate

StepImages = tuple[Tensor, Tensor, Tensor, Tensor]  # photos, paintings, stylized, attention


class Losses(nn.Module):
    """The loss modules of a run."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.content = ContentLoss(config.content.layers, config.content.normalization)
        self.style = StyleLoss(config.style.layers, config.style.kind, config.style.relative)
        self.text = _text_loss(config) if config.text else None


def _text_loss(config: TrainConfig) -> TextLoss:
    """Build the term of ``config.text``; raises what ``load_clip`` raises."""
    c = config.clip
    clip = load_clip(c.model, c.weights)
    return TextLoss(
        clip.model, clip.embed_texts, config.text, clip.size, clip.mean, clip.std,
        c.patches, c.patch_weight,
    )  # fmt: skip


class ForwardResult(NamedTuple):
    """A batch, its features and the generator's output."""

    batch: Batch
    content: Features  # of the photo, at the content layers
    style: list[Features]  # of the painting, at the style layers; see ``style_features``
    code: Tensor  # (B,D) standardized style code
    output: Stylized


class Terms(NamedTuple):
    """The generator's loss terms, each (B,), before weighting."""

    balanced: dict[str, Tensor]  # style, content, adversarial
    extra: dict[str, Tensor]  # attention (loss of its branches), text, tv
    metrics: dict[str, Tensor]  # (B,) each, of the attention map and the output


class DiscriminatorLoss(NamedTuple):
    """The discriminator's loss and accuracy, each (B,)."""

    loss: Tensor
    accuracy: Tensor  # over patches of the painting, and of the output if at full strength


class StepOutput(NamedTuple):
    """What a step leaves on the device, apart from the new weights."""

    logged: list[dict[str, Tensor]]  # losses and metrics of each micro-batch, (b,) each
    finite: Tensor  # (b,) bool: all losses of an image of this process are finite
    skipped: Tensor  # () 0 or 1, the same on all processes
    images: StepImages | None  # of the last micro-batch; None if the branch learns alone


class StepCheck(NamedTuple):
    """Whether a step was skipped and why; on the device."""

    step: int
    skipped: Tensor  # () 0 or 1, the same on all processes
    finite: Tensor  # (b,) bool: all losses of an image of this process are finite
    position: Tensor  # (b,) positions of these images in the stream


def forward(networks: Networks, batch: Batch, config: TrainConfig) -> ForwardResult:
    """Encode photo and painting without gradient, and stylize."""
    encoder, layers = networks.encoder, content_layers(config)
    with torch.no_grad():
        content = encoder(batch["content"], layers) if layers else {}
        style = style_features(encoder, batch["style"], config)
        code = style_code(batch["style"], style[0])  # (B,D)
    strength, offset = batch["strength"], batch["uniform"][:, -2:]  # (B,1,H,W), (B,2)
    output = networks.generator(
        batch["content"], code, strength, cond_strength=strength, noise_offset=offset
    )
    return ForwardResult(batch, content, style, networks.plain_generator.standardize(code), output)


def style_features(
    encoder: Encoder, image: Tensor, config: TrainConfig, features: Features | None = None
) -> list[Features]:
    """Return features at the style layers at full size (if not given) and, if used, half size."""
    style = config.style
    copies = half_size(image, style.kind)
    return [features or encoder(image, style.layers), *(encoder(x, style.layers) for x in copies)]


def generator_terms(
    networks: Networks,
    losses: Losses,
    result: ForwardResult,
    config: TrainConfig,
    with_metrics: bool = False,
    directions: dict[int, Tensor] | None = None,
) -> Terms:
    """Return the generator's loss terms and, on request, metrics of its output.

    ``directions`` are the random ones of the style loss, the same for all images.
    """
    image, photo = result.output.image, result.batch["content"]  # (B,3,H,W) each
    strength = result.batch["strength"].mean(dim=(1, 2, 3))  # (B,)
    features = networks.encoder(image)
    scales = style_features(networks.encoder, image, config, features)
    terms = Terms({"style": strength * losses.style(scales, result.style, directions)}, {}, {})

    if config.content.kind == "pixel":
        terms.balanced["content"] = pixel_loss(image, photo)
    else:
        errors = losses.content.squared_errors(features, result.content)
        attention = _content_weights(result, config)
        channels, terms.extra["attention"] = _channel_weights(result, errors, config)
        layers = losses.content.layers
        chosen = dynamic_layers(photo, layers) if config.content.dynamic_layers else None
        terms.balanced["content"] = losses.content(errors, attention, channels, chosen)
        if learns_error(config.attention.objective):
            target = error_target(networks.plain_generator, networks, result.batch, config)
            predicted = result.output.predicted.positions
            terms.extra["attention"] = terms.extra["attention"] + prediction_loss(predicted, target)
            attention = result.output.attention if attention is None else attention
            if with_metrics:
                terms.metrics["attention/prediction"] = correlation(predicted.detach(), target)
        if with_metrics and attention is not None:
            terms.metrics.update(_attention_metrics(attention, errors, losses))
    if losses.text is not None:
        text = losses.text(image, photo, result.batch["position"])
        terms.extra["text"] = config.clip.weight * strength * text
    if config.balance.tv > 0:
        terms.extra["tv"] = config.balance.tv * tv_loss(image)
    if networks.plain_discriminator is not None:
        adversarial = _adversarial_loss(networks.plain_discriminator, result, config)
        terms.balanced["adversarial"] = strength * adversarial
    if with_metrics:
        terms.metrics["output/change"] = (image - photo).detach().abs().mean(dim=(1, 2, 3))
    return terms


def _content_weights(result: ForwardResult, config: TrainConfig) -> Tensor | None:
    """Return the map A (B,1,h,w) that weights the content loss; None for A = 1."""
    a, layers = config.attention, dict(config.content.layers)
    error = weighting_error(
        a.objective, result.output.predicted.positions, result.output.image,
        result.batch["content"], result.content, layers,
    )  # fmt: skip
    return None if error is None else attention_map(error, a.budget)


def _channel_weights(
    result: ForwardResult, errors: Features, config: TrainConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the weights (B,C) of the content layers' channels, and the branch's loss (B,)."""
    weights, loss = {}, result.batch["full"].new_zeros(len(result.batch["full"]))
    for layer, predicted in result.output.predicted.channels.items():
        error = reduce(errors[layer].detach(), "b c h w -> b c", "mean")
        loss = loss + prediction_loss(predicted, standardize((error + 1e-6).log()))
        weights[layer] = attention_map(predicted.detach(), config.attention.channel_budget)
    return weights, loss / max(1, len(weights))


def branch_terms(networks: Networks, batch: Batch, config: TrainConfig) -> Terms:
    """Return the loss of the attention branch alone, and metrics of its map.

    Photos are encoded and stylized by the averaged generator, which the map has to fit.
    """
    photo = batch["content"]
    with torch.no_grad():
        trunk = networks.averaged.encode_photo(photo)
    attention, predicted = networks.plain_generator.predict_attention(photo, *trunk)  # (B,1,h,w), _
    target = error_target(networks.averaged, networks, batch, config, trunk)  # (B,1,h,w)
    statistics = attention_statistics(attention.detach())
    metrics = {f"attention/{name}": value for name, value in statistics.items()}
    metrics["attention/prediction"] = correlation(predicted.positions.detach(), target)
    return Terms({}, {"attention": prediction_loss(predicted.positions, target)}, metrics)


def error_target(
    generator: Generator,
    networks: Networks,
    batch: Batch,
    config: TrainConfig,
    trunk: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return what the attention branch of a generator learns to predict of the photos of a batch,
    (B,1,h,w). ``trunk`` are the encoded photos, if they are known.
    """
    assert networks.codes is not None
    codes = _drawn_codes(networks.codes, batch["position"], config.attention.paintings)
    offset = batch["uniform"][:, -2:]
    return mean_log_error(generator, batch["content"], codes, offset, trunk)


@torch.no_grad()
def mean_log_error(
    generator: Generator,
    photo: Tensor,
    codes: Tensor,
    noise_offset: Tensor | None = None,
    trunk: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the log structural error of photos (B,3,H,W) at full strength, averaged over the
    style codes (K,B,D) or (K,1,D), (B,1,h,w). ``trunk``: as for the generator.
    """
    grid = math.ceil(photo.shape[-2] / STRIDE), math.ceil(photo.shape[-1] / STRIDE)
    trunk = trunk or generator.encode_photo(photo)
    outputs = (
        generator(
            photo, code.expand(len(photo), -1), attend=False, noise_offset=noise_offset,
            trunk=trunk,
        )
        for code in codes
    )  # fmt: skip
    errors = [log_structural_error(output.image, photo, grid) for output in outputs]
    return torch.stack(errors).mean(0)


def _drawn_codes(codes: Tensor, position: Tensor, k: int) -> Tensor:
    """Return k of the style codes (N,D) for each position (B,) of the stream, (k,B,D).

    As they depend on the position alone, neither resuming nor the number of processes or
    micro-batches changes them.
    """
    return codes[(position * k + torch.arange(k, device=position.device)[:, None]) % len(codes)]


def _adversarial_loss(
    discriminator: nn.Module, result: ForwardResult, config: TrainConfig
) -> Tensor:
    """Return G's adversarial loss (B,); D is frozen and unwrapped, so it gets no gradient."""
    a, batch = config.adversarial, result.batch
    code = result.code if a.projection else None
    with frozen(discriminator):
        stylized = discriminator(_augment(result.output.image, batch, config), code)
        loss = adv.generator_loss(stylized.logits, a.gan_loss)
        if a.feature_matching > 0:
            with torch.no_grad():
                photo = discriminator(_augment(batch["content"], batch, config), code)
            matching = adv.feature_matching(stylized.features, photo.features)
            loss = loss + a.feature_matching * matching
    return loss


@torch.no_grad()
def _attention_metrics(attention: Tensor, errors: Features, losses: Losses) -> dict[str, Tensor]:
    """Return peak, KL and correlation with the content error of A, each (B,)."""
    maps = {layer: content_error(error.detach()) for layer, error in errors.items()}
    h, w = attention.shape[-2:]
    error = error_map(maps, losses.content.layers, (h, w))
    statistics = attention_statistics(attention.detach(), error)
    return {f"attention/{name}": value for name, value in statistics.items()}


def total_loss(terms: Terms, weights: dict[str, Tensor]) -> Tensor:
    """Return the generator's loss: weighted balanced terms plus the extra ones."""
    balanced = [weights[name] * term.mean() for name, term in terms.balanced.items()]
    return torch.stack([*balanced, *(term.mean() for term in terms.extra.values())]).sum()


def discriminator_loss(
    discriminator: nn.Module, result: ForwardResult, config: TrainConfig
) -> DiscriminatorLoss:
    """Return D's loss: paintings are real, outputs at full strength are fake.

    Outputs at lower strength have weight 0 and the others 1/p, with p the probability of full
    strength, so that the expected loss does not depend on p.
    """
    a, full = config.adversarial, result.batch["full"]
    real = result.batch["style"].detach().requires_grad_(a.r1 > 0)
    images = torch.cat([real, result.output.image.detach()])  # one pass for both
    code = result.code.repeat(2, 1) if a.projection else None
    logits = discriminator(_augment(images, result.batch, config), code).logits  # (2B,1,h,w)
    real_logits, fake_logits = logits.chunk(2)
    loss = adv.real_loss(real_logits, a.gan_loss)
    loss = loss + full / config.full_strength_prob * adv.fake_loss(fake_logits, a.gan_loss)
    if a.r1 > 0:
        loss = loss + a.r1 / 2 * adv.r1_penalty(real_logits, real)
    real_accuracy = adv.fraction_real(real_logits, a.gan_loss)
    fake_accuracy = full * (1 - adv.fraction_real(fake_logits, a.gan_loss))
    return DiscriminatorLoss(loss, (real_accuracy + fake_accuracy) / (1 + full))


def _all_losses_finite(values: dict[str, Tensor]) -> Tensor:
    losses = [value for name, value in values.items() if name.startswith("loss/")]
    return torch.stack(losses).isfinite().all(0)  # (b,)


def _augment(images: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """Apply DiffAugment to one or several batches (k·B,3,H,W), the same to each."""
    numbers = batch["uniform"][:, :NUMBERS]
    repeated = numbers.repeat(len(images) // len(numbers), 1)
    return diff_augment(images, repeated) if config.adversarial.augment else images


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the module's parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class TrainStep:
    """Run optimization steps of G and D.

    Both are updated from the same forward pass, after all gradients are complete, so that neither
    the number of micro-batches nor of processes changes the result. No step waits for the device:
    metrics are summed there, and read by ``metrics``.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, networks: Networks) -> None:
        self.config, self.accelerator, self.networks = config, accelerator, networks
        self.losses = Losses(config).to(accelerator.device)
        self.balance = Balance(config.balance, accelerator.device)
        self.totals: dict[str, Tensor] = {}  # (2,) each: sum and count since the last ``metrics``
        self.checks: list[StepCheck] = []  # until the caller takes them
        channels = networks.encoder.channels() if config.style.kind == "sliced_wasserstein" else {}
        self.channels = sorted({c for layer, c in channels.items() if layer in config.style.layers})
        # Gloo and NCCL are not captured.
        alone_on_gpu = accelerator.device.type == "cuda" and accelerator.num_processes == 1
        capture = config.cuda_graphs and alone_on_gpu
        self._run: Callable[..., StepOutput] = Captured(self._learn) if capture else self._learn
        alone = Captured(self._learn_attention) if capture else self._learn_attention
        self._run_alone: Callable[..., StepOutput] = alone

    def step(self, step: int, raw: RawBatch) -> StepImages | None:
        """Learn from this process's part of a batch; return the images of its last micro-batch,
        which the next step overwrites, or None if the attention branch learns alone.

        If a loss or gradient is not finite on any process, the step is skipped on all of them.
        """
        config, o, device = self.config, self.config.optimizer, self.accelerator.device
        joint, networks = joint_steps(config), self.networks
        measure = step % config.balance.every == 0 and step < joint
        if step == 0 < joint and config.balance.kind == "gradient":
            self._measure_initial_norms(split(raw, config.accumulate))
        rates = {"optimizer_g": o.lr, "optimizer_d": o.lr_discriminator}
        for name, optimizer in networks.optimizers().items():
            set_learning_rate(optimizer, rates[name] * learning_rate_factor(step, config))

        inputs: dict[str, Tensor] = dict(raw)  # type: ignore[arg-type]
        if step < joint:
            weights = self.balance.weights(step / joint)
            inputs |= {f"weight/{name}": weight for name, weight in weights.items()}
            inputs |= {f"directions/{c}": draw_directions(c, step, device) for c in self.channels}
            output = self._run(inputs, measure, is_due(config.log_every, step + 1, config))
            average_into(networks.averaged, networks.plain_generator, step, o.ema)
        else:
            output = self._run_alone(inputs)
            averaged, current = networks.averaged.attention, networks.plain_generator.attention
            assert averaged
            assert current
            average_into(averaged, current, step - joint, o.ema)
        if measure:
            self.balance.update(self.accelerator, config.accumulate)
        for values in output.logged:
            self._add_to_totals(values, output.skipped)
        # Copied: the loader's tensor is in shared memory, with a file handle.
        copies = (output.skipped.clone(), output.finite.clone(), raw["position"].clone())
        self.checks.append(StepCheck(step, *copies))
        return output.images

    def _learn(self, inputs: dict[str, Tensor], measure: bool, with_metrics: bool) -> StepOutput:
        """Update G and D. Everything that differs between steps is in the inputs, apart from the
        state of networks and optimizers, so that the work can be recorded: see ``Captured``.
        """
        weights = {name: inputs[f"weight/{name}"] for name in TERMS}
        directions = {c: inputs[f"directions/{c}"] for c in self.channels}
        parts, logged = self._micro_batches(inputs), []
        for part in parts:
            with self._gradient_sync(enabled=part is parts[-1]):
                result, terms = self._generator_backward(
                    part, weights, directions, measure, with_metrics
                )
                logged.append(terms | self._discriminator_backward(result))
        output, photos, paintings = result.output, result.batch["content"], result.batch["style"]
        images = photos, paintings, output.image.detach(), output.attention.detach()
        return self._update_if_finite(logged, images)

    def _learn_attention(self, inputs: dict[str, Tensor]) -> StepOutput:
        """Update the attention branch alone."""
        logged = []
        for part in self._micro_batches(inputs):
            with self.accelerator.autocast():
                batch = unpack(part, self.accelerator.device)
                terms = branch_terms(self.networks, batch, self.config)
            logged.append(self._backward(terms, {}))
        for parameter in self.networks.plain_generator.parameters():
            if parameter.grad is not None:  # DDP would wait for the others
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return self._update_if_finite(logged, None)

    def _update_if_finite(
        self, logged: list[dict[str, Tensor]], images: StepImages | None
    ) -> StepOutput:
        """Step the optimizers, given the losses of all micro-batches."""
        finite = torch.cat([_all_losses_finite(values) for values in logged])
        return StepOutput(logged, finite, self._update(finite), images)

    def _micro_batches(self, inputs: dict[str, Tensor]) -> list[RawBatch]:
        batch: RawBatch = {name: inputs[name] for name in RawBatch.__annotations__}  # type: ignore[assignment]
        return split(batch, self.config.accumulate)

    def _generator_backward(
        self,
        raw: RawBatch,
        weights: dict[str, Tensor],
        directions: dict[int, Tensor],
        measure: bool,
        with_metrics: bool,
    ) -> tuple[ForwardResult, dict[str, Tensor]]:
        """Add gradients of G, including its attention branch; return losses and metrics too."""
        config = self.config
        with self.accelerator.autocast():
            result = forward(self.networks, unpack(raw, self.accelerator.device), config)
            terms = generator_terms(
                self.networks, self.losses, result, config, with_metrics, directions
            )
        if measure:
            self.balance.measure(terms.balanced, result.output.image, result.batch["content"])
        return result, self._backward(terms, weights)

    def _backward(self, terms: Terms, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add gradients of the loss; return its terms and the metrics."""
        self.accelerator.backward(total_loss(terms, weights) / self.config.accumulate)
        named = (terms.balanced | terms.extra).items()
        return {f"loss/{name}": term.detach() for name, term in named} | terms.metrics

    def _discriminator_backward(self, result: ForwardResult) -> dict[str, Tensor]:
        """Add gradients of D, if there is one; return its loss and accuracy."""
        if self.networks.discriminator is None:
            return {}
        with self.accelerator.autocast():
            d = discriminator_loss(self.networks.discriminator, result, self.config)
        self.accelerator.backward(d.loss.mean() / self.config.accumulate)
        return {"loss/discriminator": d.loss.detach(), "discriminator/accuracy": d.accuracy}

    def _update(self, finite: Tensor) -> Tensor:
        """Step both optimizers, or neither; return 1 if the step was skipped, else 0.

        Parameters without gradient stay as they are.
        """
        clip, networks = self.config.optimizer.clip, self.networks
        norms = [self.accelerator.clip_grad_norm_(networks.generator.parameters(), clip)]
        if networks.discriminator is not None:
            gradients = [p.grad for p in networks.discriminator.parameters() if p.grad is not None]
            norms += [get_total_norm(gradients)] if gradients else []
        healthy = finite.all() & torch.stack(norms).isfinite().all()
        skipped = self.accelerator.reduce((~healthy).float(), "sum").clamp(max=1)
        for optimizer in networks.optimizers().values():
            # Fused Adam skips its update where this is 1, without waiting for the device.
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad()
        if networks.plain_discriminator is not None:
            networks.plain_discriminator.advance_spectral_norm()
        return skipped

    def _measure_initial_norms(self, parts: list[RawBatch]) -> None:
        """Measure gradient norms before the first step, whose weights depend on them."""
        for part in parts:
            with self.accelerator.autocast():
                batch = unpack(part, self.accelerator.device)
                result = forward(self.networks, batch, self.config)
                terms = generator_terms(self.networks, self.losses, result, self.config)
            self.balance.measure(terms.balanced, result.output.image, result.batch["content"])
        self.balance.update(self.accelerator, self.config.accumulate)

    @contextmanager
    def _gradient_sync(self, enabled: bool) -> Iterator[None]:
        """Average gradients over processes in the last micro-batch only."""
        with ExitStack() as stack:
            for module in [] if enabled else self.networks.trained():
                stack.enter_context(self.accelerator.no_sync(module))
            yield

    def _add_to_totals(self, values: dict[str, Tensor], skipped: Tensor) -> None:
        for name, value in values.items():
            one = torch.stack([value.mean().float(), torch.ones_like(skipped)])
            total = self.totals.get(name, torch.zeros_like(one))
            self.totals[name] = total + torch.where(skipped > 0, 0.0, one)

    def metrics(self, step: int) -> dict[str, float]:
        """Return means since the last call, over steps that count and processes; wait for them."""
        progress = min(1, step / max(1, joint_steps(self.config)))
        values = {name: total / count for name, (total, count) in self.totals.items()}
        values |= {f"share/{name}": share for name, share in self.balance.shares(progress).items()}
        values |= {f"weight/{name}": w for name, w in self.balance.weights(progress).items()}
        stacked = self.accelerator.reduce(torch.stack([v.float() for v in values.values()]), "mean")
        self.totals = {}
        return dict(zip(values, stacked.tolist(), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint, apart from networks and optimizers."""
        return {"balance": self.balance.norms} | {
            f"total/{name}": self.accelerator.reduce(total, "mean")
            for name, total in self.totals.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load the output of ``state``."""
        device = self.accelerator.device
        self.balance.norms = state["balance"].to(device)
        self.totals = {
            name.removeprefix("total/"): total.to(device)
            for name, total in state.items()
            if name.startswith("total/")
        }
