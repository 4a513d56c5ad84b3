"""The gallery of a run: what it makes of the same few photos as it learns."""

from html import escape
from itertools import cycle, islice
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torchvision.utils import make_grid

from ..data.files import one_line, sweep, write_atomic
from ..data.folders import Collection
from ..data.images import save_image
from ..models.style_code import style_code
from .checkpoint import step_of
from .config import TrainConfig
from .networks import Networks
from .pictures import overlay
from .validation import readable_squares

PAIRS = 4
STRIPS = f"step-{'[0-9]' * 7}.jpg"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{run}</title>
<style>
body {{ margin: 2rem auto; max-width: 90rem; padding: 0 1rem; font: 1rem/1.5 sans-serif }}
figure {{ margin: 0 0 1rem }}
img {{ width: 100%; display: block }}
</style>
<h1>{run}</h1>
<p>The same photos and paintings at growing steps; under each photo its output, under each painting
the attention map A over the photo. Heat is where the content counts most (full heat: A ≥ 3), grey
where the paint may do as it likes.</p>
{strips}
</html>
"""


class Gallery:
    """A folder ``gallery`` in the run folder: a strip of outputs and attention maps for each step
    shown, under one of photos and paintings, and ``index.html``, which stacks them all.

    Held-out pictures are taken first. What the run showed after ``step``, from which it goes on, is
    removed.
    """

    def __init__(
        self, config: TrainConfig, photos: Collection, paintings: Collection, step: int
    ) -> None:
        self.config, self.folder = config, config.out / "gallery"
        self.photos, self.paintings = (
            torch.stack(list(islice(cycle(_few(pictures, config.size)), PAIRS)))
            for pictures in (photos, paintings)
        )
        sweep(self.folder)
        for strip in self.folder.glob(STRIPS):
            if step_of(strip) > step:
                strip.unlink()

    @torch.no_grad()
    def show(self, step: int, networks: Networks, accelerator: Accelerator) -> None:
        """Add the averaged generator's outputs after so many steps."""
        photos, paintings = (x.to(accelerator.device) for x in (self.photos, self.paintings))
        with accelerator.autocast():
            features = networks.encoder(paintings, self.config.style.layers)
            code = style_code(paintings, features)
            output = networks.averaged(photos, code, self.config.strength)
        _save(self.photos, self.paintings, self.folder / "pairs.jpg")
        seen = overlay(photos, output.attention)
        _save(output.image, seen, self.folder / f"step-{step:07}.jpg")
        strips = [self.folder / "pairs.jpg", *sorted(self.folder.glob(STRIPS))]
        page = PAGE.format(
            run=escape(one_line(str(self.config.out))), strips="\n".join(map(_figure, strips))
        )
        write_atomic(self.folder / "index.html", page)


def _few(pictures: Collection, size: int) -> Tensor:
    return readable_squares([*pictures.validation, *pictures.train], size, PAIRS)


def _save(left: Tensor, right: Tensor, path: Path) -> None:
    """Two columns for each pair, as one row."""
    columns = torch.stack([left, right], dim=1).flatten(0, 1).float().cpu()
    save_image(make_grid(columns, nrow=2 * PAIRS, padding=2, pad_value=1.0), path)


def _figure(strip: Path) -> str:
    caption = "photo, painting" if strip.stem == "pairs" else f"step {step_of(strip)}"
    return (
        f'<figure><img src="{strip.name}" alt="{caption}" loading="lazy">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
