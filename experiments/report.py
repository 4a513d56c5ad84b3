"""The report of a reproduction: one HTML page that holds everything and needs nothing else."""

import base64
import io
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..data.files import write_atomic
from ..data.images import to_image
from ..metrics.cards import Card
from ..trainers.pictures import overlay
from ..trainers.tracking import provenance
from .report_style import CSS
from .table import Column, Figure, Line, Table

TITLE = "The paper’s table, measured again"
LEDE = (
    "Style transfer with different content losses: every row of the paper’s table was trained "
    "anew and scored on held-out pairs of a photo and a painting, next to controls that do "
    "nothing clever."
)
TABLE_HINT = (
    "Difference is measured − paper, coloured where the arrow says which way is better and the row "
    "stylises. ± is the 95 % interval over seeds, where there are several."
)
PARTS = (
    '<th class="starts" scope="col">paper</th>'
    '<th scope="col">measured</th>'
    '<th scope="col">difference</th>'
)
JPEG_QUALITY = 88
SHORT_DIGEST = 12  # digits of a weights' sha256 that are shown


class Picture(NamedTuple):
    """A held-out pair and what every row makes of it; images are (3,H,W) in [0,1]."""

    content: Tensor
    style: Tensor
    outputs: dict[str, Tensor]  # row title -> output
    attention: Tensor  # (1,h,w), mean one


def write_report(path: Path, table: Table, pictures: list[Picture], config: Any) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        table: the table, its notes and its metrics' cards.
        pictures: a few pairs to look at.
        config: the reproduction's settings, a dataclass.
    """
    sections = [
        table_section(table),
        pictures_section(pictures),
        cards_section(table.cards),
        origin_section(config),
    ]
    write_atomic(path, page(stacked(sections)))


def page(body: str) -> str:
    """A whole document around the sections."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(TITLE)} · Underdrawing</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">Underdrawing</p>
<h1>{escape(TITLE)}</h1>
<p class="lede">{escape(LEDE)}</p>
</header>
{body}
</main>
</body>
</html>
"""


def stacked(parts: Iterable[str]) -> str:
    """One part a line."""
    return "\n".join(parts)


# -- the table ------------------------------------------------------------------------------------


def table_section(table: Table) -> str:
    """The table with its notes."""
    trained = stacked(table_row(line, table.columns) for line in table.lines if not line.control)
    controls = stacked(table_row(line, table.columns) for line in table.lines if line.control)
    notes = stacked(f"<li>{escape(note)}</li>" for note in table.notes)
    cells = 1 + sum(map(width, table.columns))
    return f"""<section>
<h2 id="table">Table</h2>
<p class="hint">{escape(TABLE_HINT)}</p>
<div class="scroll" role="region" aria-labelledby="table" tabindex="0">
<table>
{table_head(table.columns)}
<tbody>
{trained}
</tbody>
<tbody class="controls">
<tr><th class="group" scope="rowgroup" colspan="{cells}"><span>Controls</span></th></tr>
{controls}
</tbody>
</table>
</div>
<ul class="notes">
{notes}
</ul>
</section>"""


def width(column: Column) -> int:
    """How many cells a figure takes: paper, measured and difference, or measured alone."""
    return 3 if column.paper else 1


def table_head(columns: Iterable[Column]) -> str:
    """Two rows: the figures' names, then paper · measured · difference where the paper has any."""
    names = "".join(column_name(column) for column in columns)
    below = "".join(PARTS for column in columns if column.paper)
    return f"""<thead>
<tr><th class="row" rowspan="2" scope="col">row</th>{names}</tr>
<tr>{below}</tr>
</thead>"""


def column_name(column: Column) -> str:
    """A figure's name over its cells, with the direction in words for those who cannot see it."""
    span = 'colspan="3" scope="colgroup"' if column.paper else 'rowspan="2" scope="col"'
    words = {"↑": "higher is better", "↓": "lower is better"}.get(column.better, "")
    arrow = f'<span title="{words}" aria-label="{words}" role="img">{escape(column.better)}</span>'
    return f'<th class="figure starts" {span}>{escape(column.title)}&nbsp;{arrow}</th>'


def table_row(line: Line, columns: Iterable[Column]) -> str:
    """A row: its title, its note as a badge, its figures."""
    badge = f' <span class="badge">{escape(line.note)}</span>' if line.note else ""
    cells = "".join(figure_cells(line, column) for column in columns)
    return f'<tr><th class="row" scope="row">{escape(line.title)}{badge}</th>{cells}</tr>'


def figure_cells(line: Line, column: Column) -> str:
    """The cells of one figure."""
    figure = line.figures[column.key]
    if not column.paper:
        return measured_cell(figure, column.digits, "measured starts")
    measured = measured_cell(figure, column.digits, "measured")
    return paper_cell(figure, column.digits) + measured + difference_cell(line, column)


