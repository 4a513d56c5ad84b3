"""How G and D learn from the stream: one optimizer step of each, over all micro-batches."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.stream import Pair
from .balance import Balance
from .config import TrainConfig
from .networks import Networks
from .schedule import average_into, learning_rate_factor, set_learning_rate
from .steps import Objectives, Scene, Terms, discriminator_loss, generator_terms, perceive


class Learner:
    """Networks, objectives and balance of a run, one step at a time.

    Nothing in a step waits for the device: figures are summed there, and read when asked for.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, networks: Networks) -> None:
        self.config, self.accelerator, self.networks = config, accelerator, networks
        self.objectives = Objectives(config)
        self.balance = Balance(config.balance, accelerator.device)
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def step(self, step: int, batches: Iterator[Pair]) -> Scene:
        """Learn from the next ``accumulate`` batches; returns the last one's scene."""
        config, networks = self.config, self.networks
        rates = {
            "optimizer_g": config.optimizer.lr,
            "optimizer_d": config.optimizer.lr_discriminator,
        }
        for name, optimizer in networks.optimizers().items():
            set_learning_rate(optimizer, rates[name] * learning_rate_factor(step, config))
        measuring = step % config.balance.every == 0
        logging = self.is_logged(step + 1)
        weights = self.balance.weights(step / config.steps)
        for _ in range(config.accumulate):
            batch = next(batches)
            # One context for both: Accelerate's accumulation contexts share a counter.
            with self.accelerator.accumulate(*networks.trained()):
                scene = self._perceive(batch)
                self._discriminator_step(scene)
                self._record(self._generator_step(scene, weights, measuring, logging))
        if measuring:
            self.balance.update(self.accelerator, config.accumulate)
        average_into(networks.averaged, networks.plain_generator, step, config.optimizer.ema)
        return scene

    def is_logged(self, done: int) -> bool:
        """Whether figures are written after this many steps."""
        return done % self.config.log_every == 0 or done == self.config.steps

    def first_measurement(self, batches: Iterator[Pair]) -> None:
        """Gradient norms before step 0, on its own batches, without a step."""
        for _ in range(self.config.accumulate):
            scene = self._perceive(next(batches))
            with self.accelerator.autocast():
                terms = generator_terms(self.networks, self.objectives, scene, self.config)
            self.balance.measure(terms.balanced, scene.output.image)
        self.balance.update(self.accelerator, self.config.accumulate)

    def figures(self, step: int) -> dict[str, float]:
        """Means since the last call, over processes; this is where the device is waited for."""
        progress = step / self.config.steps
        values = {name: total / self.counts[name] for name, total in self.sums.items()}
        values |= {f"share/{name}": share for name, share in self.balance.shares(progress).items()}
        values |= {f"weight/{name}": w for name, w in self.balance.weights(progress).items()}
        stacked = self.accelerator.reduce(torch.stack([v.float() for v in values.values()]), "mean")
        self.sums, self.counts = {}, {}
        return dict(zip(values, stacked.tolist(), strict=True))

    def _perceive(self, batch: Pair) -> Scene:
        with self.accelerator.autocast():
            return perceive(self.networks, batch, self.config)

    def _discriminator_step(self, scene: Scene) -> None:
        """D learns from this batch; G's output is detached."""
        networks = self.networks
        if networks.discriminator is None or networks.optimizer_d is None:
            return
        with self.accelerator.autocast():
            loss = discriminator_loss(networks.discriminator, scene, self.config).mean()
        self.accelerator.backward(loss)
        networks.optimizer_d.step()
        networks.optimizer_d.zero_grad()
        self._add("loss/discriminator", loss)

    def _generator_step(
        self, scene: Scene, weights: dict[str, Tensor], measuring: bool, logging: bool
    ) -> Terms:
        """G and its attention branch learn from this batch, in one backward; D is frozen."""
        with self.accelerator.autocast():
            terms = generator_terms(self.networks, self.objectives, scene, self.config, logging)
        if measuring:
            self.balance.measure(terms.balanced, scene.output.image)
        self.accelerator.backward(total_loss(terms, weights))
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(
                self.networks.generator.parameters(), self.config.optimizer.clip
            )
        self.networks.optimizer_g.step()
        self.networks.optimizer_g.zero_grad()
        return terms

    def _record(self, terms: Terms) -> None:
        for name, term in (terms.balanced | terms.extra).items():
            self._add(f"loss/{name}", term.mean())
        if terms.attention is not None:
            for name, value in terms.attention._asdict().items():
                self._add(f"attention/{name}", value.mean())

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1


def total_loss(terms: Terms, weights: dict[str, Tensor]) -> Tensor:
    """The generator's loss: balanced terms times their weights, and the others."""
    balanced = [weights[name] * term.mean() for name, term in terms.balanced.items()]
    return torch.stack([*balanced, *(term.mean() for term in terms.extra.values())]).sum()
