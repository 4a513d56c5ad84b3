"""The trainer: one loop over steps, on one process or many (Accelerate)."""

import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import PairDataset, PositionSampler, RawBatch, make_loader
from ..data.demo.samples import sample_collections
from ..data.files import locked, remove_stale_parts, write_atomic
from ..data.folders import Collection, read_collection
from ..data.image_cache import CachedImages, UncachedImages, cached_side, prepare
from ..models.pretrained import cache_dir
from .balance import TERMS
from .checkpoint import load_checkpoint, save_checkpoint, saved_step
from .config import TrainConfig, differences, encoder_taps, to_json
from .health import HealthMonitor
from .model_files import build_encoder, load_config, load_state, save_model
from .networks import build_networks, make_accelerator, style_codes
from .runtime import Interrupted, join_processes, stop_signals
from .schedule import duration, is_due
from .tracking import Tracker, write_description
from .train_step import ForwardResult, TrainStep
from .validation import Validation
from .visualize import training_grid

AGREE_EVERY = 10  # steps, on a GPU
TIMED = 10  # steps after which it can be said how long a run takes


def collections(config: TrainConfig, notify: bool = True) -> tuple[Collection, Collection]:
    """Photos and paintings of a run: the folders named, the built-in samples for those not."""
    samples: tuple[Collection | None, Collection | None] = (None, None)
    if config.photos is None or config.paintings is None:
        samples = sample_collections(cache_dir())
        if notify:
            missing = [name for name in ("photos", "paintings") if getattr(config, name) is None]
            print(f"no --{' and no --'.join(missing)}: using the built-in samples", file=sys.stderr)
    cache = cache_dir()
    photos = read_collection(config.photos, cache) if config.photos else samples[0]
    paintings = read_collection(config.paintings, cache) if config.paintings else samples[1]
    assert photos is not None
    assert paintings is not None
    return photos, paintings


def train(config: TrainConfig) -> Path:
    """Train, or continue, the run in ``config.out``; returns the run folder.

    Raises:
        ValueError: a mistake in the configuration, the folders or the files they hold; the disk
            is full; or too many steps gave no finite gradient.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
    """
    if trainer := begin(config):
        trainer.run()
    return config.out


def begin(config: TrainConfig, guided: bool = False) -> "Trainer | None":
    """What trains, or continues, the run in ``config.out``; None if that is finished.

    Args:
        config: of the run.
        guided: for somebody who looks on: says how long it will take, and keeps a gallery.

    Raises:
        ValueError: a mistake in the configuration, the folders or the files they hold.
    """
    main = join_processes(config.device).is_main_process
    check_run_folder(config)
    if is_finished(config):
        if main:
            print(f"{config.out} is finished", file=sys.stderr)
        return None
    return Trainer(config, guided)


def check_run_folder(config: TrainConfig) -> None:
    """Refuse a run folder that was made with another configuration.

    More steps may be asked for, and what does not change the result may be changed.
    """
    if not (config.out / "config.json").is_file():
        return
    old = load_config(config.out)
    changed = differences(replace(old, steps=max(old.steps, config.steps)), config)
    if changed:
        raise ValueError(
            f"{config.out} was made with another configuration; choose another --out, or the same "
            "settings to continue it. Differences:\n  " + "\n  ".join(changed)
        )


def is_finished(config: TrainConfig) -> bool:
    """Whether the run has made all its steps and its model is whole."""
    if saved_step(config.out) < config.steps:
        return False
    try:
        load_state(config.out)
    except ValueError:
        return False
    return True


