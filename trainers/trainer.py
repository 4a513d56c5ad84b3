"""The training loop, on one process or many (Accelerate).

Start at ``Trainer.run``; a step is in ``train_step.py``.
"""

import math
import sys
import warnings
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..data.dataset import PairDataset, PositionSampler, RawBatch, make_loader
from ..data.demo.samples import sample_collections
from ..data.files import locked, remove_stale_parts, write_atomic
from ..data.folders import Collection, read_collection
from ..data.image_cache import ResizedImages, build_cache, cached_side
from ..data.record import check_images
from ..models.pretrained import cache_dir
from .balance import TERMS
from .checkpoint import load_checkpoint, save_checkpoint, saved_step
from .config import TrainConfig, differences, encoder_taps, to_json
from .health import HealthMonitor
from .model_files import build_encoder, load_config, load_state, save_model
from .networks import (
    build_networks,
    check_layers,
    load_initial_model,
    make_accelerator,
    needs_style_codes,
    style_codes,
)
from .runtime import Interrupted, join_processes, stop_signals
from .schedule import is_due
from .tracking import Tracker, initial_model, started_from, write_description
from .train_step import TrainStep
from .validation import Validation
from .visualize import training_grid

AGREE_EVERY = 10  # steps between checks for a stop signal on any GPU process
WARMUP = 2  # slow steps (cudnn autotuning, compilation), left out of time estimates


def train(config: TrainConfig) -> Path:
    """Train, or resume, the run in ``config.out``; return that directory.

    Raises:
        ValueError: an invalid configuration, invalid folders, a full disk, or too many steps with
            non-finite losses or gradients.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
    """
    if trainer := begin(config):
        trainer.run()
    return config.out


def begin(config: TrainConfig) -> "Trainer | None":
    """Return a trainer for the run in ``config.out``; None if that is finished.

    Raises:
        ValueError: an invalid configuration or invalid image folders.
    """
    is_main = join_processes(config.device).is_main_process
    check_run_dir(config)
    if saved_step(config.out) >= config.steps and _has_model(config.out):
        if is_main:
            print(f"{config.out}: already trained ({config.steps} steps)", file=sys.stderr)
        return None
    return Trainer(config)


def _has_model(run: Path) -> bool:
    """Return whether the model file of a finished run is intact; if not, training rewrites it."""
    try:
        load_state(run)
    except ValueError as error:
        warnings.warn(f"{error}; writing it again from the last checkpoint", stacklevel=3)
        return False
    return True


def check_run_dir(config: TrainConfig) -> None:
    """Refuse a run directory of another configuration; runtime settings and more steps are fine,
    and the same initial model elsewhere.
    """
    if not (config.out / "config.json").is_file():
        return
    old = load_config(config.out)
    changed = differences(replace(old, steps=max(old.steps, config.steps)), config)
    same = old.init == config.init or (
        old.init and config.init and started_from(config.out) == initial_model(config)
    )
    if not same:
        changed.append(f"init: {old.init} -> {config.init}")
    if changed:
        raise ValueError(
            f"{config.out} was made with another configuration; choose another --out, or the same "
            "settings to resume it. Differences:\n  " + "\n  ".join(changed)
        )


def collections(config: TrainConfig, notify: bool = True) -> tuple[Collection, Collection]:
    """Return the photos and paintings of a run; built-in samples in place of missing folders.

    Raises:
        ValueError: a folder is missing, unreadable or without images.
    """
    cache, given = cache_dir(), {"--photos": config.photos, "--paintings": config.paintings}
    missing = [option for option, folder in given.items() if folder is None]
    if missing and notify:
        print(f"{'/'.join(missing)} not given; using built-in samples", file=sys.stderr)
    samples = sample_collections(cache) if missing else (None, None)
    photos, paintings = (
        read_collection(folder, cache) if folder else sample
        for folder, sample in zip(given.values(), samples, strict=True)
    )
    assert photos is not None
    assert paintings is not None
    return photos, paintings


