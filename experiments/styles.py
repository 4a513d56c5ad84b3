"""``underdrawing looks``: the styles stored beside a model, by name; and a contact sheet of them.

underdrawing looks --model runs/mine --add starry=painting.jpg
underdrawing looks --model runs/mine --photo photo.jpg --out sheet.png
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from PIL import Image, ImageDraw, ImageFont

from ..data.images import read_image, save_image
from ..trainers.style_codes import write_styles
from ..trainers.stylizer import Stylizer, load
from .style_args import parse_pairs

SIDE = 320  # pixels of a picture on the contact sheet, at most
LINE = 22  # pixels of the name below it


@dataclass(frozen=True)
class LooksConfig:
    """Print the names of the looks that are stored beside a model."""

    model: Path | None = None
    """Run folder of the trained model; by default the model that is shipped."""
    add: str | None = None
    """Store looks first: NAME=PAINTING,NAME=PAINTING. A name that is there is replaced."""
    photo: Path | None = None
    """Also draw this photo in every look."""
    out: Path = Path("looks.png")
    """The contact sheet."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def list_looks(config: LooksConfig) -> tuple[str, ...]:
    """Do what the options ask for; returns the names.

    Raises:
        ValueError: there is no such model, painting or photo, or no look to draw.
    """
    stylizer = load(config.model, config.device)
    if config.add:
        if config.model is None:
            raise ValueError("looks are added to a model of your own: name it with --model")
        named = parse_pairs(config.add)
        codes = {name: stylizer.code(Path(painting)) for name, painting in named.items()}
        write_styles(config.model, stylizer.codes.styles | codes)
        stylizer = load(config.model, config.device)
    if config.photo:
        if not stylizer.styles:
            raise ValueError("there are no looks beside this model: store some with --add")
        save_image(contact_sheet(stylizer, read_image(config.photo)), config.out)
    return stylizer.styles


def contact_sheet(stylizer: Stylizer, photo: Image.Image) -> Image.Image:
    """The photo and every look of it, about as wide as high, with their names."""
    photo = photo.copy()
    photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    pictures = {"photo": photo} | {look: stylizer.stylize(photo, look) for look in stylizer.styles}
    width, height = photo.width, photo.height + LINE
    square = math.ceil(math.sqrt(len(pictures) * height / width))
    near = range(max(1, square - 1), square + 2)
    columns = min(near, key=lambda n: (-len(pictures) % n, -n))  # few places stay empty
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (name, picture) in enumerate(pictures.items()):
        x, y = number % columns * width, number // columns * height
        sheet.paste(picture, (x, y))
        draw.text((x + 4, y + photo.height + 2), name, "black", font)
    return sheet


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(LooksConfig, prog="underdrawing looks", args=arguments)
    for name in list_looks(config):
        print(name)
    if config.photo:
        print(config.out)
