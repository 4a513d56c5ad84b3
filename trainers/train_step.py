"""How G and D learn from the stream: one optimizer step of each, over all micro-batches."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..data.dataset import Batch, RawBatch, split, unpack
from ..losses import adversarial as adv
from ..losses.attention import (
    AttentionObjective,
    AttentionStatistics,
    attention_statistics,
    error_map,
)
from ..losses.content import ContentLoss, content_error, pixel_loss
from ..losses.diffaugment import NUMBERS, diff_augment
from ..losses.style import StyleLoss
from ..losses.total_variation import tv_loss
from ..models.generator import Stylized
from ..models.style_code import style_code
from .balance import Balance
from .config import TrainConfig, content_layers
from .networks import Networks
from .runtime import out_of_memory
from .schedule import average_into, is_due, learning_rate_factor, set_learning_rate

Features = dict[str, Tensor]


class Losses(nn.Module):
    """The loss modules of a run."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.content = ContentLoss(config.content.layers, config.content.normalization)
        self.style = StyleLoss(config.style.layers, config.style.kind, config.style.relative)
        a = config.attention
        self.attention = AttentionObjective(
            dict(config.content.layers), a.objective, a.target, a.budget, a.channel_budget
        )


class ForwardResult(NamedTuple):
    """A batch after the frozen encoder and one pass of the generator."""

    batch: Batch
    content: Features  # of the photo, at the content layers
    style: Features  # of the painting, at the style layers
    standard: Tensor  # (B,D) the style code as the networks see it
    output: Stylized


class Terms(NamedTuple):
    """The generator's loss terms, each (B,), before weighting."""

    balanced: dict[str, Tensor]  # content, style, adversarial
    extra: dict[str, Tensor]  # attention (the branch's own), tv
    figures: dict[str, Tensor]  # (B,) each, of the attention map and the output


class DiscriminatorLoss(NamedTuple):
    """D on a batch, each (B,)."""

    loss: Tensor
    accuracy: Tensor  # share told right, of the painting's patches and a full-strength output's


def forward(networks: Networks, batch: Batch, config: TrainConfig) -> ForwardResult:
    """Features of photo and painting, without gradient, and the generator's output."""
    encoder = networks.encoder
    with torch.no_grad():
        content = encoder(batch["content"], taps) if (taps := content_layers(config)) else {}
        style = encoder(batch["style"], config.style.layers)
        code = style_code(batch["style"], style)
    output = networks.generator(batch["content"], code, batch["strength"])
    return ForwardResult(batch, content, style, networks.plain_generator.standardize(code), output)


def discriminator_loss(
    discriminator: nn.Module, scene: ForwardResult, config: TrainConfig
) -> DiscriminatorLoss:
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
    weight = full / config.full_strength_prob
    loss = adv.real_loss(real_logits, a.gan_loss) + weight * adv.fake_loss(fake_logits, a.gan_loss)
    if a.r1 > 0:
        loss = loss + a.r1 / 2 * adv.r1_penalty(real_logits, real)
    real_right = adv.fraction_real(real_logits, a.gan_loss)
    fake_right = full * (1 - adv.fraction_real(fake_logits, a.gan_loss))
    return DiscriminatorLoss(loss, (real_right + fake_right) / (1 + full))


