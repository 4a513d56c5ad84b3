"""``underdrawing stylize``: stylize photos.

underdrawing stylize photo.jpg --style painting.jpg
underdrawing stylize photos/ "more/*.jpg" --mix a.jpg:0.7,b.jpg:0.3 --format jpeg
underdrawing stylize photo.jpg --mask regions.png --style black=a.jpg,white=b.jpg
cat photo.jpg | underdrawing stylize - --style painting.jpg > stylized.png
"""

import errno
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro
from PIL import Image
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tqdm.auto import tqdm

from ..data.convert import to_batch
from ..data.files import one_line
from ..data.images import (
    MAX_BYTES,
    check_side,
    encode_image,
    read_image,
    save_image,
    to_image,
)
from ..data.masks import parse_colors
from ..trainers.runtime import Device, free_memory, out_of_memory
from ..trainers.stylizer import Stylizer, default_stroke_size, load
from ..trainers.visualize import overlay
from .errors import explain_error
from .main import parse_options
from .paths import STREAM, check_folder, output_paths, overlay_path

AHEAD = 2  # images read before, and written after, the one being stylized
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
#: Errors that concern the name of one file. Others, such as a full disk, will affect all files.
NAME_ERRORS = {errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL, errno.EILSEQ}
#: A comma separates regions only where COLOR= follows, as file names may contain commas, too.
NEXT_PAIR = re.compile(r",(?=[^,=()]+(?:\([^()]*\))?=|$)")
WEIGHT = re.compile(r":([-+.\de]+)(?:,(?!$)|$)")

T = TypeVar("T")
R = TypeVar("R")
Result = dict[Path, Image.Image] | Exception  # file -> image to write, or why there is none


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StyleOptions:
    """Options of ``stylize`` and ``video``."""

    style: str | None = None
    """Painting or named style."""
    mix: str | None = None
    """Weighted mixture, instead of --style: STYLE:WEIGHT,STYLE:WEIGHT."""
    model: Path | None = None
    """Run directory of the model; default: the shipped model."""
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Stylization strength in [0, 1]; 0 returns the input."""
    keep_colors: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Stylize luma only; the chroma (YCbCr) stays the input's."""
    stroke_size: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Enlarge the strokes, 1 or more; by default in proportion to the input from 768 pixels on."""
    device: Device = "auto"
    """Device to compute on."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StylizeConfig(StyleOptions):
    """Stylize photos with the style of a painting. Results are upright (EXIF) and in sRGB."""

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO ...")]
    """Photos, folders (earlier results left out), or patterns such as "*.jpg"; - is stdin."""
    mask: Path | None = None
    """Image whose colors assign the styles of --style to regions (nearest color, soft edges)."""
    out: Path | None = None
    """Folder for the results (`stylized`); for one photo also a file, or - (standard output)."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """Format of the results, unless --out names a file."""
    protect: str | None = None
    """Image, white where the photo is kept; or `attention`: strength / max(A, 1)."""
    attention: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write each photo overlaid with its attention map A."""


def stylize(config: StylizeConfig) -> list[Path]:
    """Write one stylized image per photo, print and return their paths.

    Several photos: one that cannot be read, stylized or written is reported and skipped.

    Raises:
        ValueError: there are no photos, no such model or style, options contradict each other, an
            output is an input, or photos were skipped.
        OSError: no result can be written, for instance as the disk is full.
    """
    stylizer = load(config.model, config.device)
    if config.attention or config.protect == "attention":
        stylizer.check_attention()  # raises before any work
    painting, styles = codes_and_styles(stylizer, config.style, config.mix, config.mask is not None)
    mask = read_image(config.mask) if config.mask else None
    if mask and isinstance(painting, dict):
        parse_colors(list(painting))  # raises for unknown colors
    options: dict[str, Any] = {
        "mask": mask, "protect": config.protect, "keep_colors": config.keep_colors,
        "stroke_size": config.stroke_size,
    }  # fmt: skip
    if config.protect not in (None, "attention"):
        options["protect"] = read_image(Path(config.protect))
    suffix = FORMATS[config.format]
    inputs = [Path(file) for file in (*styles, config.mask, config.protect) if file]
    paths = output_paths(
        config.photos, config.out, title(styles), suffix, inputs, config.attention
    )  # fmt: skip
    if config.attention and STREAM in paths.values():
        raise ValueError("--attention writes a second image: name a folder or file with --out")

    if STREAM not in paths.values():
        check_folder(next(iter(paths.values())).parent)

    def results(photos: Iterable[Image.Image | Exception]) -> Iterator[Result]:
        for (photo, path), image in zip(paths.items(), photos, strict=True):
            try:
                if isinstance(image, Exception):
                    raise image
                check_memory(photo, image.size, config.stroke_size, stylizer.device)
                with name_photo(photo):
                    check_side(image.size, suffix if path == STREAM else path.suffix)
                    files = {path: stylizer.stylize(image, painting, config.strength, **options)}
                    if config.attention:
                        heat = overlay(to_batch(image), stylizer.attention(image).cpu())[0]
                        files[overlay_path(path)] = to_image(heat)
                yield files
            except ValueError as error:
                yield error

    with ThreadPoolExecutor(2) as pool:  # files are read and written during inference
        photos = tqdm(
            prefetch_map(pool, _read, paths),
            "stylizing", len(paths), unit="photo", disable=len(paths) == 1,
        )  # fmt: skip
        written = []
        for result in prefetch_map(pool, partial(_write, suffix=suffix), results(photos)):
            if isinstance(result, Path):
                written.append(result)
                if result != STREAM:
                    tqdm.write(one_line(str(result)))
            elif len(paths) == 1:
                raise result
            else:
                message = f"underdrawing: skipped: {explain_error(result, 'stylize')}"
                tqdm.write(one_line(message), file=sys.stderr)
    if skipped := len(paths) - len(written):
        raise ValueError(f"{skipped} of {len(paths)} photos could not be stylized")
    return written


