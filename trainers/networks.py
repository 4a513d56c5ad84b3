"""Build the networks and optimizers that a configuration describes."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ..data.images import ImageError, read_image, square
from ..losses.attention import learns_error
from ..losses.style import half_size
from ..models.discriminator import PatchGAN
from ..models.encoder import Encoder
from ..models.generator import Generator
from ..models.style_code import style_code
from .checkpoint import saved_step
from .config import TrainConfig, content_layers, differences, encoder_taps
from .model_files import build_generator, load_config, load_state, model_folder, sizes
from .runtime import join_processes, pick_device, pick_precision

CALIBRATION_PAINTINGS = 64  # whose style codes standardize it and teach the attention branch
FIXED_BY_MODEL = ("generator.width", "encoder.name", "style.layers")  # that a run starts from


@dataclass(frozen=True)
class Networks:
    """Networks and optimizers; ``plain_*`` is the module that ``generator`` etc. may wrap (DDP)."""

    encoder: Encoder
    generator: nn.Module
    plain_generator: Generator
    averaged: Generator  # EMA of the generator, which is saved and evaluated
    optimizer_g: AcceleratedOptimizer
    discriminator: nn.Module | None
    plain_discriminator: PatchGAN | None
    optimizer_d: AcceleratedOptimizer | None
    codes: Tensor | None  # (N,D) style codes of training paintings, see ``needs_style_codes``

    def trained(self) -> list[nn.Module]:
        """Return the modules whose gradients are synchronized over processes."""
        return [self.generator] + ([self.discriminator] if self.discriminator else [])

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules of a checkpoint by name."""
        modules = {
            "generator": self.plain_generator,
            "averaged": self.averaged,
            "discriminator": self.plain_discriminator,
        }
        return {name: module for name, module in modules.items() if module is not None}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the unwrapped optimizers of a checkpoint by name."""
        wrapped = {"optimizer_g": self.optimizer_g, "optimizer_d": self.optimizer_d}
        return {name: w.optimizer for name, w in wrapped.items() if w is not None}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return an Accelerator for the config's device and precision.

    Raises:
        ValueError: no such device, an option that it lacks, or a batch that cannot be shared
            equally.
    """
    device = pick_device(config.device)
    if config.compile and device.type == "mps":
        raise ValueError("--compile is not supported on MPS")
    precision = pick_precision(config.precision, device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    join_processes(config.device)
    # Accelerate keeps its state per process and refuses a second run of another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
    )
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} is not divisible by {accelerator.num_processes} "
            f"process(es) x {config.accumulate} micro-batch(es)"
        )
    if config.attention.objective == "shuffled" and config.batch_size == parts:
        raise ValueError(
            "attention.objective shuffled needs at least two images per process and micro-batch: "
            "raise batch_size or lower accumulate"
        )
    return accelerator


def build_networks(
    config: TrainConfig, accelerator: Accelerator, encoder: Encoder, codes: Tensor | None
) -> Networks:
    """Build, initialize and prepare all networks.

    Args:
        config: of the run.
        accelerator: prepares networks and optimizers.
        encoder: with its weights loaded.
        codes: style codes (N,D) of training paintings; None if not ``needs_style_codes``.

    Raises:
        ValueError: crops too small for the discriminator, or an initial model that does not fit.
    """
    torch.manual_seed(config.seed)  # for the initial weights only
    device, o = accelerator.device, config.optimizer
    encoder.to(device).to(memory_format=torch.channels_last)
    if accelerator.mixed_precision == "bf16":
        encoder.in_bfloat16()

    generator = build_generator(config).to(device)  # sets its memory format in each pass
    if config.init is None:
        assert codes is not None
        generator.fit_standardization(codes)
    elif not saved_step(config.out):  # a checkpoint has all of it
        load_initial_model(generator, config)
    discriminator = _build_discriminator(config)
    if config.compile:
        _compile(generator, discriminator)

    averaged = copy.deepcopy(generator).requires_grad_(False)
    wrapped_g, optimizer_g = accelerator.prepare(generator, _adam(generator, o.lr, o.betas, device))
    wrapped_d = optimizer_d = None
    if discriminator is not None:
        discriminator.to(device).to(memory_format=torch.channels_last)
        adam = _adam(discriminator, o.lr_discriminator, o.betas_discriminator, device)
        wrapped_d, optimizer_d = accelerator.prepare(discriminator, adam)
    return Networks(
        encoder, wrapped_g, generator, averaged, optimizer_g,
        wrapped_d, discriminator, optimizer_d, codes,
    )  # fmt: skip


