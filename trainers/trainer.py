"""The trainer: one loop over steps, on one process or many (Accelerate)."""

import json
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.folders import Collection, read_collection
from ..data.images import write_atomic
from ..data.samples import sample_collections
from ..data.stream import Pair, PairStream, Positions, make_loader
from ..losses.attention import collapse_warning
from ..models.pretrained import cache_dir
from .balance import TERMS, Balance
from .checkpoint import load_checkpoint, save_checkpoint, saved_step
from .config import TrainConfig, differences, to_json
from .model_files import load_config, save_model
from .networks import build_networks, make_accelerator
from .pictures import training_grid
from .schedule import average_into, learning_rate_factor, set_learning_rate
from .signals import Interrupted, stop_signals
from .steps import Objectives, Scene, Terms, discriminator_loss, generator_terms, perceive
from .tracking import Tracker, provenance


def collections(config: TrainConfig, notify: bool = True) -> tuple[Collection, Collection]:
    """Photos and paintings of a run: the folders named, the built-in samples for those not."""
    samples: tuple[Collection | None, Collection | None] = (None, None)
    if config.photos is None or config.paintings is None:
        samples = sample_collections(cache_dir())
        if notify:
            missing = [name for name in ("photos", "paintings") if getattr(config, name) is None]
            print(f"no --{' and no --'.join(missing)}: using the built-in samples", file=sys.stderr)
    photos = read_collection(config.photos) if config.photos else samples[0]
    paintings = read_collection(config.paintings) if config.paintings else samples[1]
    assert photos is not None
    assert paintings is not None
    return photos, paintings


def train(config: TrainConfig) -> Path:
    """Train, or continue, the run in ``config.out``; returns the run folder.

    Raises:
        ValueError: a mistake in the configuration, the folders or the files they hold.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
    """
    check_run_folder(config)
    if saved_step(config.out) >= config.steps:
        print(f"{config.out} is finished", file=sys.stderr)
        return config.out
    Trainer(config).run()
    return config.out


def check_run_folder(config: TrainConfig) -> None:
    """Refuse a run folder that was made with another configuration, except for more steps."""
    if not (config.out / "config.json").is_file():
        return
    old = load_config(config.out)
    extended = replace(old, out=config.out, steps=max(old.steps, config.steps))
    changed = differences(extended, config)
    if changed:
        raise ValueError(
            f"{config.out} was made with another configuration; choose another --out, or the same "
            "settings to continue it. Differences:\n  " + "\n  ".join(changed)
        )