class Trainer:
    """A run: its data, networks and state."""

    def __init__(self, config: TrainConfig) -> None:
        check_layers(config)
        self.config = config
        self.accelerator = make_accelerator(config)
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        with self.accelerator.main_process_first():  # rank 0 fills the caches
            self.photos, self.paintings = collections(config, notify=self.is_main)
            check_images(
                config.out / "manifest.json",
                {"photos": self.photos, "paintings": self.paintings},
                "restore them to resume it, or choose another --out",
            )
            self.dataset = PairDataset(
                self._images("photos", self.photos), self._images("paintings", self.paintings),
                config.size, config.seed, config.full_strength_prob, config.crop_scale,
                config.paintings_as_photos,
            )  # fmt: skip
            encoder, self.pretrained = build_encoder(config, encoder_taps(config))
        encoder.to(self.device)
        codes = None
        if needs_style_codes(config):
            codes = style_codes(encoder, self.paintings.train, config)
        self.networks = build_networks(config, self.accelerator, encoder, codes)
        self.train_step = TrainStep(config, self.accelerator, self.networks)
        self.validation = Validation(
            config, self.photos.validation, self.paintings.validation, self.paintings.train
        )
        self.health = HealthMonitor(config, self.is_main)
        self.best = math.inf  # lowest validation/total so far
        self.tracker: Tracker | None = None  # on rank 0, while running

    def run(self) -> None:
        """Train from the last checkpoint to the last step.

        Raises:
            ValueError: another process trains in this directory; or see ``train``.
        """
        with ExitStack() as stack:  # released after an error or interruption, too
            if self.is_main:
                stack.enter_context(locked(self.config.out / ".lock"))
            start = self._resume()
            if self.is_main:
                self.tracker = stack.enter_context(Tracker(self.config.out, start))
            self._loop(start)
            self.accelerator.wait_for_everyone()

    def _loop(self, start: int) -> None:
        config = self.config
        progress = tqdm(
            desc=f"training {config.out.name}", initial=start, total=config.steps,
            disable=not self.is_main, dynamic_ncols=True,
        )  # fmt: skip
        with progress, closing(self._batches(start)) as batches, stop_signals() as stop:
            for step, batch in enumerate(batches, start):
                images = self.train_step.step(step, batch)
                done = step + 1
                if images and self.tracker and is_due(config.image_every, done, config):
                    title = "photo, painting, stylized, attention"
                    self.tracker.image(done, title, training_grid(*images))

                metrics: dict[str, float] = {}
                if is_due(config.log_every, done, config):
                    self._check_steps()
                    metrics |= self.train_step.metrics(done) | {"skipped": self.health.skipped}
                if is_due(config.validate_every, done, config):
                    metrics |= self.validation(
                        self.networks, self.train_step.losses, self.accelerator
                    )
                if metrics and self.tracker is not None:
                    self.tracker.scalars(done, metrics)
                    self.health.check_metrics(done, metrics)
                    losses = {name: metrics.get(f"loss/{name}") for name in TERMS}
                    shown = {name: f"{x:.3f}" for name, x in losses.items() if x is not None}
                    progress.set_postfix(shown, refresh=False)
                total = metrics.get("validation/total")
                if total is not None and total <= self.best:  # if equal, a later map is better
                    self._save_best(done, total)

                _advance(progress, done, timed=done > start + WARMUP)

                stopping = self._any_process(bool(stop), done)
                if stopping or is_due(config.save_every, done, config):
                    self._save(config.out, done, config.keep_checkpoints)
                if stopping and done < config.steps:
                    raise Interrupted(
                        f"stopped after step {done} of {config.steps}; "
                        "run the same command again to continue"
                    )

    def _batches(self, start: int) -> Generator[RawBatch, None, None]:
        """Yield this process's part of each batch, from step ``start`` on; closing ends workers."""
        a, config = self.accelerator, self.config
        positions = PositionSampler(
            start, config.steps, config.batch_size, a.process_index, a.num_processes
        )
        yield from make_loader(self.dataset, positions, config.workers)

    def _images(self, name: str, collection: Collection) -> ResizedImages:
        side = cached_side(self.config.size, self.config.crop_scale)
        if not self.config.cache_images:
            return ResizedImages(collection.train, side)
        return build_cache(collection.train, side, cache_dir(), name)

    def _any_process(self, stop: bool, done: int) -> bool:
        """Return whether any process received a stop signal: all must leave at the same step.

        The host waits for the answer, so on GPUs the processes ask at some steps only.
        """
        if self.accelerator.num_processes == 1:
            return stop
        if self.device.type == "cuda" and done % AGREE_EVERY:
            return False
        flag = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _resume(self) -> int:
        """Load the newest checkpoint, if there is one; return its step."""
        config, networks = self.config, self.networks
        if self.is_main:
            for folder in (config.out, config.out / "best"):
                remove_stale_parts(folder)
                remove_stale_parts(folder / "checkpoints")
            manifest = {"photos": self.photos.manifest(), "paintings": self.paintings.manifest()}
            write_description(config, manifest, self.pretrained, self.accelerator)
        with self.accelerator.main_process_first():  # rank 0 sets damaged checkpoints aside
            restored = load_checkpoint(config.out, networks.modules(), networks.optimizers())
        if restored is None:
            if config.init is not None:  # not loaded yet if all checkpoints were damaged
                load_initial_model(networks.plain_generator, config)
                networks.averaged.load_state_dict(networks.plain_generator.state_dict())
            return 0
        step, state = restored
        self.train_step.restore(state)
        self.health.restore(state)
        self.best = float(state["best"])
        if step >= config.steps:  # finished, but the model file is missing
            self._save(config.out, step, config.keep_checkpoints)
        return step

    def _save(self, run: Path, step: int, keep: int) -> None:
        """Write model and checkpoint into a run directory.

        The model comes first, so that a run whose last checkpoint exists has its final model.
        """
        self._check_steps()
        best = {"best": torch.tensor(self.best, dtype=torch.float64)}
        state = self.train_step.state() | self.health.state() | best
        if not self.is_main:
            return
        n = self.networks
        try:
            save_model(n.averaged.state_dict(), run)
            save_checkpoint(run, step, n.modules(), n.optimizers(), state, keep)
        except OSError as error:
            saved = saved_step(self.config.out)
            kept = f". The last complete checkpoint is that of step {saved}" if saved else ""
            raise ValueError(
                f"could not save step {step} in {run}: {error.strerror}{kept}; free some space "
                "and run the same command again"
            ) from None

    def _save_best(self, step: int, error: float) -> None:
        """Write the best model so far into a run directory of its own."""
        self.best, best = error, self.config.out / "best"
        if self.is_main:
            write_atomic(best / "config.json", to_json(replace(self.config, out=best)))
            for name in ("manifest.json", "run.json"):
                write_atomic(best / name, (self.config.out / name).read_bytes())
        self._save(best, step, keep=1)

    def _check_steps(self) -> None:
        """Count the steps that were skipped; see ``HealthMonitor``."""
        checks, self.train_step.checks = self.train_step.checks, []
        self.health.check_steps(checks, self._pair_name)

    def _pair_name(self, position: int) -> str:
        is_painting, photo, painting = self.dataset.indices(position)
        photos = self.paintings if is_painting else self.photos
        return f"{photos.train[photo]} + {self.paintings.train[painting]}"


def _advance(progress: tqdm, done: int, timed: bool) -> None:
    """Show the completed steps; steps that are not ``timed`` do not count in the time estimate."""
    if timed:
        progress.update()
    else:
        progress.reset()
        progress.n = progress.last_print_n = done