def _adam(module: nn.Module, rate: float, betas: tuple[float, float], device: torch.device) -> Adam:
    """Build fused Adam; on a GPU with its rate there, as a captured step needs."""
    on_gpu = device.type == "cuda"
    lr = torch.tensor(rate, device=device) if on_gpu else rate
    return Adam(module.parameters(), lr, betas=betas, fused=True, capturable=on_gpu)


def _build_discriminator(config: TrainConfig) -> PatchGAN | None:
    if config.balance.adversarial == 0:
        return None
    a = config.adversarial
    style_size = sizes(config)[0] if a.projection else None
    discriminator = PatchGAN(a.width, a.layers, a.spectral_norm, style_size)
    if config.size < discriminator.min_side:
        raise ValueError(
            f"size {config.size} is too small for the discriminator, which needs "
            f"{discriminator.min_side} pixels; raise --size or lower --adversarial.layers"
        )
    return discriminator


def _compile(*modules: nn.Module | None) -> None:
    """Compile in place, which keeps the names of the weights; not the encoder, whose many passes
    (sizes, taps, with and without gradient) would each be compiled, and which has little to fuse.
    """
    from torch._functorch import config  # takes seconds to import

    # The balance backpropagates through the generator's graph twice: its buffers must stay intact.
    config.donated_buffer = False
    for module in modules:
        if module is not None:
            module.compile(dynamic=False)


def load_initial_model(generator: Generator, config: TrainConfig) -> None:
    """Load the generator in ``config.init``; only parameters of attention branches may be missing
    or extra.

    Raises:
        ValueError: the model has another architecture, or style codes of other features.
    """
    assert config.init is not None
    run, folder = config.init, model_folder(config.init)
    changed = differences(load_config(folder), config)
    if fixed := [line for line in changed if line.startswith(FIXED_BY_MODEL)]:
        raise ValueError(
            f"the model in {run} and this configuration differ in {'; '.join(fixed)}; use the "
            "model's settings"
        )
    result = generator.load_state_dict(load_state(folder), strict=False)
    names = [k for k in (*result.missing_keys, *result.unexpected_keys) if "attention" not in k]
    if names:
        raise ValueError(f"the model in {run} does not fit this configuration: {names[0]}")


@torch.no_grad()
def check_layers(config: TrainConfig) -> None:
    """Check that the encoder's layers have values at the sizes at which losses compare them.

    Raises:
        ValueError: a layer is too deep for the size of the crops.
    """
    with torch.device("meta"):  # shapes without memory
        encoder = Encoder(config.encoder.name, encoder_taps(config))
        image = torch.empty(1, 3, config.size, config.size)
    # A variance needs two positions.
    least = 2 if config.content.normalization in ("instance", "batch") else 1
    uses = [("content", image, content_layers(config), least)]
    for x in (image, *half_size(image, config.style.kind)):
        uses.append(("style", x, list(config.style.layers), 1))
    for part, x, layers, needed in uses:
        try:
            positions = [features[0, 0].numel() for features in encoder(x, layers).values()]
        except RuntimeError:  # pooled to nothing
            positions = [0]
        if min(positions, default=needed) < needed:
            raise ValueError(
                f"size {config.size} is too small for {part}.layers {', '.join(layers)}: raise "
                "--size or leave out the deepest"
            )


def needs_style_codes(config: TrainConfig) -> bool:
    """Return whether a run uses style codes of training paintings: to fit the standardization of
    the style code, unless it starts from a model, or to teach the attention branch.
    """
    return config.init is None or learns_error(config.attention.objective)


@torch.no_grad()
def style_codes(encoder: Encoder, paintings: Sequence[Path], config: TrainConfig) -> Tensor:
    """Return style codes (N,D) of the first paintings, center crops at the training size.

    Raises:
        ValueError: none of the paintings can be read.
    """
    images = readable_squares(paintings, config.size, CALIBRATION_PAINTINGS)
    if not images:
        raise ValueError(f"none of the {len(paintings)} training paintings can be read")
    batches = [image[None].to(encoder.mean.device) for image in images]
    codes = [style_code(image, encoder(image, config.style.layers)) for image in batches]
    return torch.cat(codes)


def readable_squares(paths: Sequence[Path], size: int, most: int) -> list[Tensor]:
    """Read the first images as center squares (3,size,size); warn about unreadable ones."""
    squares: list[Tensor] = []
    for path in paths:
        if len(squares) == most:
            break
        try:
            squares.append(square(read_image(path, at_least=size), size).contiguous())
        except ImageError as error:
            warnings.warn(f"{error}; using the next image instead", stacklevel=2)
    return squares
