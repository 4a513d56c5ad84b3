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

from ..data.files import write_atomic
from ..data.folders import Collection, read_collection
from ..data.prepared import Decoded, Prepared, prepare, prepared_side
from ..data.samples import sample_collections
from ..data.stream import Pair, PairStream, Positions, make_loader, unpack
from ..losses.attention import collapse_warning
from ..models.pretrained import cache_dir
from .balance import TERMS
from .checkpoint import load_checkpoint, save_checkpoint, saved_step
from .config import TrainConfig, differences, to_json
from .learner import Learner
from .model_files import build_encoder, load_config, save_model
from .networks import build_networks, encoder_taps, make_accelerator, style_codes
from .pictures import training_grid
from .signals import Interrupted, stop_signals
from .steps import Scene
from .tracking import Tracker, provenance

AGREE_EVERY = 10  # steps


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
        with self.accelerator.main_process_first():  # the first one fills the caches
            self.photos, self.paintings = collections(config, self.main)
            self.dataset = PairStream(
                self._pictures("photos", self.photos), self._pictures("paintings", self.paintings),
                config.size, config.seed, config.full_strength, config.crop_scale,
            )  # fmt: skip
            encoder, self.pretrained = build_encoder(config, encoder_taps(config))
        encoder.to(self.device)
        codes = None if config.init else style_codes(encoder, self.paintings.train, config)
        self.networks = build_networks(config, self.accelerator, encoder, codes)
        self.learner = Learner(config, self.accelerator, self.networks)
        self.warned = False

    def _pictures(self, name: str, collection: Collection) -> Prepared | Decoded:
        side = prepared_side(self.config.size, self.config.crop_scale)
        if not self.config.prepare:
            return Decoded(collection.train, side)
        return prepare(collection.train, side, cache_dir(), name)

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
            self.learner.balance.norms = restored[1]["balance"].to(self.device)
        self.accelerator.wait_for_everyone()
        self.tracker = Tracker(config.out, start) if self.main else None
        if start == 0 and config.balance.kind == "gradient":
            self.learner.first_measurement(self._batches(0))
        batches = self._batches(start)
        bar = tqdm(
            range(start, config.steps), f"training {config.out.name}", initial=start,
            total=config.steps, disable=not self.main, dynamic_ncols=True,
        )  # fmt: skip
        with stop_signals() as stop:
            for step in bar:
                scene = self.learner.step(step, batches)
                done = step + 1
                if self.learner.is_logged(done):
                    bar.set_postfix(self._log(done), refresh=False)
                if done % config.image_every == 0 and self.tracker is not None:
                    self.tracker.image(done, "photo, painting, stylized, attention", _grid(scene))
                stopping = self._agreed(bool(stop), done)
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
            yield unpack(batch, self.device)

    # -- keeping -----------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        if self.main:
            # First, so that a run whose checkpoint says "finished" has its final model; and each
            # time, so that a run can be looked at while it trains.
            save_model(self.networks.averaged.state_dict(), self.config.out)
            save_checkpoint(
                self.config.out, step, self.networks.modules(), self.networks.optimizers(),
                {"balance": self.learner.balance.norms},
            )  # fmt: skip

    def _write_description(self) -> None:
        config = self.config
        write_atomic(config.out / "config.json", to_json(config))
        manifest = {"photos": self.photos.manifest(), "paintings": self.paintings.manifest()}
        write_atomic(config.out / "manifest.json", json.dumps(manifest, indent=1))
        p = self.pretrained
        origin = {"name": p.name, "source": p.source, "sha256": p.sha256}
        about = provenance(
            encoder=origin, device=str(self.device), processes=self.accelerator.num_processes,
            data={name: part["sha256"] for name, part in manifest.items()},
        )  # fmt: skip
        write_atomic(config.out / "run.json", json.dumps(about, indent=1))

    def _agreed(self, stop: bool, done: int) -> bool:
        """Whether any process was asked to stop; all must leave at the same step.

        Several processes ask each other at some steps only: the host waits for the answer.
        """
        if self.accelerator.num_processes == 1:
            return stop
        if done % AGREE_EVERY:
            return False
        flag = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    # -- logging -----------------------------------------------------------------------------

    def _log(self, step: int) -> dict[str, str]:
        """Write the figures down; returns what the bar shows."""
        numbers = self.learner.figures(step)
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


def _grid(scene: Scene) -> Tensor:
    batch, output = scene.batch, scene.output
    return training_grid(
        batch["content"], batch["style"], output.image.detach(), output.attention.detach()
    )
