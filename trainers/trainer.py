"""The trainer: one loop over steps, on one process or many (Accelerate)."""

import copy
import json
import math
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.folders import Collection, read_collection
from ..data.images import read_image, square, write_atomic
from ..data.samples import sample_collections
from ..data.stream import Pair, PairStream, Positions, make_loader
from ..losses.attention import collapse_warning
from ..models.discriminator import PatchGAN
from ..models.generator import code_size
from ..models.pretrained import cache_dir
from ..models.style_code import style_code
from .balance import TERMS, Balance
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig, differences, to_json
from .model_files import build_encoder, build_generator, load_config, load_state, save_model
from .pictures import training_grid
from .steps import Objectives, Scene, Terms, discriminator_loss, generator_terms, perceive
from .tracking import Tracker, provenance

CALIBRATION_PAINTINGS = 64  # whose codes set the scale of the style code


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


def collections(config: TrainConfig, notify: bool = True) -> tuple[Collection, Collection]:
    """Photos and paintings of a run: the folders named, the built-in samples for those not."""
    samples = (None, None)
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
    if (config.out / "model.safetensors").is_file() and load_config(config.out).steps >= config.steps:
        print(f"{config.out} is finished", file=sys.stderr)
        return config.out
    Trainer(config).run()
    return config.out