def prefetch_map(pool: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``function(item)`` in order. Unlike ``pool.map``, start at most ``AHEAD`` calls before
    their results are due, which bounds the memory that waiting results take.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def name_photo(photo: Path) -> Iterator[None]:
    """Turn errors of stylizing a photo into ValueErrors that name it."""
    try:
        yield
    except (ValueError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ValueError) and not out_of_memory(error):
            raise
        raise ValueError(f"{photo}: {explain_error(error, 'stylize')}") from None


def stylizing_memory(size: tuple[int, int], stroke_size: float) -> float:
    """Return an upper estimate of the bytes that stylizing takes, beyond the model.

    It covers the peaks of this command with all its options, measured on a CPU at 2048x2048,
    4000x3000 and 8192x8192 with stroke sizes 1 to 11: strokes are painted on a reduced photo, and
    the rest is done at full size.
    """
    return size[0] * size[1] * (150 + 120 / stroke_size**2)


def check_memory(
    path: Path, size: tuple[int, int], stroke_size: float | None, device: torch.device
) -> None:
    """Raise a ValueError if an image of this width and height is too large for the free memory."""
    needed = stylizing_memory(size, stroke_size or default_stroke_size(*size))
    free = free_memory(device)
    if needed > free:
        larger = " or --stroke-size 2" if stylizing_memory(size, 2) <= free else ""
        raise ValueError(
            f"{path} is {size[0]}x{size[1]} pixels: stylizing it needs {needed / 1e9:.1f} GB of "
            f"memory, and {free / 1e9:.1f} GB are free; use a smaller image{larger}"
        )


def _read(photo: Path) -> Image.Image | Exception:
    """Read a photo; return the error if it cannot be read."""
    try:
        if photo == STREAM:
            return read_image(Path("standard input"), content=sys.stdin.buffer.read(MAX_BYTES))
        return read_image(photo)
    except ValueError as error:
        return error


def _write(images: Result, suffix: str) -> Path | Exception:
    """Write a result and return its path; return the error if it concerns this file alone."""
    if isinstance(images, Exception):
        return images
    try:
        for path, image in images.items():
            if path == STREAM:
                sys.stdout.buffer.write(encode_image(image, suffix))
            else:
                save_image(image, path)
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        return error
    return next(iter(images))


def title(styles: Iterable[str]) -> str:
    """Return the part of a result's file name that stands for its styles."""
    return "+".join(Path(style).stem for style in styles)


def codes_and_styles(
    stylizer: Stylizer, style: str | None, mix: str | None, masked: bool
) -> tuple[Tensor | dict[str, Tensor], list[str]]:
    """Return the style code, or with a mask color -> code; and the names of the styles.

    Raises:
        ValueError: the options contradict each other, or there is no such style.
    """
    if (style is None) == (mix is None):
        raise ValueError("give either one style with --style, or several with --mix")
    code: Tensor | dict[str, Tensor]
    if mix is not None:
        if masked:
            raise ValueError("--mask needs --style COLOR=STYLE,COLOR=STYLE instead of --mix")
        weights = parse_mix(mix)
        code, styles = stylizer.code(weights), list(weights)
    elif style is not None and masked:
        regions = parse_pairs(style)
        code = {color: stylizer.code(one) for color, one in regions.items()}
        styles = list(regions.values())
    else:
        assert style is not None
        code, styles = stylizer.code(style), [style]
    return code, styles


def parse_mix(text: str) -> dict[str, float]:
    """Parse ``a.jpg:0.7,b.jpg:0.3`` to style -> weight, or raise a ValueError.

    Only a comma after ``:WEIGHT`` separates styles, as file names may contain commas, too.
    """
    *parts, rest = WEIGHT.split(text)
    try:
        mix = dict(zip(parts[::2], map(float, parts[1::2]), strict=True))
    except ValueError:
        mix = {}
    if rest or not mix or 2 * len(mix) < len(parts) or "" in mix:
        raise ValueError(f"--mix {text}: write STYLE:WEIGHT,STYLE:WEIGHT, each style once")
    return mix


def parse_pairs(text: str) -> dict[str, str]:
    """Parse ``black=a.jpg,white=b.jpg`` to color (or name) -> style, or raise a ValueError."""
    parts = [part.partition("=") for part in NEXT_PAIR.split(text)]
    pairs = {key: style for key, _, style in parts}
    if len(pairs) < len(parts) or not all(pairs) or not all(pairs.values()):
        raise ValueError(f"{text}: write KEY=STYLE,KEY=STYLE, each key (color or name) once")
    return pairs


def command(arguments: list[str]) -> None:
    """Run the command."""
    stylize(parse_options(StylizeConfig, prog="underdrawing stylize", args=arguments))
