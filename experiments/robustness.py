"""``underdrawing robustness``: content losses under changes of light, noise and compression.

问答酱 (2025) claims that high-level features are robust to changes of light and to noise. Here each
content loss between a photo and a perturbed copy of it is divided by the mean of that loss between
different photos: 0 means same content, 1 means another photo. A robust loss stays low.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from kornia.enhance import adjust_brightness, adjust_contrast_with_mean_subtraction
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from tqdm.auto import tqdm

from ..data.files import write_atomic
from ..data.folders import read_collection
from ..data.record import check_images
from ..losses.content import ContentLoss, pixel_loss
from ..models.encoder import Encoder
from ..models.generator import Generator
from ..models.pretrained import cache_dir
from ..trainers.config import ContentConfig
from ..trainers.model_files import PRETRAINED, build_encoder, load_model, model_folder
from ..trainers.runtime import Device, pick_device
from ..trainers.tracking import provenance
from ..trainers.trainer import collections
from .analysis.intervals import Array, resampled_means
from .analysis.tables import markdown
from .main import parse_options
from .paths import check_folder, results_folder
from .scoring.protocol import batches, read_squares, resolution

BATCH = 4  # photos


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RobustnessConfig:
    """Measure content losses under changes of brightness, contrast, noise and JPEG compression."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of a trained model, or `pretrained` for the shipped model."""
    photos: Path | None = None
    """Folder of photos, used as a whole; default: held-out photos of the run."""
    images: Annotated[int, Field(ge=2)] = 64
    """Maximum number of photos, at least 2."""
    size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Side of the photos in pixels; default: training size of the run."""
    out: Path | None = None
    """Folder for robustness.md and .json; default: RUN/robustness, else runs/robustness."""
    device: Device = "auto"
    """Device to compute on."""


def add_noise(images: Tensor, std: float) -> Tensor:
    """Add Gaussian noise to images (B,3,H,W) and clamp to [0,1]."""
    return (images + std * torch.randn(images.shape).to(images)).clamp(0, 1)


def compress(images: Tensor, quality: float) -> Tensor:
    """Encode images (B,3,H,W) as JPEG and decode them."""
    encoded = encode_jpeg(list((images * 255).round().byte().cpu()), int(quality))
    return (torch.stack(decode_jpeg(encoded)) / 255).to(images)


#: Title -> function of images (B,3,H,W) in [0,1] and a severity; severities from mild to strong.
PERTURBATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "brightness + {:g}": (adjust_brightness, (0.1, 0.2, 0.4)),
    "contrast × {:g}": (adjust_contrast_with_mean_subtraction, (0.8, 0.5, 0.2)),
    "noise, std {:g}": (add_noise, (0.05, 0.1, 0.2)),
    "JPEG, quality {:g}": (compress, (50.0, 20.0, 5.0)),
}
ANOTHER, PIXEL = "another photo", "pixel"

Values = dict[tuple[str, str], Array]  # (perturbation, loss) -> loss per photo (N,)


class Estimate(NamedTuple):
    """A relative loss with its 95 % bootstrap interval over photos."""

    mean: float
    low: float
    high: float
    arrow: str  # "↓", "↑": lower, higher than the pixel loss by a paired interval


Estimates = dict[str, dict[str, Estimate]]  # perturbation -> loss -> relative loss


@torch.no_grad()
def robustness(config: RobustnessConfig) -> str:
    """Measure the losses, write ``robustness.md`` and ``robustness.json``, return the former.

    Raises:
        ValueError: no such run, its photos have changed, or fewer than two photos.
    """
    device = pick_device(config.device)
    run = model_folder(config.run)
    out = results_folder(config.out, [run], "robustness")
    check_folder(out)
    if run == PRETRAINED and not config.photos:
        raise ValueError("the shipped model has no photos of its own: name a folder with --photos")
    generator, trained = load_model(run, device)
    encoder, weights = build_encoder(trained, [layer for layer, _ in trained.content.layers])
    encoder.to(device)
    if config.photos:
        paths = read_collection(config.photos, cache_dir()).distinct()
    else:
        own, _ = collections(trained)
        check_images(run / "manifest.json", {"photos": own}, "restore them, or give --photos")
        paths = own.distinct("test")
    paths = paths[: config.images]
    if len(paths) < 2:
        raise ValueError(f"got {len(paths)} photos; at least 2 are needed, to compare one with")
    size = config.size or trained.size
    torch.manual_seed(0)  # for ``add_noise``
    parts = []
    for indices in tqdm(batches(range(len(paths)), BATCH), "photos", unit="batch", leave=False):
        photos = read_squares([paths[i] for i in indices], size, device)
        others = read_squares([paths[i - 1] for i in indices], size, device)
        parts.append(measure(photos, others, trained.content, generator, encoder))
    estimates = estimate({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    note = f"{len(paths)} photos, {resolution(size)}. Features: {weights.name}."
    content = {
        "note": note, "encoder_sha256": weights.sha256, "config": asdict(config),
        "provenance": provenance(), "losses": estimates,
    }  # fmt: skip
    write_atomic(out / "robustness.json", json.dumps(content, indent=1, default=str))
    write_atomic(out / "robustness.md", text := to_markdown(estimates, note))
    return text


def measure(
    photos: Tensor, others: Tensor, config: ContentConfig, generator: Generator, encoder: Encoder
) -> Values:
    """Compute losses to photos (B,3,H,W) of other photos and of the photos perturbed."""
    heaviest = max(config.layers, key=itemgetter(1))[0]
    single = ContentLoss([(heaviest, 1.0)], config.normalization)
    multi = ContentLoss(config.layers, config.normalization)
    # A depends on the photo alone, so any style code will do.
    output = generator(photos, generator.code_mean.expand(len(photos), -1))
    views = {ANOTHER: others}
    for title, (perturb, severities) in PERTURBATIONS.items():
        views |= {title.format(severity): perturb(photos, severity) for severity in severities}
    content, values = encoder(photos), {}
    for title, view in views.items():
        errors = multi.squared_errors(encoder(view), content)
        values[title, PIXEL] = pixel_loss(view, photos)
        values[title, f"single layer {heaviest}"] = single(errors)
        values[title, "multi-layer"] = multi(errors)
        if generator.attention is not None:
            values[title, "weighted by A"] = multi(errors, output.attention)
    return {key: value.cpu().double().numpy() for key, value in values.items()}


def estimate(values: Values) -> Estimates:
    """Divide losses by their mean for other photos, on the data and on each bootstrap sample."""
    means = {key: np.append(x.mean(), resampled_means(x)) for key, x in values.items()}
    relative = {(title, name): x / means[ANOTHER, name] for (title, name), x in means.items()}
    estimates: Estimates = {title: {} for title, _ in relative if title != ANOTHER}
    for (title, name), x in relative.items():
        if title != ANOTHER:
            low, high = np.percentile(x[1:], [2.5, 97.5])
            least, most = np.percentile((x - relative[title, PIXEL])[1:], [2.5, 97.5])
            arrow = "↓" if most < 0 else "↑" if least > 0 else ""
            estimates[title][name] = Estimate(float(x[0]), float(low), float(high), arrow)
    return estimates


def to_markdown(estimates: Estimates, note: str) -> str:
    """Format a table of perturbations by losses."""
    rows = [["", *next(iter(estimates.values()))]]
    for title, losses in estimates.items():
        cells = [f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}] {x.arrow}" for x in losses.values()]
        rows.append([title, *cells])
    return (
        f"# Robustness of content losses\n\n{markdown(rows)}\n\n{note} Loss to the unchanged photo "
        "as a share of the mean loss to another photo, with 95 % bootstrap interval over photos. "
        "↓, ↑: lower, higher than the pixel loss (paired 95 % interval excludes 0).\n"
    )


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(RobustnessConfig, prog="underdrawing robustness", args=arguments)
    print(robustness(config))
