"""``underdrawing stylize``: photos in, repainted photos out."""

import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..data.ahead import map_ahead
from ..data.folders import find_pictures
from ..data.images import read_image, save_image, to_tensor
from ..models.encoder import Encoder
from ..models.pretrained import sha256_of
from ..models.style_code import style_code
from ..trainers.config import TrainConfig
from ..trainers.memory import free_memory
from ..trainers.model_files import build_encoder, load_model, own_folder, sizes
from ..trainers.networks import pick_device
from ..trainers.pictures import overlay
from ..trainers.tensor_files import read_tensors, write_tensors

AHEAD = 2  # pictures read before, and written after, the network's turn
BYTES_PER_PIXEL = 220  # at the peak of stylizing, measured at 2048x2048 and 4096x4096


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


def painting_code(path: Path, run: Path, trained: TrainConfig, device: torch.device) -> Tensor:
    """Style code (1,D) of a painting file, made once and kept in the run folder.

    A painting whose code is kept needs no encoder, and so no weights.

    Raises:
        ValueError: the picture cannot be read, or is a sliver; or there are no weights.
    """
    kept = run / "codes" / f"{_digest(path)}.safetensors"
    with suppress(OSError, ValueError, KeyError):  # not met before, or damaged, or another model's
        code = read_tensors(kept).tensors["code"]
        if code.shape == (1, sizes(trained)[0]) and code.isfinite().all():
            return code.float().to(device)
    encoder, _ = build_encoder(trained, list(trained.style.layers))
    code = encode_painting(path, encoder.to(device), trained)
    with suppress(OSError, ValueError):  # not to be written to: made anew each time
        write_tensors(own_folder(run, "codes") / kept.name, {"code": code})
    return code


def encode_painting(path: Path, encoder: Encoder, trained: TrainConfig) -> Tensor:
    """Style code (1,D) of a painting file, at the scale at which the model met paintings.

    Raises:
        ValueError: the picture cannot be read, or is a sliver.
    """
    image = read_image(path)
    if min(image.size) < 16 or max(image.size) > 20 * min(image.size):
        raise ValueError(f"{path} is {image.width}x{image.height} pixels: no picture of a style")
    scale = trained.size / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    painting = to_tensor(image.resize(size, Image.Resampling.LANCZOS))[None].to(encoder.mean.device)
    return style_code(painting, encoder(painting, trained.style.layers))


def _digest(path: Path) -> str:
    if not path.is_file():  # nor read from a pipe, which might never end
        raise ValueError(f"there is no picture {path}")
    return sha256_of(path)[:16]


@torch.inference_mode()
def stylize(config: StylizeConfig) -> list[Path]:
    """Write one picture per photo; returns their paths. A bad photo is reported and skipped.

    Raises:
        ValueError: nothing to do, no such model, a strength out of range, or every photo failed.
        OSError: a result cannot be written.
    """
    if not 0 <= config.strength <= 1:
        raise ValueError(f"--strength is {config.strength}; it goes from 0 to 1")
    device = pick_device(config.device)
    generator, trained = load_model(config.model, device)
    code = painting_code(config.style, config.model, trained, device)
    targets = _targets(config.photos, config.out, config.style.stem)
    written: list[Path] = []
    # Files are read and written by threads while the network works on the picture between them.
    with ThreadPoolExecutor(2) as pool:
        writing: deque[Future[Path]] = deque()
        pictures = tqdm(
            map_ahead(pool, _read, targets, AHEAD),
            "stylizing", len(targets), unit="photo", disable=len(targets) == 1,
        )  # fmt: skip
        for (photo, target), pixels in zip(targets.items(), pictures, strict=True):
            try:
                content = _to_device(photo, pixels, device)
                output = generator(content, code, config.strength, config.attention)
            except ValueError as error:
                print(f"underdrawing: skipped: {error}", file=sys.stderr)
                continue
            shown = overlay(content, output.attention)[0] if config.attention else None
            writing.append(pool.submit(_write, output.image[0], shown, target))
            if len(writing) > AHEAD:
                written.append(writing.popleft().result())
        written += [job.result() for job in writing]
    if failures := len(targets) - len(written):
        raise ValueError(f"{failures} of {len(targets)} photos could not be stylized")
    return written


def _read(photo: Path) -> Image.Image | ValueError:
    """A photo's pixels, or why there are none."""
    try:
        return read_image(photo)
    except ValueError as error:
        return error


def _to_device(photo: Path, pixels: Image.Image | ValueError, device: torch.device) -> Tensor:
    """The photo (1,3,H,W) in [0,1] on the device.

    Raises:
        ValueError: it could not be read, or there is not the memory to stylize it.
    """
    if isinstance(pixels, ValueError):
        raise pixels
    needed = pixels.width * pixels.height * BYTES_PER_PIXEL
    if needed > (free := free_memory(device)):
        raise ValueError(
            f"{photo} is {pixels.width}x{pixels.height} pixels; stylizing it takes "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free: make it smaller"
        )
    return to_tensor(pixels)[None].to(device)


def _write(stylized: Tensor, shown: Tensor | None, target: Path) -> Path:
    save_image(stylized, target)
    if shown is not None:
        save_image(shown, target.with_name(f"{target.stem}-attention.png"))
    return target


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
