"""``underdrawing styles``: list, add and preview the named styles of a model.

underdrawing styles --model runs/mine --add starry=painting.jpg
underdrawing styles --model runs/mine --photo photo.jpg --out sheet.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from ..data.images import SUFFIXES, read_image, save_image
from ..trainers.style_codes import write_styles
from ..trainers.stylizer import Stylizer, load
from .main import parse_options
from .paths import check_output
from .stylize import parse_pairs

SIDE = 320  # pixels, the longer side of an image on the contact sheet
CAPTION = 22  # pixels, height of the name below it
COLUMNS = 5


@dataclass(frozen=True)
class StylesConfig:
    """List the named styles of a model; add some, or stylize a photo in all of them."""

    model: Path | None = None
    """Run directory of the model; by default the shipped model."""
    add: str | None = None
    """First add or replace named styles: NAME=PAINTING,NAME=PAINTING."""
    photo: Path | None = None
    """Also stylize this photo in all named styles, as a contact sheet."""
    out: Path = Path("styles.png")
    """File of the contact sheet."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def list_styles(config: StylesConfig) -> tuple[str, ...]:
    """Add named styles and write a contact sheet, if requested; return all names.

    Raises:
        ValueError: there is no such model, painting or photo, or no named style to preview.
    """
    added = parse_pairs(config.add) if config.add else {}
    if config.photo:
        check_output(config.out, SUFFIXES, [config.photo, *map(Path, added.values())])
    stylizer = load(config.model, config.device)
    if added:
        if config.model is None:
            raise ValueError("--add needs a model of your own: name it with --model")
        codes = {name: stylizer.code(Path(painting)) for name, painting in added.items()}
        write_styles(config.model, stylizer.codes.styles | codes)
        stylizer = load(config.model, config.device)
    if config.photo:
        if not stylizer.styles:
            raise ValueError("this model has no named styles: add some with --add NAME=PAINTING")
        save_image(contact_sheet(stylizer, read_image(config.photo)), config.out)
    return stylizer.styles


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
    for name in list_styles(config):
        print(name)
    if config.photo:
        print(config.out)
