"""The report of a study: one self-contained HTML page, and its figures as PDF and SVG files."""

import base64
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from ...data.files import write_atomic
from ...data.images import encode_image, to_image
from ...trainers.tracking import provenance
from ...trainers.visualize import overlay
from ..analysis.results import (
    DIFFERENCES,
    FULL,
    MATCHED,
    StudyResult,
    difference_rows,
    differences_note,
)
from .figures import curves_figure, differences_figure, inline, render
from .samples import Sample


class Chapter(NamedTuple):
    """A table of a study with its samples."""

    result: StudyResult
    samples: Sequence[Sample]


def write_report(
    path: Path, title: str, lede: str, chapters: Sequence[Chapter], config: Any
) -> None:
    """Write the page to ``path``, and its figures to the folder ``figures`` beside it.

    Args:
        path: the HTML file.
        title: heading of the page.
        lede: one paragraph below the heading.
        chapters: one per table.
        config: settings of the study, a dataclass.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "data_uri": data_uri, "overlay": overlay_one}
    environment.globals |= {"FULL": FULL, "MATCHED": MATCHED, "DIFFERENCES": DIFFERENCES}
    environment.globals |= {"difference_rows": difference_rows, "note": differences_note}
    folder, versions = path.parent / "figures", provenance()
    command = shlex.join(versions.pop("command"))
    page = environment.get_template("template.html.j2").render(
        title=title,
        lede=lede,
        chapters=chapters,
        figures=[draw_figures(c.result, folder, len(chapters) > 1) for c in chapters],
        cards=dict.fromkeys(card for c in chapters for card in c.result.full.cards),
        command=command,
        settings=json.dumps(
            {"versions": versions, "config": asdict(config)},
            indent=2, default=str, ensure_ascii=False,
        ),
    )  # fmt: skip
    write_atomic(path, page)


def draw_figures(result: StudyResult, folder: Path, several: bool) -> dict[str, dict[str, str]]:
    """Write a result's figures as files, and return their names and SVG elements for the page.

    In a report of several chapters the files' names start with the result's title.
    """
    prefix = re.sub(r"\W+", "-", result.title.lower()).strip("-") + "-" if several else ""
    drawn = {}
    for name, draw, data in (
        ("curves", curves_figure, result.curves),
        ("differences", differences_figure, result.differences),
    ):
        if data:
            file, figure = prefix + name, draw(result)
            svg = render(figure, "svg", file)
            write_atomic(folder / f"{file}.svg", svg)
            write_atomic(folder / f"{file}.pdf", render(figure, "pdf", file))
            drawn[name] = {"file": file, "svg": inline(svg)}
    return drawn


def number(value: float, digits: int, sign: str = "-") -> str:
    """Format a number with a true minus sign; with ``sign="+"`` also a plus."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def data_uri(image: Tensor) -> str:
    """Return an image (3,H,W) in [0,1] as a data URI of a JPEG file."""
    jpeg = encode_image(to_image(image), ".jpg")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def overlay_one(attention: Tensor, photo: Tensor) -> Tensor:
    """Overlay A (1,h,w) on its photo (3,H,W)."""
    return overlay(photo[None], attention[None])[0]
