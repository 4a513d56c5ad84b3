"""Everything trainable, and the encoder, as a config describes them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.images import read_image, square
from ..models.discriminator import PatchGAN
from ..models.encoder import Encoder
from ..models.generator import Generator
from ..models.style_code import style_code
from .config import TrainConfig
from .model_files import build_generator, load_state, model_folder, sizes
from .runtime import pick_device, pick_precision

CALIBRATION_PAINTINGS = 64  # whose codes set the scale of the style code


@dataclass(frozen=True)
class Networks:
    """The networks of a run. ``generator`` and ``discriminator`` may be wrapped for several
    processes; the plain ones are the same modules, unwrapped.
    """

    encoder: Encoder
    generator: nn.Module
    plain_generator: Generator
    averaged: Generator  # EMA of the generator: what is saved and evaluated
    optimizer_g: AcceleratedOptimizer
    discriminator: nn.Module | None
    plain_discriminator: PatchGAN | None
    optimizer_d: AcceleratedOptimizer | None

    def trained(self) -> list[nn.Module]:
        """The modules whose gradients are synchronized."""
        return [self.generator] + ([self.discriminator] if self.discriminator else [])

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        modules: dict[str, nn.Module] = {
            "generator": self.plain_generator,
            "averaged": self.averaged,
        }
        return modules | (
            {"discriminator": self.plain_discriminator} if self.plain_discriminator else {}
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """The plain optimizers, by the names a checkpoint uses."""
        both = {"optimizer_g": self.optimizer_g, "optimizer_d": self.optimizer_d}
        return {name: wrapped.optimizer for name, wrapped in both.items() if wrapped is not None}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator for the config's device and precision.

    Raises:
        ValueError: cuda asked for, none here; or a batch that does not divide.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    torch.backends.cudnn.benchmark = True  # every crop has one size
    # Accelerate shares its state within a process and refuses a second run of another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
    )
    world = accelerator.num_processes
    if config.batch_size % (world * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} does not divide by {world} process(es) x "
            f"{config.accumulate} micro-batch(es)"
        )
    return accelerator


def build_networks(
    config: TrainConfig, accelerator: Accelerator, encoder: Encoder, codes: Tensor | None
) -> Networks:
    """Build, initialize and prepare all networks.

    ``codes`` (N,D) are the training paintings', which set the scale of the style code; a run that
    starts from another model takes that one's.

    Raises:
        ValueError: a size the discriminator cannot judge, or a model to start from that does not
            fit.
    """
    torch.manual_seed(config.seed)  # initial weights; all else is drawn per position
    device = accelerator.device
    encoder.to(device).to(memory_format=torch.channels_last)
    if accelerator.mixed_precision == "bf16":
        encoder.in_bfloat16()

    generator = build_generator(config)
    generator.to(device)  # it chooses its layout itself
    if config.init is not None:
        _start_from(generator, config.init)
    elif codes is not None:
        generator.fit_standardization(codes)
    discriminator = _build_discriminator(config)
    if config.compile:
        _compile(encoder, generator, discriminator)

    o, averaged = config.optimizer, copy.deepcopy(generator).requires_grad_(False)
    wrapped_g, optimizer_g = accelerator.prepare(
        generator, torch.optim.Adam(generator.parameters(), o.lr, betas=o.betas, fused=True)
    )
    wrapped_d = optimizer_d = None
    if discriminator is not None:
        discriminator.to(device).to(memory_format=torch.channels_last)
        wrapped_d, optimizer_d = accelerator.prepare(
            discriminator,
            torch.optim.Adam(
                discriminator.parameters(),
                o.lr_discriminator,
                betas=o.betas_discriminator,
                fused=True,
            ),
        )
    return Networks(
        encoder, wrapped_g, generator, averaged, optimizer_g,
        wrapped_d, discriminator, optimizer_d,
    )  # fmt: skip


def _build_discriminator(config: TrainConfig) -> PatchGAN | None:
    if config.balance.adversarial <= 0:
        return None
    a = config.adversarial
    discriminator = PatchGAN(
        a.width, a.layers, a.spectral_norm, sizes(config)[0] if a.projection else None
    )
    if config.size < discriminator.min_side:
        raise ValueError(
            f"size {config.size} is too small for the discriminator, which needs "
            f"{discriminator.min_side} pixels; lower adversarial.layers"
        )
    return discriminator


def _compile(*modules: nn.Module | None) -> None:
    """Compile in place, which keeps the names of the weights."""
    from torch._functorch import config  # seconds to import, and few need it

    # The gradient norms of the balance run a backward twice, so nothing may be reused in between.
    config.donated_buffer = False
    for module in modules:
        if module is not None:
            module.compile()


@torch.no_grad()
def style_codes(encoder: Encoder, paintings: Sequence[Path], config: TrainConfig) -> Tensor:
    """Style codes (N,D) of the first paintings, center crops at the training size.

    Raises:
        ValueError: a painting cannot be read.
    """
    codes = []
    for path in paintings[:CALIBRATION_PAINTINGS]:
        image = square(read_image(path, at_least=config.size), config.size)[None]
        image = image.to(encoder.mean.device)
        codes.append(style_code(image, encoder(image, config.style.layers)))
    return torch.cat(codes)


def _start_from(generator: Generator, run: Path) -> None:
    """Take over another run's finished generator; only the attention branches may differ."""
    state = load_state(model_folder(run))
    try:
        result = generator.load_state_dict(state, strict=False)
    except RuntimeError:
        raise ValueError(
            f"the model in {run} has another shape than this configuration's"
        ) from None
    foreign = [k for k in (*result.missing_keys, *result.unexpected_keys) if "attention" not in k]
    if foreign:
        raise ValueError(f"the model in {run} does not fit this configuration: {foreign[0]}")