def paper_cell(figure: Figure, digits: int) -> str:
    """The paper's figure; it prints two digits at most."""
    if figure.paper is None:
        return '<td class="none starts">–</td>'
    return f'<td class="from-paper starts">{figure.paper:.{min(digits, 2)}f}</td>'


def measured_cell(figure: Figure, digits: int, classes: str) -> str:
    """What was measured, its interval below it."""
    if figure.measured is None:
        return f'<td class="{classes} none">n/a</td>'
    interval = ""
    if figure.half_interval is not None:
        interval = f'<span class="interval">± {figure.half_interval:.{digits}f}</span>'
    return f'<td class="{classes}">{number(figure.measured, digits)}{interval}</td>'


def difference_cell(line: Line, column: Column) -> str:
    """Measured - paper."""
    difference = line.figures[column.key].difference
    if difference is None:
        return '<td class="none">–</td>'
    kind = verdict(line, column, difference)
    title = f' title="{kind} than the paper"' if kind else ""
    return f'<td class="difference {kind}"{title}>{number(difference, column.digits, "+")}</td>'


def verdict(line: Line, column: Column, difference: float) -> str:
    """Better or worse than the paper, or nothing where the difference says neither.

    A row with a note (it did not stylise) gets no praise for keeping its content.
    """
    shown = round(difference, column.digits)
    if line.note or not shown or column.better not in ("↑", "↓"):
        return ""
    return "better" if (shown > 0) == (column.better == "↑") else "worse"


def number(value: float, digits: int, sign: str = "-") -> str:
    """A number with a true minus sign, as wide as the plus; never a minus zero."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


# -- the pictures ---------------------------------------------------------------------------------


def pictures_section(pictures: list[Picture]) -> str:
    """All pairs."""
    pairs = stacked(pair(picture, i) for i, picture in enumerate(pictures, start=1))
    return f"""<section>
<h2>Pictures</h2>
<p class="hint">Held-out pairs and what every trained row makes of them. Attention A lies over the
greyed photo on a fixed scale, so that a flat map looks flat; its mean is one:
<span class="scale">A = 0 <i></i> A ≥ 3</span></p>
{pairs}
</section>"""


def pair(picture: Picture, i: int) -> str:
    """Photo, painting, every output, attention."""
    attention = overlay(picture.content[None], picture.attention[None])[0]
    figures = [
        captioned(picture.content, "photo", f"The photo of pair {i}", "source"),
        captioned(picture.style, "painting", f"The painting of pair {i}", "source"),
        *(
            captioned(output, title, f"Pair {i} by the row {title}")
            for title, output in picture.outputs.items()
        ),
        captioned(
            attention,
            "attention A over the photo",
            f"Where attention lies on the photo of pair {i}",
            "attention",
        ),
    ]
    return f"""<section class="pair">
<h3>Pair {i}</h3>
<div class="pictures">
{stacked(figures)}
</div>
</section>"""


def captioned(image: Tensor, caption: str, alt: str, kind: str = "output") -> str:
    """A picture (3,H,W) with its caption."""
    height, width = image.shape[-2:]
    size = f'width="{width}" height="{height}"'  # room is kept before it is decoded
    return (
        f'<figure class="{kind}"><img src="{data_uri(image)}" {size} alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def data_uri(image: Tensor) -> str:
    """A picture (3,H,W) as a JPEG inside its own address."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# -- where the figures come from ------------------------------------------------------------------


def cards_section(cards: Iterable[Card]) -> str:
    """What each figure was measured with."""
    return f"""<section>
<h2>How it was measured</h2>
<div class="cards">
{stacked(map(metric_card, cards))}
</div>
</section>"""


def metric_card(card: Card) -> str:
    """A metric's card."""
    facts = {
        "network": escape(card.network),
        "weights": digest(card.weights_sha256),
        "N": f"{card.pictures}",
        "against": escape(card.reference),
        "resolution": escape(card.resolution),
    }
    listed = stacked(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts.items())
    note = f"<p>{escape(card.note)}</p>" if card.note else ""
    return f"""<article class="card">
<h3>{escape(card.name)}</h3>
<dl>
{listed}
</dl>
{note}
</article>"""


def digest(sha256: str) -> str:
    """A checksum's beginning; all of it in the tooltip."""
    if not sha256:
        return "none"
    return f'<code title="sha256 {escape(sha256)}">{escape(sha256[:SHORT_DIGEST])}…</code>'


def origin_section(config: Any) -> str:
    """The command, the versions and the settings."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    versions = {name: value for name, value in provenance().items() if name != "command"}
    settings = json.dumps(
        {"versions": versions, "config": asdict(config)}, indent=2, default=str, ensure_ascii=False
    )
    return f"""<section>
<h2>Run it again</h2>
<p class="hint">The command that wrote this page:</p>
<pre><code>{escape(command)}</code></pre>
<details>
<summary>Versions and configuration</summary>
<pre><code>{escape(settings)}</code></pre>
</details>
</section>"""
