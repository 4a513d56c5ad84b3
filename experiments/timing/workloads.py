"""Workloads of ``underdrawing benchmark``: training step, stylization and data loading.

Training is also timed in the reference implementation, and loading without the image cache. All
networks have random weights, which does not change the time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ...data.dataset import PairDataset, PositionSampler, RawBatch, make_loader, unpack
from ...data.image_cache import ResizedImages, build_cache, cached_side
from ...models.encoder import Encoder
from ...trainers.config import TrainConfig, encoder_taps
from ...trainers.model_files import build_generator, sizes
from ...trainers.networks import Networks, build_networks, make_accelerator
from ...trainers.runtime import keep_freed_memory, pick_device, pick_precision
from ...trainers.train_step import TrainStep
from .reference import ReferenceTrainer
from .timer import Effort, Timing, Work, count_effort, expensive_operations, time_calls

OURS, REFERENCE = "ours", "reference"
IMAGES = 1000  # JPEG files of the data part
BATCHES = 20  # loaded per timed call, since a single one may be ready already


@dataclass(frozen=True)
class Case:
    """One configuration to time."""

    part: Literal["train", "stylize", "data"]
    size: int
    batch: int
    config: TrainConfig  # device, precision, networks, workers


class Measurement(NamedTuple):
    """Timing per batch, and the effort in it (0 in the data part and of the reference)."""

    timing: Timing
    effort: Effort
    dtype: str


def measure(case: Case, implementation: str) -> Measurement:
    """Time a case in our implementation or the reference (train: plain code; data: no cache)."""
    ours = implementation == OURS
    if ours:
        keep_freed_memory()
    if case.part == "data":
        return Measurement(_measure_loading(case, cached=ours), Effort(), "uint8")
    device = pick_device(case.config.device)
    bf16 = case.part == "train" and pick_precision(case.config.precision, device) == "bf16"
    timing = time_calls(prepare(case) if ours else _train_reference(case), device)
    effort = count_effort(prepare(_eager(case))) if ours else Effort()
    return Measurement(timing, effort, "bfloat16" if ours and bf16 else "float32")


def prepare(case: Case) -> Work:
    """Return the work of a case of the parts train and stylize."""
    return _stylize(case) if case.part == "stylize" else _train(case)


def profile_case(case: Case) -> list[list[str]]:
    """Return the most expensive operations of a case, see ``expensive_operations``."""
    keep_freed_memory()
    return expensive_operations(prepare(_eager(case)), pick_device(case.config.device))


def _eager(case: Case) -> Case:
    """Call each operation by itself, so that it can be counted."""
    return replace(case, config=replace(case.config, compile=False, cuda_graphs=False))


# --- train: one step of G and D, on a batch that the loader has delivered ----------------------


def _train(case: Case) -> Work:
    accelerator = make_accelerator(case.config)
    train_step = TrainStep(case.config, accelerator, _networks(case.config, accelerator))
    raw, step = _raw_batch(case), count(1)

    def work() -> None:
        train_step.step(next(step), raw)
        train_step.checks.clear()

    return work


def _train_reference(case: Case) -> Work:
    config = replace(case.config, precision="fp32", compile=False)
    accelerator = make_accelerator(config)
    n, raw = _networks(config, accelerator), _raw_batch(case)
    assert n.plain_discriminator is not None
    assert n.codes is not None
    modules = n.encoder, n.plain_generator, n.averaged, n.plain_discriminator
    for module in modules:
        module.to(memory_format=torch.contiguous_format)
    trainer = ReferenceTrainer(config, *modules, n.codes)

    def work() -> None:
        batch = unpack(raw, accelerator.device)
        batch["content"] = batch["content"].contiguous()
        batch["style"] = batch["style"].contiguous()
        trainer.step(batch)

    return work


def _networks(config: TrainConfig, accelerator: Accelerator) -> Networks:
    encoder = Encoder(config.encoder.name, encoder_taps(config))
    codes = torch.randn(8, sizes(config)[0], device=accelerator.device)
    return build_networks(config, accelerator, encoder, codes)


def _raw_batch(case: Case) -> RawBatch:
    content, style = torch.randint(0, 256, (2, case.batch, 3, case.size, case.size))
    return {
        "content": content.byte(),
        "style": style.byte(),
        "strength": torch.rand(case.batch, 1, 4, 4),
        "full": torch.ones(case.batch),
        "uniform": torch.rand(case.batch, 8),
        "position": torch.arange(case.batch),
    }


# --- stylize: photos to outputs on the device, given the style code ----------------------------


def _stylize(case: Case) -> Work:
    device = pick_device(case.config.device)
    generator = build_generator(case.config).to(device).eval()
    code = torch.rand(case.batch, sizes(case.config)[0], device=device)
    photo = torch.rand(case.batch, 3, case.size, case.size, device=device)
    return torch.inference_mode()(lambda: generator(photo, code, attend=False))


# --- data: batches from a folder of JPEG files, with and without the image cache ----------------


def _measure_loading(case: Case, cached: bool) -> Timing:
    c, side = case.config, cached_side(case.size, case.config.crop_scale)
    with TemporaryDirectory() as scratch:
        paths = write_images(Path(scratch) / "images", IMAGES)
        images = build_cache(paths, side, Path(scratch), "images") if cached else None
        images = images or ResizedImages(paths, side)
        dataset = PairDataset(images, images, case.size, 0, c.full_strength_prob, c.crop_scale)
        loader = make_loader(dataset, PositionSampler(0, 2**40, case.batch), c.workers)
        # The workers read ahead: they end with this call, before the files are deleted.
        time, spread, peak = time_calls(_next_batches(loader), torch.device("cpu"))
    return Timing(time / BATCHES, spread / BATCHES, peak)


def _next_batches(loader: Iterable[RawBatch]) -> Work:
    batches = iter(loader)
    return lambda: [next(batches) for _ in range(BATCHES)]


def write_images(folder: Path, number: int) -> list[Path]:
    """Write JPEG files of 341x256 pixels, smooth with some grain, as large as photos."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{index:05}.jpg" for index in range(number)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((341, 256), Image.Resampling.BICUBIC), np.float32)
        noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
    return paths