class Trainer:
    """Builds what a config describes and runs its steps."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.accelerator = make_accelerator(config)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        with self.accelerator.main_process_first():  # the first one fills the sample cache
            self.photos, self.paintings = collections(config, self.main)
        self.dataset = PairStream(
            self.photos.train, self.paintings.train, config.size, config.seed,
            config.full_strength, config.crop_scale,
        )  # fmt: skip
        self.networks = build_networks(config, self.accelerator, self.paintings.train)
        self.objectives = Objectives(config)
        self.balance = Balance(config.balance, self.device)
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.warned = False

    # -- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the last checkpoint to the last step."""
        config, networks = self.config, self.networks
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
            self._write_description()
        restored = load_checkpoint(config.out, networks.modules(), networks.optimizers())
        start = restored[0] if restored else 0
        if restored:
            self.balance.norms = restored[1]["balance"].to(self.device)
        self.accelerator.wait_for_everyone()
        self.tracker = Tracker(config.out, start) if self.main else None
        batches = self._batches(start)
        bar = tqdm(
            range(start, config.steps), f"training {config.out.name}", initial=start,
            total=config.steps, disable=not self.main, dynamic_ncols=True,
        )  # fmt: skip
        with stop_signals() as stop:
            for step in bar:
                self._step(step, batches)
                done = step + 1
                if done % config.log_every == 0 or done == config.steps:
                    bar.set_postfix(self._log(done), refresh=False)
                stopping = self._agreed(bool(stop))
                if done % config.save_every == 0 or done == config.steps or stopping:
                    self._save(done)
                if stopping and done < config.steps:
                    raise Interrupted(
                        f"stopped after step {done} of {config.steps}; "
                        "run the same command again to continue"
                    )
        if self.main:
            assert self.tracker is not None
            self.tracker.close()
        self.accelerator.wait_for_everyone()

    def _batches(self, start: int) -> Iterator[Pair]:
        config, accelerator = self.config, self.accelerator
        positions = Positions(
            start,
            config.steps,
            config.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
        )
        micro = config.batch_size // accelerator.num_processes // config.accumulate
        for batch in make_loader(self.dataset, positions, micro, config.workers):
            yield {
                key: value.to(self.device, non_blocking=True, memory_format=layout(value))
                for key, value in batch.items()
            }  # type: ignore[misc]  # fmt: skip

    def _step(self, step: int, batches: Iterator[Pair]) -> None:
        """One optimizer step of D and of G, over all micro-batches."""
        config, networks, progress = self.config, self.networks, step / self.config.steps
        rates = {
            "optimizer_g": config.optimizer.lr,
            "optimizer_d": config.optimizer.lr_discriminator,
        }
        for name, optimizer in networks.optimizers().items():
            set_learning_rate(optimizer, rates[name] * learning_rate_factor(step, config))
        measuring = step % config.balance.every == 0
        if step == 0 and config.balance.kind == "gradient":
            self._first_measurement()
        weights = self.balance.weights(progress)
        for _ in range(config.accumulate):
            batch = next(batches)
            # One context for both: Accelerate's accumulation contexts share a counter.
            with self.accelerator.accumulate(*networks.trained()):
                scene = self._perceive(batch)
                self._discriminator_step(scene)
                terms = self._generator_step(scene, weights, measuring)
            self._record(terms)
        if measuring:
            self.balance.update(self.accelerator, config.accumulate)
        average_into(networks.averaged, networks.plain_generator, step, config.optimizer.ema)
        if (step + 1) % config.image_every == 0 and self.tracker is not None:
            self.tracker.image(step + 1, "photo, painting, stylized, attention", _grid(scene))

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

    def _generator_step(self, scene: Scene, weights: dict[str, Tensor], measuring: bool) -> Terms:
        """G and its attention branch learn from this batch, in one backward; D is frozen."""
        with self.accelerator.autocast():
            terms = generator_terms(self.networks, self.objectives, scene, self.config)
        if measuring:
            self.balance.measure(terms.balanced, scene.output.image)
        balanced = [weights[name] * term.mean() for name, term in terms.balanced.items()]
        loss = torch.stack([*balanced, *(term.mean() for term in terms.extra.values())]).sum()
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(
                self.networks.generator.parameters(), self.config.optimizer.clip
            )
        self.networks.optimizer_g.step()
        self.networks.optimizer_g.zero_grad()
        return terms

    def _first_measurement(self) -> None:
        """Before step 0 no gradient norm is known: measure on its own batch, without a step."""
        batches = self._batches(0)
        for _ in range(self.config.accumulate):
            scene = self._perceive(next(batches))
            terms = generator_terms(self.networks, self.objectives, scene, self.config)
            self.balance.measure(terms.balanced, scene.output.image)
        self.balance.update(self.accelerator, self.config.accumulate)

    # -- keeping -----------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        if self.main:
            # First, so that a run whose checkpoint says "finished" has its final model; and each
            # time, so that a run can be looked at while it trains.
            save_model(self.networks.averaged.state_dict(), self.config.out)
            save_checkpoint(
                self.config.out, step, self.networks.modules(), self.networks.optimizers(),
                {"balance": self.balance.norms},
            )  # fmt: skip

    def _write_description(self) -> None:
        config = self.config
        write_atomic(config.out / "config.json", to_json(config))
        manifest = {"photos": self.photos.manifest(), "paintings": self.paintings.manifest()}
        write_atomic(config.out / "manifest.json", json.dumps(manifest, indent=1))
        p = self.networks.pretrained
        origin = {"name": p.name, "source": p.source, "sha256": p.sha256}
        about = provenance(
            encoder=origin, device=str(self.device), processes=self.accelerator.num_processes,
            data={name: part["sha256"] for name, part in manifest.items()},
        )  # fmt: skip
        write_atomic(config.out / "run.json", json.dumps(about, indent=1))

    def _agreed(self, stop: bool) -> bool:
        """Whether any process was asked to stop; all must leave at the same step."""
        if self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    # -- logging -----------------------------------------------------------------------------

    def _record(self, terms: Terms) -> None:
        for name, term in (terms.balanced | terms.extra).items():
            self._add(f"loss/{name}", term.mean())
        if terms.attention is not None:
            for name, value in terms.attention._asdict().items():
                self._add(f"attention/{name}", value.mean())

    def _add(self, name: str, value: Tensor) -> None:
        """Sum on the device: reading a number would make the device wait for us."""
        self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    def _log(self, step: int) -> dict[str, str]:
        """Means since the last log, over processes, written down; returns what the bar shows."""
        progress = step / self.config.steps
        values = {name: total / self.counts[name] for name, total in self.sums.items()}
        values |= {f"share/{name}": share for name, share in self.balance.shares(progress).items()}
        values |= {f"weight/{name}": w for name, w in self.balance.weights(progress).items()}
        stacked = self.accelerator.reduce(torch.stack([v.float() for v in values.values()]), "mean")
        numbers = dict(zip(values, stacked.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        if self.tracker is not None:
            self.tracker.scalars(step, numbers)
            self._watch_attention(step, numbers)
        return {
            name: f"{numbers[f'loss/{name}']:.3f}" for name in TERMS if f"loss/{name}" in numbers
        }

    def _watch_attention(self, step: int, numbers: dict[str, float]) -> None:
        config = self.config
        past_start = self.config.optimizer.warmup * 5  # the branch starts flat, by construction
        if self.warned or "attention/kl" not in numbers:
            return
        positions = math.ceil(config.size / 8) ** 2
        message = collapse_warning(
            numbers["attention/peak"], numbers["attention/kl"], positions, config.attention.budget
        )
        if message and step > past_start:
            warnings.warn(message, stacklevel=2)
            self.warned = True


def layout(tensor: Tensor) -> torch.memory_format:
    """channels_last for pictures: convolutions need no reordering then, on CPU and GPU."""
    return torch.channels_last if tensor.dim() == 4 else torch.preserve_format


def _grid(scene: Scene) -> Tensor:
    batch, output = scene.batch, scene.output
    return training_grid(
        batch["content"], batch["style"], output.image.detach(), output.attention.detach()
    )