def generator_terms(
    networks: Networks,
    objectives: Losses,
    scene: ForwardResult,
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


def _adversarial(discriminator: nn.Module, scene: ForwardResult, config: TrainConfig) -> Tensor:
    a = config.adversarial
    uniform = scene.batch["uniform"][:, :NUMBERS]
    augment = (lambda x: diff_augment(x, uniform)) if a.augment else (lambda x: x)
    standard = scene.standard if a.projection else None
    with frozen(discriminator):
        verdict = discriminator(augment(scene.output.image), standard)
        loss = adv.generator_loss(verdict.logits, a.gan_loss)
        if a.feature_matching > 0:
            with torch.no_grad():
                photo = discriminator(augment(scene.batch["content"]), standard)
            matching = adv.feature_matching(verdict.features, photo.features)
            loss = loss + a.feature_matching * matching
    return loss


@torch.no_grad()
def _statistics(attention: Tensor, squared: Features, objectives: Losses) -> AttentionStatistics:
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


class Record(NamedTuple):
    """What one micro-batch showed."""

    values: dict[str, Tensor]  # each ()
    finite: Tensor  # (b,) bool: all losses of a picture


class StepCheck(NamedTuple):
    """Whether a step counted, on the device."""

    step: int
    skipped: Tensor  # () 0 or 1, the same on all processes
    losses: Tensor  # () 0 or 1, likewise: it was a loss that is not finite
    finite: Tensor  # (b,) bool, of this process's pictures
    position: Tensor  # (b,) theirs in the stream


class TrainStep:
    """Networks, objectives and balance of a run, one step at a time.

    G and D are updated together, each from the other as it was before the step, so that neither
    the number of micro-batches nor of processes changes what they learn, and nothing is changed
    before all gradients are there. Nothing in a step waits for the device: figures are summed
    there, and read when asked for.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, networks: Networks) -> None:
        self.config, self.accelerator, self.networks = config, accelerator, networks
        self.objectives = Losses(config)
        self.balance = Balance(config.balance, accelerator.device)
        self.micro_batches = config.accumulate
        self.totals: dict[str, Tensor] = {}  # (2,) each: sum and count since the last figures
        self.checks: list[StepCheck] = []  # since whoever reads them took them

    def step(self, step: int, packed: RawBatch) -> ForwardResult:
        """Learn from this process's part of a batch; returns the last micro-batch's scene.

        If a loss or gradient is not finite on any process, no weight of G or D changes on any.

        Raises:
            ValueError: out of memory, and no smaller micro-batch to be had.
        """
        learned = None
        while learned is None:
            learned = self._gradients(step, packed)
        records, scene = learned
        finite = torch.cat([record.finite for record in records])
        skipped, losses = self._update(step, finite)
        if self._measures(step):
            self.balance.update(self.accelerator, self.micro_batches)
        for record in records:
            for name, value in record.values.items():
                self._add(name, value, skipped)
        # A copy: the loader's own holds a file handle.
        position = packed["position"].clone()
        self.checks.append(StepCheck(step, skipped, losses, finite, position))
        return scene

    def first_measurement(self, packed: RawBatch) -> None:
        """Gradient norms before step 0, on its own batch, without a step."""
        for part in split(packed, self.micro_batches):
            with self.accelerator.autocast():
                scene = forward(self.networks, unpack(part, self.accelerator.device), self.config)
                terms = generator_terms(self.networks, self.objectives, scene, self.config)
            self.balance.measure(terms.balanced, scene.output.image)
        self.balance.update(self.accelerator, self.micro_batches)

    def figures(self, step: int) -> dict[str, float]:
        """Means since the last call, over processes; this is where the device is waited for."""
        progress = step / self.config.steps
        values = {name: total / count for name, (total, count) in self.totals.items()}
        values |= {f"share/{name}": share for name, share in self.balance.shares(progress).items()}
        values |= {f"weight/{name}": w for name, w in self.balance.weights(progress).items()}
        stacked = self.accelerator.reduce(torch.stack([v.float() for v in values.values()]), "mean")
        self.totals = {}
        return dict(zip(values, stacked.tolist(), strict=True))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside networks and optimizers; the mean over processes."""
        return {"balance": self.balance.norms} | {
            f"total/{name}": self.accelerator.reduce(total, "mean")
            for name, total in self.totals.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state``."""
        device = self.accelerator.device
        self.balance.norms = state["balance"].to(device)
        self.totals = {
            name.removeprefix("total/"): total.to(device)
            for name, total in state.items()
            if name.startswith("total/")
        }

    # -- gradients ---------------------------------------------------------------------------

    def _gradients(self, step: int, packed: RawBatch) -> tuple[list[Record], ForwardResult] | None:
        """Gradients of G and D over all micro-batches, with the last one's scene; None if the
        memory ran out, which makes the micro-batches smaller.
        """
        weights = self.balance.weights(step / self.config.steps)
        parts = split(packed, self.micro_batches)
        try:
            records = []
            for part in parts:
                last = part is parts[-1]
                with ExitStack() as quiet:
                    for module in [] if last else self.networks.trained():
                        quiet.enter_context(self.accelerator.no_sync(module))
                    record, scene = self._micro_batch(step, part, weights)
                records.append(record)
            return records, scene
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Only now, since the error held on to the tensors of the failed attempt.
        self._shrink(len(packed["position"]))
        return None

    def _micro_batch(
        self, step: int, part: RawBatch, weights: dict[str, Tensor]
    ) -> tuple[Record, ForwardResult]:
        """Add one micro-batch's gradients: G's and its attention branch's in one backward, D
        being frozen, then D's.
        """
        config, networks = self.config, self.networks
        with self.accelerator.autocast():
            scene = forward(networks, unpack(part, self.accelerator.device), config)
            logging = is_due(config.log_every, step + 1, config)
            terms = generator_terms(networks, self.objectives, scene, config, logging)
        if self._measures(step):
            self.balance.measure(terms.balanced, scene.output.image)
        self.accelerator.backward(total_loss(terms, weights) / self.micro_batches)
        losses = {f"loss/{name}": term for name, term in (terms.balanced | terms.extra).items()}
        values = dict(terms.figures)
        if networks.discriminator is not None:
            with self.accelerator.autocast():
                judged = discriminator_loss(networks.discriminator, scene, config)
            self.accelerator.backward(judged.loss.mean() / self.micro_batches)
            losses["loss/discriminator"] = judged.loss
            values["discriminator/accuracy"] = judged.accuracy
        finite = torch.stack(list(losses.values())).detach().isfinite().all(0)
        means = {name: value.detach().mean() for name, value in (losses | values).items()}
        return Record(means, finite), scene

    def _shrink(self, pictures: int) -> None:
        """Forget the gradients begun, and take the next larger number of micro-batches.

        Raises:
            ValueError: there is none.
        """
        # Several processes cannot agree on it: the others may be past their gradients' reduction.
        alone = self.accelerator.num_processes == 1
        larger = [n for n in range(self.micro_batches + 1, pictures + 1) if pictures % n == 0]
        if not (alone and larger):
            raise ValueError(
                f"out of memory at {pictures // self.micro_batches} picture(s) of "
                f"{self.config.size} px at a time: "
                + ("raise --accumulate or lower --size" if larger else "lower --size")
            )
        self.micro_batches = larger[0]
        self.balance.forget()
        for optimizer in self.networks.optimizers().values():
            optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
        warnings.warn(
            f"out of memory: going on with {larger[0]} micro-batches of "
            f"{pictures // larger[0]} picture(s), the same batch altogether; "
            f"--accumulate {larger[0]} starts that way",
            stacklevel=2,
        )

    # -- the update --------------------------------------------------------------------------

    def _update(self, step: int, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Step both optimizers, or neither.

        Returns:
            1 if the step was skipped, else 0; and whether for a loss on any process.
        """
        o, networks = self.config.optimizer, self.networks
        norms = [self.accelerator.clip_grad_norm_(networks.generator.parameters(), o.clip)]
        if networks.discriminator is not None:
            gradients = [p.grad for p in networks.discriminator.parameters() if p.grad is not None]
            norms.append(get_total_norm(gradients))
        broken = torch.stack([~finite.all(), ~torch.stack(norms).isfinite().all()])
        broken = self.accelerator.reduce(broken.float(), "sum").clamp(max=1)
        skipped = broken.max()
        rates = {"optimizer_g": o.lr, "optimizer_d": o.lr_discriminator}
        for name, optimizer in networks.optimizers().items():
            set_learning_rate(optimizer, rates[name] * learning_rate_factor(step, self.config))
            # Fused Adam leaves weights and moments alone where this is 1, without asking the host.
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad()
        if networks.plain_discriminator is not None:
            networks.plain_discriminator.advance_spectral_norm()
        average_into(networks.averaged, networks.plain_generator, step, o.ema)
        return skipped, broken[0]

    # -- figures -----------------------------------------------------------------------------

    def _measures(self, step: int) -> bool:
        return step % self.config.balance.every == 0

    def _add(self, name: str, value: Tensor, skipped: Tensor) -> None:
        """Add to what ``figures`` gives the mean of; skipped steps don't count."""
        one = torch.stack([value.float(), torch.ones_like(skipped)])
        total = self.totals.get(name, torch.zeros_like(one))
        self.totals[name] = total + torch.where(skipped > 0, 0.0, one)


def total_loss(terms: Terms, weights: dict[str, Tensor]) -> Tensor:
    """The generator's loss: balanced terms times their weights, and the others."""
    balanced = [weights[name] * term.mean() for name, term in terms.balanced.items()]
    return torch.stack([*balanced, *(term.mean() for term in terms.extra.values())]).sum()