class Trainer:
    """Builds what a config describes and runs its steps; ``guided`` as for ``begin``."""

    def __init__(self, config: TrainConfig, guided: bool = False) -> None:
        self.config, self.guided = config, guided
        self.accelerator = make_accelerator(config)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        with self.accelerator.main_process_first():  # the first one fills the caches
            self.photos, self.paintings = collections(config, self.main)
            self.dataset = PairDataset(
                self._pictures("photos", self.photos), self._pictures("paintings", self.paintings),
                config.size, config.seed, config.full_strength_prob, config.crop_scale,
            )  # fmt: skip
            encoder, self.pretrained = build_encoder(config, encoder_taps(config))
        encoder.to(self.device)
        codes = None if config.init else style_codes(encoder, self.paintings.train, config)
        self.networks = build_networks(config, self.accelerator, encoder, codes)
        self.train_step = TrainStep(config, self.accelerator, self.networks)
        self.validation = Validation(
            config, self.photos.validation, self.paintings.validation, self.paintings.train
        )
        self.health_monitor = HealthMonitor(config, speaks=self.main)
        self.best = math.inf  # the lowest validation/total so far

    def _pictures(self, name: str, collection: Collection) -> CachedImages | UncachedImages:
        side = cached_side(self.config.size, self.config.crop_scale)
        if not self.config.cache_images:
            return UncachedImages(collection.train, side)
        return prepare(collection.train, side, cache_dir(), name)

    # -- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the last checkpoint to the last step.

        Raises:
            ValueError: another process trains in this folder; and see ``train``.
        """
        with locked(self.config.out / ".lock") if self.main else nullcontext():
            self._run()

    def _run(self) -> None:
        config, start = self.config, self._resume()
        self.tracker = Tracker(config.out, start) if self.main else None
        looked_at = self.guided and self.main
        if start == 0 and config.balance.kind == "gradient":
            self.train_step.first_measurement(next(self._batches(0)))
        bar = tqdm(
            self._batches(start), f"training {config.out.name}", initial=start,
            total=config.steps, disable=not self.main, dynamic_ncols=True,
        )  # fmt: skip
        with stop_signals() as stop:
            for done, batch in enumerate(bar, start=start + 1):
                scene = self.train_step.step(done - 1, batch)
                if done % config.image_every == 0 and self.tracker is not None:
                    self.tracker.image(done, "photo, painting, stylized, attention", _grid(scene))
                if numbers := self._look(done):
                    bar.set_postfix(_summary(numbers), refresh=False)
                if looked_at and done == start + TIMED < config.steps:
                    each = bar.format_dict["elapsed"] / TIMED
                    bar.write(_time_left(each, config.steps - done), file=sys.stderr)
                stopping = self._agreed(bool(stop), done)
                if stopping or is_due(config.save_every, done, config):
                    self._save(config.out, done, config.keep_checkpoints)
                if stopping and done < config.steps:
                    raise Interrupted(
                        f"stopped after step {done} of {config.steps}; "
                        "run the same command again to continue"
                    )
        if self.tracker is not None:
            self.tracker.close()
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Take up the last checkpoint, if there is one; returns its step."""
        config, networks = self.config, self.networks
        if self.main:
            for folder in (config.out, config.out / "best"):
                remove_stale_parts(folder)
                remove_stale_parts(folder / "checkpoints")
            manifest = {"photos": self.photos.manifest(), "paintings": self.paintings.manifest()}
            write_description(config, manifest, self.pretrained, self.accelerator)
        with self.accelerator.main_process_first():  # who sets damaged checkpoints aside
            restored = load_checkpoint(config.out, networks.modules(), networks.optimizers())
        if restored is None:
            return 0
        start, state = restored
        self.train_step.restore(state)
        self.health_monitor.restore(state)
        self.best = float(state["best"])
        if start >= config.steps:  # finished, but for its model, which was lost
            self._save(config.out, start, config.keep_checkpoints)
        return start

    def _batches(self, start: int) -> Iterator[RawBatch]:
        positions = PositionSampler(
            start,
            self.config.steps,
            self.config.batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        return iter(make_loader(self.dataset, positions, self.config.workers))

    def _agreed(self, stop: bool, done: int) -> bool:
        """Whether any process was asked to stop; all must leave at the same step.

        The host waits for the answer, so on GPUs they ask each other at some steps only.
        """
        if self.accelerator.num_processes == 1:
            return stop
        if self.device.type == "cuda" and done % AGREE_EVERY:
            return False
        flag = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    # -- keeping -----------------------------------------------------------------------------

    def _save(self, run: Path, step: int, keep: int) -> None:
        """Write model and checkpoint into a run folder."""
        self._read_checks()
        best = {"best": torch.tensor(self.best, dtype=torch.float64)}
        state = self.train_step.state() | self.health_monitor.state() | best
        if not self.main:
            return
        n = self.networks
        try:
            # The model first, so that a run whose checkpoint says "finished" has its final one;
            # and each time, so that a run can be looked at while it trains.
            save_model(n.averaged.state_dict(), run)
            save_checkpoint(run, step, n.modules(), n.optimizers(), state, keep)
        except OSError as error:
            raise ValueError(
                f"step {step} could not be saved in {run}: {error.strerror}. The last whole "
                f"checkpoint is that of step {saved_step(self.config.out)}; once there is room, "
                "run the same command again to continue from it"
            ) from None

    def _keep_best(self, step: int, error: float) -> None:
        """The best model so far has a run folder of its own."""
        if not error < self.best:  # nor if it is no number
            return
        self.best, folder = error, self.config.out / "best"
        if self.main:
            write_atomic(folder / "config.json", to_json(replace(self.config, out=folder)))
        self._save(folder, step, keep=1)

    # -- logging -----------------------------------------------------------------------------

    def _look(self, step: int) -> dict[str, float]:
        """Write down and watch the figures that are due after this step, if any."""
        config, numbers = self.config, dict[str, float]()
        if is_due(config.log_every, step, config):
            self._read_checks()
            numbers |= self.train_step.figures(step) | {
                "skipped": float(self.health_monitor.skipped)
            }
        if is_due(config.validate_every, step, config):
            numbers |= self.validation(self.networks, self.train_step.objectives, self.accelerator)
        if self.tracker is not None and numbers:
            self.tracker.scalars(step, numbers)
            self.health_monitor.figures(step, numbers)
        self._keep_best(step, numbers.get("validation/total", math.inf))
        return numbers

    def _read_checks(self) -> None:
        checks, self.train_step.checks = self.train_step.checks, []
        self.health_monitor.steps(checks, self._names)

    def _names(self, position: int) -> str:
        """The pictures at a position of the stream."""
        photo, painting = self.dataset.indices(position)
        return f"{self.photos.train[photo]} with {self.paintings.train[painting]}"


def _grid(scene: ForwardResult) -> Tensor:
    batch, output = scene.batch, scene.output
    return training_grid(
        batch["content"], batch["style"], output.image.detach(), output.attention.detach()
    )


def _time_left(seconds: float, steps: int) -> str:
    return f"time        about {duration(seconds * steps)}: {steps} more steps of {seconds:.2g} s"


def _summary(numbers: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows."""
    losses = {name: f"loss/{name}" for name in TERMS}
    return {name: f"{numbers[loss]:.3f}" for name, loss in losses.items() if loss in numbers}
