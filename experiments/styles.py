"""``underdrawing styles``: list, add, remove and preview the named styles of a model.

underdrawing styles --model runs/mine --add starry=painting.jpg,monet=lilies.jpg,bridge.jpg,folder/
underdrawing styles --model runs/mine --remove starry
underdrawing styles --model runs/mine --photo photo.jpg --out sheet.png
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.files import one_line
from ..data.folders import find_images
from ..data.images import SUFFIXES, read_image, save_image
from ..trainers.model_files import PRETRAINED, SHIPPED, model_folder
from ..trainers.runtime import Device
from ..trainers.style_codes import write_styles
from ..trainers.stylizer import Stylizer, load
from .main import parse_options
from .paths import check_output
from .stylize import parse_pairs

SIDE = 320  # pixels, the longer side of an image on the contact sheet
CAPTION = 22  # pixels, height of the name below it
COLUMNS = 5
NEXT_NAME = re.compile(r",(?![^()]*\))")  # a comma outside parentheses, as in `parse_pairs`


@dataclass(frozen=True)
class StylesConfig:
    """List the named styles of a model; add or remove some, or stylize a photo in all of them."""

    model: Path | None = None
    """Run directory of the model; default: the shipped model."""
    add: str | None = None
    """First add or replace named styles: NAME=PAINTINGS,…; the mean of several, or of a folder."""
    remove: str | None = None
    """First remove named styles: NAME,NAME."""
    photo: Path | None = None
    """Also stylize this photo in all named styles, as a contact sheet."""
    out: Path = Path("styles.png")
    """File of the contact sheet."""
    device: Device = "auto"
    """Device to compute on."""


def list_styles(config: StylesConfig) -> tuple[str, ...]:
    """Add or remove named styles and write a contact sheet, if requested; return all names.

    Raises:
        ValueError: there is no such model, painting, photo or named style.
    """
    pairs = parse_pairs(config.add) if config.add else {}
    added = {name: find_paintings(text) for name, text in pairs.items()}
    removed = NEXT_NAME.split(config.remove) if config.remove else []
    if config.photo:
        paintings = [path for paths in added.values() for path in paths]
        check_output(config.out, SUFFIXES, [config.photo, *paintings])
    run = model_folder(config.model or SHIPPED)
    if run == PRETRAINED and (added or removed):
        raise ValueError("--add and --remove need a model of your own: name it with --model")
    stylizer = load(run, config.device)
    if added or removed:
        styles = stylizer.codes.styles
        if unknown := [name for name in removed if name not in styles]:
            raise ValueError(
                f"no named style {unknown[0]}; there are {', '.join(styles) or 'none'}"
            )
        kept = {name: code for name, code in styles.items() if name not in removed}
        codes = {name: mean_code(stylizer, paths) for name, paths in added.items()}
        write_styles(run, kept | codes)
        stylizer = load(run, config.device)
    if config.photo:
        if not stylizer.styles:
            raise ValueError("this model has no named styles: add some with --add NAME=PAINTING")
        save_image(contact_sheet(stylizer, read_image(config.photo)), config.out)
    return stylizer.styles


def find_paintings(text: str) -> list[Path]:
    """Return the files of ``a.jpg,b.jpg,folder/``; an existing file or folder may contain commas.

    Raises:
        ValueError: a folder cannot be read or has no images.
    """
    names = [text] if Path(text).exists() else text.split(",")
    paths = [find_images(Path(name)) if Path(name).is_dir() else [Path(name)] for name in names]
    return [path for group in paths for path in group]


def mean_code(stylizer: Stylizer, paintings: Sequence[Path]) -> Tensor:
    """Return the mean style code (1,D) of paintings.

    The mean of Cholesky factors is again one. Of several paintings, those that cannot be encoded
    are left out with a warning that names them.

    Raises:
        ValueError: none can be encoded.
    """
    codes, failures = [], []
    for path in paintings:
        try:
            codes.append(stylizer.code(path))
        except ValueError as error:
            failures.append(error)
    if not codes:
        raise failures[0]
    for failure in failures:
        warnings.warn(f"left out of the mean: {failure}", stacklevel=2)
    return torch.stack(codes).mean(0)


def contact_sheet(stylizer: Stylizer, photo: Image.Image) -> Image.Image:
    """Draw the photo and its result in every named style, with captions."""
    photo = photo.copy()
    photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    images = {"photo": photo} | {name: stylizer.stylize(photo, name) for name in stylizer.styles}
    width, height = photo.width, photo.height + CAPTION
    columns = min(COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (name, image) in enumerate(images.items()):
        x, y = number % columns * width, number // columns * height
        sheet.paste(image, (x, y))
        draw.text((x + 4, y + photo.height + 2), name, "black", font)
    return sheet


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(StylesConfig, prog="underdrawing styles", args=arguments)
    shown = [str(config.out)] if config.photo else []
    for name in (*list_styles(config), *shown):
        print(one_line(name))
