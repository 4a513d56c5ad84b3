"""What ``underdrawing robustness`` writes: Markdown tables, a page of curves, all of it as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..data.changes import CHANGES
from ..data.files import write_atomic
from ..trainers.tracking import provenance
from .charts import Series, line_chart
from .evaluation import PairPaths
from .report import origin_section, page
from .report_table import stacked
from .sensitivity import BASELINES, LOSS, LPIPS, SSIM, Curve, Estimate, Summary
from .table import markdown

TITLE = "Robust to light, contrast, noise and compression?"
LEDE = (
    "What content losses and outputs make of a photo whose light changes, and whose content does "
    "not; the claim is that losses on features take it better than losses on pixels."
)


class Facts(NamedTuple):
    """What was measured, and with what."""

    runs: Mapping[str, Path]  # the folders of what the figures call by name
    manifest: Sequence[PairPaths]
    resolution: str
    encoder: tuple[str, str]  # of the losses: its name, its weights' sha256
    judge: tuple[str, str, str]  # LPIPS, or what stands in for it; its network; the weights' sha256


def write_robustness(summary: Summary, facts: Facts, config: Any, folder: Path) -> None:
    """Write ``robustness.json``, ``.md`` and ``.html``.

    Args:
        summary: what was found.
        facts: what it was measured with.
        config: the command's settings, a dataclass.
        folder: where to; it is made if need be.
    """
    write_atomic(folder / "robustness.json", to_json(summary, facts, config))
    write_atomic(folder / "robustness.md", to_markdown(summary, facts))
    write_atomic(folder / "robustness.html", to_html(summary, facts, config))


def to_json(summary: Summary, facts: Facts, config: Any) -> str:
    """Everything, for programs. An estimate is [mean, low, high]."""
    content = {
        "runs": {name: str(run) for name, run in facts.runs.items()},
        "photos": len(facts.manifest),
        "resolution": facts.resolution,
        "encoder": dict(zip(("name", "sha256"), facts.encoder, strict=True)),
        "lpips": dict(zip(("name", "network", "sha256"), facts.judge, strict=True)),
        "units": {name: change.unit for name, change in CHANGES.items()},
        **asdict(summary),
        "config": asdict(config),
        "provenance": provenance(),
        "pairs": [[str(photo), str(painting)] for photo, painting in facts.manifest],
    }
    return json.dumps(content, indent=1, default=str)


def headings(facts: Facts) -> dict[str, str]:
    """What is measured, by figure."""
    return {
        LOSS: "Content loss to the photo unchanged, as a share of that to another photo",
        SSIM: "1 - SSIM between the outputs for the photo and for the photo changed",
        LPIPS: f"{facts.judge[0]} between the outputs for the photo and for the photo changed",
    }


def notes(figure: str) -> str:
    """How to read a figure's table."""
    meaning = (
        "0: taken for the same content, 1: for another picture."
        if figure == LOSS
        else "A robust method changes its output less than its input, which is the row identity; "
        "one that ignores its photo is robust as well, so see the last column."
    )
    return (
        "At the largest severity · mean over all severities (area under the curve) ± half its "
        "95 % interval over photos. ↓ or ↑: the area is less or more than that of "
        f"{BASELINES[figure]}, by an interval paired by photo that leaves out 0. {meaning}"
    )


# -- Markdown -------------------------------------------------------------------------------------


def to_markdown(summary: Summary, facts: Facts) -> str:
    """A table for each figure: losses or methods by changes."""
    sections = [
        f"## {heading}\n\n{markdown(table_rows(summary, figure))}\n\n{notes(figure)}\n"
        for figure, heading in headings(facts).items()
    ]
    return f"# {TITLE}\n\n{summary_line(facts)}\n\n" + "\n".join(sections)


def summary_line(facts: Facts) -> str:
    """What the figures are of."""
    return (
        f"{len(facts.manifest)} photos, each with one painting; {facts.resolution}. "
        f"Features: {facts.encoder[0]}."
    )


def table_rows(summary: Summary, figure: str) -> list[list[str]]:
    """One figure's cells, its heads first."""
    head = [f"{name} {change.severities[-1]:g}" for name, change in CHANGES.items()]
    rows = [["", *head, "another photo"]]
    for name, another in summary.another[figure].items():
        curves = [c for c in summary.curves if (c.figure, c.name) == (figure, name)]
        rows.append([name, *map(cell, curves), spread(another)])
    return rows


def cell(curve: Curve) -> str:
    """``at the largest severity · area``, with an arrow if it is not the baseline's."""
    beside = curve.beside.get(BASELINES[curve.figure], Estimate(0, 0, 0))  # itself
    arrow = " ↓" if beside.high < 0 else " ↑" if beside.low > 0 else ""
    return f"{curve.points[-1].mean:.3f} · {spread(curve.area)}{arrow}"


def spread(estimate: Estimate) -> str:
    """``mean ± half the interval``."""
    return f"{estimate.mean:.3f} ± {half(estimate):.3f}"


def half(estimate: Estimate) -> float:
    """Half the 95 % interval."""
    return (estimate.high - estimate.low) / 2


# -- the page -------------------------------------------------------------------------------------


def to_html(summary: Summary, facts: Facts, config: Any) -> str:
    """The page: curves and table of each figure, then how to run it again."""
    sections = [
        figure_section(summary, figure, heading, facts.judge[0] if figure == LPIPS else figure)
        for figure, heading in headings(facts).items()
    ]
    return page(
        TITLE, f"{LEDE} {summary_line(facts)}", stacked([*sections, origin_section(config)])
    )


def figure_section(summary: Summary, figure: str, heading: str, label: str) -> str:
    """Curves over each change, and the table."""
    charts = (chart(summary, figure, change, label) for change in CHANGES)
    head, *rows = table_rows(summary, figure)
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f"""<section>
<h2>{escape(heading)}</h2>
<div class="charts">
{stacked(charts)}
</div>
<div class="scroll" role="region" aria-label="{escape(heading)}" tabindex="0">
<table>
<thead><tr>{columns}</tr></thead>
<tbody>
{stacked(map(html_row, rows))}
</tbody>
</table>
</div>
<p class="hint">{escape(notes(figure))}</p>
</section>"""


def chart(summary: Summary, figure: str, change: str, label: str) -> str:
    """One figure over the severities of one change, a curve for each loss or method."""
    series = [
        Series(
            curve.name,
            curve.severities,
            [point.mean for point in curve.points],
            [half(point) for point in curve.points],
        )
        for curve in summary.curves
        if (curve.figure, curve.change) == (figure, change)
    ]
    return line_chart(series, f"severity: {CHANGES[change].unit}", label, title=change)


def html_row(cells: Sequence[str]) -> str:
    """A row of the table."""
    name, *figures = map(escape, cells)
    return (
        f'<tr><th class="row" scope="row">{name}</th>'
        + "".join(f"<td>{figure}</td>" for figure in figures)
        + "</tr>"
    )