def check_run_folder(config: TrainConfig) -> None:
    """Refuse a run folder that was made with another configuration, except for more steps."""
    if not (config.out / "config.json").is_file():
        return
    old = load_config(config.out)
    steps = max(old.steps, config.steps) if config.steps >= old.steps else old.steps
    changed = differences(replace(old, out=config.out, steps=steps), replace(config, steps=config.steps))
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
        world = self.accelerator.num_processes
        if config.batch_size % (world * config.accumulate):
            raise ValueError(
                f"batch_size {config.batch_size} does not divide by {world} process(es) x "
                f"{config.accumulate} micro-batch(es)"
            )
        torch.manual_seed(config.seed)  # initial weights; all else is drawn per position
        self.device = self.accelerator.device
        with self.accelerator.main_process_first():  # the first one fills the sample cache
            self.photos, self.paintings = collections(config, self.accelerator.is_main_process)
        self.dataset = PairStream(
            self.photos.train, self.paintings.train, config.size, config.seed,
            config.full_strength, config.crop_scale,
        )  # fmt: skip
        self._build_networks()
        self.balance = Balance(config.balance, self.device)

    def _build_networks(self) -> None:
        config = self.config
        content_layers = [layer for layer, _ in config.content.layers]
        taps = list(config.style.layers)
        taps += content_layers if config.content.kind == "feature" else []
        with self.accelerator.main_process_first():
            encoder, self.pretrained = build_encoder(config, taps)
        self.encoder = encoder.to(self.device, memory_format=torch.channels_last)
        channels = encoder.channels()
        style_channels = {layer: channels[layer] for layer in config.style.layers}
        content_channels = {layer: channels[layer] for layer in content_layers if layer in channels}
        generator = build_generator(config, code_size(style_channels), content_channels)
        generator.to(self.device, memory_format=torch.channels_last)
        if config.init is None:
            generator.standardise_codes(self._painting_codes())
        else:
            _start_from(generator, config.init)
        self.objectives = Objectives(config)
        o = config.optimizer
        optimizer_g = torch.optim.Adam(generator.parameters(), o.lr, betas=(0.9, 0.99))
        self.averaged = copy.deepcopy(generator)
        self.generator, self.optimizer_g = self.accelerator.prepare(generator, optimizer_g)
        self.discriminator: nn.Module | None = None
        if config.balance.adversarial > 0:
            a = config.adversarial
            discriminator = PatchGAN(
                a.width, a.layers, a.scales, a.spectral,
                code_size(style_channels) if a.projection else None,
            ).to(self.device, memory_format=torch.channels_last)  # fmt: skip
            if config.size < discriminator.min_side:
                raise ValueError(
                    f"size {config.size} is too small for the discriminator, which needs "
                    f"{discriminator.min_side} pixels; lower adversarial.scales or adversarial.layers"
                )
            optimizer_d = torch.optim.Adam(discriminator.parameters(), o.lr_discriminator, betas=(0.5, 0.99))
            self.discriminator, self.optimizer_d = self.accelerator.prepare(discriminator, optimizer_d)
        self.plain_generator = self.accelerator.unwrap_model(self.generator)
        self.plain_discriminator = (
            self.accelerator.unwrap_model(self.discriminator) if self.discriminator else None
        )

    @torch.no_grad()
    def _painting_codes(self) -> Tensor:
        codes = []
        for path in self.paintings.train[:CALIBRATION_PAINTINGS]:
            image = square(read_image(path, at_least=self.config.size), self.config.size)
            image = image[None].to(self.device, memory_format=torch.channels_last)
            codes.append(style_code(image, self.encoder(image, self.config.style.layers)))
        return torch.cat(codes)

    # -- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the last checkpoint to the last step, then save the averaged generator."""
        config, main = self.config, self.accelerator.is_main_process
        if main:
            config.out.mkdir(parents=True, exist_ok=True)
            self._write_description()
        restored = load_checkpoint(config.out, self._modules(), self._optimizers())
        start = restored[0] if restored else 0
        if restored:
            self.balance.norms = restored[1]["balance"].to(self.device)
        self.accelerator.wait_for_everyone()
        self.tracker = Tracker(config.out, start) if main else None
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.warned = False
        batches = self._batches(start)
        bar = tqdm(
            range(start, config.steps), f"training {config.out.name}", initial=start,
            total=config.steps, disable=not main, dynamic_ncols=True,
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
        if main:
            save_model(self.averaged.state_dict(), config.out)
            assert self.tracker is not None
            self.tracker.close()
        self.accelerator.wait_for_everyone()

    def _batches(self, start: int) -> Iterator[Pair]:
        config, accelerator = self.config, self.accelerator
        positions = Positions(
            start, config.steps, config.batch_size, accelerator.process_index, accelerator.num_processes
        )
        micro = config.batch_size // accelerator.num_processes // config.accumulate
        for batch in make_loader(self.dataset, positions, micro, config.workers):
            yield {
                key: value.to(
                    self.device, non_blocking=True,
                    memory_format=torch.channels_last if value.dim() == 4 else torch.preserve_format,
                )
                for key, value in batch.items()
            }  # type: ignore[misc]  # fmt: skip

    def _step(self, step: int, batches: Iterator[Pair]) -> None:
        """One optimizer step of D and of G, over all micro-batches."""
        config, progress = self.config, step / self.config.steps
        set_learning_rates(self._optimizers(), learning_rate_factor(step, config))
        measuring = step % config.balance.every == 0
        if step == 0 and config.balance.kind == "gradient":
            self._first_measurement()
        weights = self.balance.weights(progress)
        for _ in range(config.accumulate):
            batch = next(batches)
            wrapped = [self.generator] + ([self.discriminator] if self.discriminator else [])
            with self.accelerator.accumulate(*wrapped):
                scene = self._perceive(batch)
                if self.discriminator is not None:
                    self._discriminator_step(scene)
                terms = self._generator_step(scene, weights, measuring)
            self._record(terms, scene)
        if measuring:
            self.balance.update(self.accelerator, config.accumulate)
        average_into(self.averaged, self.plain_generator, step, config.optimizer.ema)
        if (step + 1) % config.image_every == 0 and self.tracker is not None:
            self.tracker.image(step + 1, "photo, painting, stylized, attention", _grid(scene))

    def _perceive(self, batch: Pair) -> Scene:
        with self.accelerator.autocast():
            return perceive(self.generator, self.plain_generator, self.encoder, batch, self.config)

    def _terms(self, scene: Scene) -> Terms:
        with self.accelerator.autocast():
            return generator_terms(
                self.plain_discriminator, self.encoder, self.objectives, scene, self.config
            )

    def _discriminator_step(self, scene: Scene) -> None:
        assert self.discriminator is not None
        with self.accelerator.autocast():
            loss = discriminator_loss(self.discriminator, scene, self.config).mean()
        self.accelerator.backward(loss)
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()
        self._add("discriminator", loss)

    def _generator_step(self, scene: Scene, weights: dict[str, Tensor], measuring: bool) -> Terms:
        terms = self._terms(scene)
        if measuring:
            self.balance.measure(terms.balanced, scene.output.image)
        loss = torch.stack([weights[name] * term.mean() for name, term in terms.balanced.items()]).sum()
        for term in terms.extra.values():
            loss = loss + term.mean()
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.generator.parameters(), self.config.optimizer.clip)
        self.optimizer_g.step()
        self.optimizer_g.zero_grad()
        return terms

    def _first_measurement(self) -> None:
        """Before step 0 no gradient norm is known: measure on its own batch, without a step."""
        batches = self._batches(0)
        for _ in range(self.config.accumulate):
            scene = self._perceive(next(batches))
            self.balance.measure(self._terms(scene).balanced, scene.output.image)
        self.balance.update(self.accelerator, self.config.accumulate)

    # -- keeping -----------------------------------------------------------------------------

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"generator": self.plain_generator, "averaged": self.averaged}
        return modules | ({"discriminator": self.plain_discriminator} if self.plain_discriminator else {})

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers = {"optimizer_g": self.optimizer_g.optimizer}
        return optimizers | ({"optimizer_d": self.optimizer_d.optimizer} if self.discriminator else {})

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.config.out, step, self._modules(), self._optimizers(), {"balance": self.balance.norms}
            )

    def _write_description(self) -> None:
        config = self.config
        write_atomic(config.out / "config.json", to_json(config))
        manifest = {"photos": self.photos.manifest(), "paintings": self.paintings.manifest()}
        write_atomic(config.out / "manifest.json", json.dumps(manifest, indent=1))
        origin = {"name": self.pretrained.name, "source": self.pretrained.source, "sha256": self.pretrained.sha256}
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

    def _record(self, terms: Terms, scene: Scene) -> None:
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
        return {name: f"{numbers[f'loss/{name}']:.3f}" for name in TERMS if f"loss/{name}" in numbers}

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


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator for the config's device and precision."""
    cuda = torch.cuda.is_available() and config.device != "cpu"
    if config.device == "cuda" and not cuda:
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device auto or cpu")
    # fp16 is not offered: with two optimizers and clipping its loss scaling goes wrong.
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    return Accelerator(
        cpu=not cuda,
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=config.accumulate,
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from 1 to 0.1."""
    warmup = min(1.0, (step + 1) / max(1, config.optimizer.warmup))
    return warmup * (0.55 + 0.45 * math.cos(math.pi * step / config.steps))


def set_learning_rates(optimizers: dict[str, torch.optim.Optimizer], factor: float) -> None:
    """Set each optimizer's rate to its initial one times ``factor``."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["initial_lr"] = group.get("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGINT or SIGTERM arrives; a second one kills as usual."""
    received: list[int] = []
    previous = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@torch.no_grad()
def average_into(averaged: nn.Module, current: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the parameters, in place.

    The decay ramps up, so that a short run is not an average of its own start.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(current.parameters()), 1 - d)


def _start_from(generator: nn.Module, run: Path) -> None:
    """Take over another run's finished generator; only attention branches may be new."""
    try:
        result = generator.load_state_dict(load_state(run), strict=False)
    except RuntimeError:
        raise ValueError(f"the model in {run} has another shape than this configuration's") from None
    foreign = [key for key in result.missing_keys if "attention" not in key]
    if foreign:
        raise ValueError(f"the model in {run} lacks {foreign[0]} of this configuration's generator")


def _grid(scene: Scene) -> Tensor:
    batch, output = scene.batch, scene.output
    return training_grid(batch["content"], batch["style"], output.image.detach(), output.attention.detach())
