"""The report of a study: one HTML page that holds everything and needs nothing else."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ...data.files import write_atomic
from ...metrics.cards import Card
from ...trainers.tracking import provenance
from ..analysis.results import DIFFERENCES, FULL, MATCHED, StudyResult, differences_note
from ..report_figures import curve_charts, difference_charts
from ..report_pictures import pictures_html
from ..report_style import CSS
from ..report_table import stacked, table_html
from .samples import ImageLike

TABLE_HINT = (
    "Difference is measured − paper; the paper states no intervals and no protocol, so it is no "
    "verdict. ± is the 95 % interval over seeds, where there are several."
)
CURVES_HINT = (
    "Each row from strength 0, the photo itself, to full strength: what it keeps of the photo, and "
    "how near its pictures are to paintings, against how much style has arrived. A row whose curve "
    "lies on the better side is better at every style; bands are 95 % over seeds."
)
SHORT_DIGEST = 12  # digits of a weights' sha256 that are shown


class Chapter(NamedTuple):
    """A part of a study with the pictures of its rows."""

    result: StudyResult
    pictures: Sequence[ImageLike]


def write_report(
    path: Path, title: str, lede: str, chapters: Sequence[Chapter], config: Any
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        title, lede: its heading, and what it is about.
        chapters: one for each table.
        config: the study's settings, a dataclass.
    """
    sections = [chapter_section(chapter, i) for i, chapter in enumerate(chapters)]
    cards = {card: None for chapter in chapters for card in chapter.result.full.cards}
    body = stacked([*sections, cards_section(cards), origin_section(config)])
    write_atomic(path, page(title, lede, body))


def page(title: str, lede: str, body: str) -> str:
    """A whole document around the sections."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · Underdrawing</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">Underdrawing</p>
<h1>{escape(title)}</h1>
<p class="lede">{escape(lede)}</p>
</header>
{body}
</main>
</body>
</html>
"""


def chapter_section(chapter: Chapter, i: int) -> str:
    """Tables, curves, differences, pictures."""
    result = chapter.result
    parts = [
        f'<h2 id="chapter-{i}">{escape(result.title)}</h2>',
        f'<h3 id="full-{i}">{FULL}</h3><p class="hint">{TABLE_HINT}</p>',
        table_html(result.full, f"full-{i}"),
        f'<h3 id="matched-{i}">{MATCHED}</h3>',
        table_html(result.matched, f"matched-{i}"),
        f'<h3>Content against style</h3><p class="hint">{CURVES_HINT}</p>',
        f'<div class="charts">{stacked(curve_charts(result))}</div>',
    ]
    if result.differences:
        charts = stacked(difference_charts(result))
        note = escape(differences_note(result))
        parts.append(f'<h3>{DIFFERENCES}</h3><p class="hint">{note}</p>')
        parts.append(f'<div class="charts">{charts}</div>')
    for j, section in enumerate(result.more):
        name = f"more-{i}-{j}"
        parts.append(f'<h3 id="{name}">{escape(section.heading)}</h3>')
        parts.append(table_html(section.table, name))
    if chapter.pictures:
        parts.append(pictures_html(chapter.pictures))
    return f"<section>\n{stacked(parts)}\n</section>"


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
