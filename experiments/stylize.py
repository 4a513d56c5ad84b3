"""``underdrawing stylize``: photos in, repainted photos out.

underdrawing stylize photo.jpg --style painting.jpg
underdrawing stylize photos/ "more/*.jpg" --mix a.jpg:0.7,b.jpg:0.3 --format jpeg
underdrawing stylize photo.jpg --mask regions.png --style black=a.jpg,white=b.jpg
cat photo.jpg | underdrawing stylize - --style painting.jpg > stylized.png
"""

import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image
from tqdm.auto import tqdm

from ..data.convert import to_batch
from ..data.images import MAX_BYTES, encode_image, read_image, save_image, to_image
from ..data.masks import region_weights
from ..data.prefetch import prefetch_map
from ..models.generator import MIN_SIDE
from ..trainers.runtime import free_memory
from ..trainers.stylizer import Stylizer, load
from ..trainers.visualize import overlay
from .style_args import codes_and_title
from .targets import FORMATS, STREAM, find_targets

AHEAD = 2  # pictures read before, and written after, the network's turn
BYTES_PER_PIXEL = 160  # at the peak of stylizing, measured at 2048x2048 to 8192x8192


@dataclass(frozen=True)
class StylizeConfig:
    """Repaint photos in the manner of a painting. Results are upright and in sRGB."""

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photos, folders of photos, or patterns like "*.jpg"; - reads one from standard input."""
    style: str | None = None
    """The painting, or the name of a look that is stored beside the model (`underdrawing looks`).
    With --mask: COLOR=STYLE,COLOR=STYLE."""
    mix: str | None = None
    """Instead of --style, several with their weights: a.jpg:0.7,b.jpg:0.3."""
    mask: Path | None = None
    """A picture whose colors say which style goes where: of those that --style names (as in CSS,
    or #rrggbb) each pixel takes the nearest. Stretched to the photo; edges are softened."""
    model: Path | None = None
    """Run folder of the trained model; by default the model that is shipped."""
    out: Path | None = None
    """Folder for the results; or, for a single photo, a file or - (standard output)."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """Of the results; --out says it where it names a file."""
    strength: float = 1.0
    """0 keeps the photo, 1 paints it over."""
    protect: str | None = None
    """A picture that is white where the photo is to be kept, black where it is painted, stretched
    to the photo; or `attention`: strength / max(A, 1), less where the attention map A is high."""
    keep_colors: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Paint lightness only; the colors (the chroma, in YCbCr) stay the photo's."""
    attention: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write each photo with the attention map laid over it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def stylize(config: StylizeConfig) -> list[Path]:
    """Write one picture per photo; returns their paths. A bad photo is reported and skipped.

    Raises:
        ValueError: nothing to do, no such model or style, options that contradict each other or
            are out of range, or some photos failed.
        OSError: a result cannot be written.
    """
    if not 0 <= config.strength <= 1:
        raise ValueError(f"--strength is {config.strength}; it goes from 0 to 1")
    stylizer = load(config.model, config.device)
    painting, title = codes_and_title(stylizer, config.style, config.mix, config.mask is not None)
    mask = read_image(config.mask) if config.mask else None
    if mask and isinstance(painting, dict):
        region_weights(mask, list(painting), (MIN_SIDE, MIN_SIDE))  # says now what is wrong
    protect: str | Image.Image | None = config.protect
    if config.protect not in (None, "attention"):
        protect = read_image(Path(config.protect))
    suffix = FORMATS[config.format]
    targets = find_targets(config.photos, config.out, title, suffix)
    if config.attention and STREAM in targets.values():
        raise ValueError("--attention writes a second picture: name a folder or file with --out")
    written: list[Path] = []
    # Files are read and written by threads while the network works on the picture between them.
    with ThreadPoolExecutor(2) as pool:
        writing: deque[Future[Path]] = deque()
        pictures = tqdm(
            prefetch_map(pool, _read, targets, AHEAD),
            "stylizing", len(targets), unit="photo", disable=len(targets) == 1,
        )  # fmt: skip
        for (photo, target), picture in zip(targets.items(), pictures, strict=True):
            try:
                content = _fitting(photo, picture, stylizer.device)
                stylized = stylizer.stylize(
                    content, painting, config.strength, protect=protect, mask=mask,
                    keep_colors=config.keep_colors,
                )  # fmt: skip
                shown = _attention_over(stylizer, content) if config.attention else None
            except ValueError as error:
                print(f"underdrawing: skipped: {error}", file=sys.stderr)
                continue
            writing.append(pool.submit(_write, stylized, shown, target, suffix))
            if len(writing) > AHEAD:
                written.append(writing.popleft().result())
        written += [job.result() for job in writing]
    if failures := len(targets) - len(written):
        raise ValueError(f"{failures} of {len(targets)} photos could not be stylized")
    return written


def _read(photo: Path) -> Image.Image | ValueError:
    """A photo's pixels, or why there are none."""
    try:
        if photo == STREAM:
            content = sys.stdin.buffer.read(MAX_BYTES)
            return read_image(Path("standard input"), content=content)
        return read_image(photo)
    except ValueError as error:
        return error


def _fitting(photo: Path, pixels: Image.Image | ValueError, device: torch.device) -> Image.Image:
    """The photo, if it was read and there is the memory to stylize it.

    Raises:
        ValueError: why not.
    """
    if isinstance(pixels, ValueError):
        raise pixels
    needed = pixels.width * pixels.height * BYTES_PER_PIXEL
    if needed > (free := free_memory(device)):
        raise ValueError(
            f"{photo} is {pixels.width}x{pixels.height} pixels; stylizing it takes "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free: make it smaller"
        )
    return pixels


def _attention_over(stylizer: Stylizer, content: Image.Image) -> Image.Image:
    return to_image(overlay(to_batch(content), stylizer.attention(content).cpu())[0])


def _write(stylized: Image.Image, shown: Image.Image | None, target: Path, suffix: str) -> Path:
    if target == STREAM:
        sys.stdout.buffer.write(encode_image(stylized, suffix))
        return target
    save_image(stylized, target)
    if shown is not None:
        save_image(shown, target.with_name(f"{target.stem}-attention{target.suffix}"))
    return target


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(StylizeConfig, prog="underdrawing stylize", args=arguments)
    for path in stylize(config):
        if path != STREAM:
            print(path)
