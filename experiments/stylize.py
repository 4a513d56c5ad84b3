"""``underdrawing stylize``: photos in, repainted photos out."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..data.folders import find_pictures
from ..data.images import read_image, save_image, to_tensor
from ..models.encoder import Encoder
from ..models.style_code import style_code
from ..trainers.config import TrainConfig
from ..trainers.model_files import build_encoder, load_model
from ..trainers.networks import pick_device
from ..trainers.pictures import overlay


@dataclass(frozen=True)
class StylizeConfig:
    """Repaint photos in the manner of a painting, with a trained model."""

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photos, or folders of photos."""
    style: Path
    """The painting."""
    model: Path
    """Run folder of the trained model."""
    out: Path = Path("stylized")
    """Folder for the results, one PNG per photo."""
    strength: float = 1.0
    """0 keeps the photo, 1 paints it over."""
    attention: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write each photo with the attention map laid over it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def painting_code(path: Path, encoder: Encoder, config: TrainConfig) -> Tensor:
    """Style code (1,D) of a painting file, at the scale at which the model met paintings.

    Raises:
        ValueError: the picture cannot be read, or is a sliver.
    """
    image = read_image(path)
    if min(image.size) < 16 or max(image.size) > 20 * min(image.size):
        raise ValueError(f"{path} is {image.width}x{image.height} pixels: no picture of a style")
    scale = config.size / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    painting = to_tensor(image.resize(size, Image.Resampling.LANCZOS))[None].to(encoder.mean.device)
    return style_code(painting, encoder(painting, config.style.layers))


@torch.inference_mode()
def stylize(config: StylizeConfig) -> list[Path]:
    """Write one picture per photo; returns their paths. A bad photo is reported and skipped.

    Raises:
        ValueError: nothing to do, no such model, a strength out of range, or every photo failed.
    """
    if not 0 <= config.strength <= 1:
        raise ValueError(f"--strength is {config.strength}; it goes from 0 to 1")
    device = pick_device(config.device)
    generator, trained = load_model(config.model, device)
    encoder, _ = build_encoder(trained, list(trained.style.layers))
    code = painting_code(config.style, encoder.to(device), trained)
    targets = _targets(config.photos, config.out, config.style.stem)
    written, failures = [], 0
    for photo, target in tqdm(targets.items(), "stylizing", disable=len(targets) == 1):
        try:
            content = to_tensor(read_image(photo))[None].to(device)
            output = generator(content, code, config.strength)
        except ValueError as error:
            print(f"underdrawing: skipped: {error}", file=sys.stderr)
            failures += 1
            continue
        save_image(output.image[0], target)
        written.append(target)
        if config.attention:
            shown = overlay(content, output.attention)[0]
            save_image(shown, target.with_name(f"{target.stem}-attention.png"))
    if failures:
        raise ValueError(f"{failures} of {len(targets)} photos could not be stylized")
    return written


def _targets(photos: tuple[Path, ...], out: Path, style: str) -> dict[Path, Path]:
    """Photo -> output file; folders keep their inner structure."""
    if not photos:
        raise ValueError("name at least one photo or folder of photos")
    targets: dict[Path, Path] = {}
    for photo in photos:
        inner = (
            {p: p.relative_to(photo) for p in find_pictures(photo)}
            if photo.is_dir()
            else {photo: Path(photo.name)}
        )
        for path, relative in inner.items():
            target = out / relative.with_name(f"{path.stem}-{style}.png")
            if target in targets.values():  # a.jpg beside a.png
                target = target.with_name(f"{path.stem}-{path.suffix[1:]}-{style}.png")
            targets[path] = target
    return targets


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(StylizeConfig, prog="underdrawing stylize", args=arguments)
    for path in stylize(config):
        print(path)
