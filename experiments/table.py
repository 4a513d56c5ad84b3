"""The paper's table beside what was measured: paper · measured · difference · 95 % interval."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ..data.files import write_atomic
from ..metrics.cards import Card
from ..metrics.judges import Judges, Scores

MARGIN = 0.15  # a method must close this much more of the style gap than colour matching does
# Student's t, two-sided 95 %, by degrees of freedom; rows have at most a handful of seeds
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Paper(NamedTuple):
    """The paper's figures for a row."""

    ssim: float
    lpips: float
    frechet: float


class Row(NamedTuple):
    """One trained row of the table."""

    recipe: str
    title: str
    paper: Paper | None


#: The paper's table, in its order; it has no row for attention without a discriminator.
ROWS = (
    Row("pixel-style", "pixel + style", Paper(0.72, 0.18, 45.2)),
    Row("single-layer", "content, single layer", Paper(0.85, 0.12, 32.7)),
    Row("multi-layer", "content, multi-layer", Paper(0.89, 0.10, 28.1)),
    Row("attention", "+ attention", None),
    Row("attention-adversarial", "+ attention + adversarial ¹", Paper(0.91, 0.09, 25.4)),
)
FOOTNOTE = (
    "¹ The paper's table calls this row “with attention”; "
    "its text says attention and adversarial training."
)


class Column(NamedTuple):
    """A figure of ``Scores`` in the table."""

    key: str
    title: str
    better: str
    paper: str | None  # field of ``Paper``
    digits: int = 3


@dataclass(frozen=True)
class Figure:
    """One cell: the mean over seeds, with its interval if there are several."""

    measured: float | None
    half_interval: float | None  # 95 %, over seeds
    paper: float | None

    @property
    def difference(self) -> float | None:
        """measured - paper."""
        if self.measured is None or self.paper is None:
            return None
        return self.measured - self.paper


@dataclass(frozen=True)
class Line:
    """One row with its figures by column key."""

    title: str
    control: bool
    figures: dict[str, Figure]
    note: str


@dataclass(frozen=True)
class Table:
    """Everything that is printed."""

    columns: list[Column]
    lines: list[Line]
    cards: list[Card]
    notes: list[str]


def make_columns(judges: Judges) -> list[Column]:
    """The table's columns, under the names the judges give them."""
    return [
        Column("ssim", "SSIM", "↑", "ssim"),
        Column("lpips", judges.lpips_name, "↓", "lpips"),
        # A stand-in's scale is its own: set beside the paper's FID it would only mislead.
        Column(
            "frechet",
            judges.frechet_name,
            "↓",
            "frechet" if judges.frechet_name == "FID" else None,
            1,
        ),
        Column("kernel", judges.kernel_name, "↓", None),
        Column("ssim_worst", "SSIM worst tenth", "↑", None),
        Column("style_gap", "style gap closed", "↑", None),
    ]


def make_line(
    title: str,
    seeds: Sequence[Scores],
    paper: Paper | None,
    columns: Sequence[Column],
    control: bool,
) -> Line:
    """A row from the scores of its seeds."""
    figures = {}
    for column in columns:
        values = [getattr(scores, column.key) for scores in seeds]
        reference = getattr(paper, column.paper) if paper and column.paper else None
        figures[column.key] = Figure(*mean_and_interval(values), reference)
    return Line(title, control, figures, "")


def mean_and_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and half the 95 % interval (Student's t) over seeds; None where not to be had."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if len(numbers) < len(values) or not numbers:
        return None, None
    if len(numbers) == 1:
        return numbers[0], None
    t = T95[min(len(numbers) - 2, len(T95) - 1)]
    return mean(numbers), t * stdev(numbers) / math.sqrt(len(numbers))


def mark_unstylized(lines: Sequence[Line], colour_gap: float) -> list[Line]:
    """Mark the trained rows that did not go clearly beyond matching colours."""
    marked = []
    for line in lines:
        gap = line.figures["style_gap"].measured
        lazy = not line.control and (gap is None or gap < colour_gap + MARGIN)
        marked.append(
            Line(line.title, line.control, line.figures, "did not stylise" if lazy else line.note)
        )
    return marked


def cell(figure: Figure, digits: int) -> str:
    """``paper · measured ± interval · difference`` as far as there is such a thing."""
    if figure.measured is None:
        return "n/a" if figure.paper is None else f"{figure.paper:g} · n/a"
    measured = f"{figure.measured:.{digits}f}"
    if figure.half_interval is not None:
        measured += f" ± {figure.half_interval:.{digits}f}"
    if figure.paper is None:
        return measured
    return f"{figure.paper:g} · **{measured}** · {figure.difference:+.{digits}f}"


def to_markdown(table: Table) -> str:
    """The table as Markdown."""
    head = [
        f"{c.title} {c.better}" + (" (paper · measured · difference)" if c.paper else "")
        for c in table.columns
    ]
    rows = [["row", *head, ""], ["---"] * (len(head) + 2)]
    for line in table.lines:
        title = f"*{line.title}*" if line.control else line.title
        cells = [cell(line.figures[c.key], c.digits) for c in table.columns]
        rows.append([title, *cells, line.note])
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return body + "\n\n" + "\n\n".join(table.notes) + "\n"


def to_csv(table: Table) -> str:
    """One line per row and figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["row", "control", "figure", "paper", "measured", "difference", "half_interval_95", "note"]
    )
    for line in table.lines:
        for column in table.columns:
            f = line.figures[column.key]
            writer.writerow(
                [
                    line.title,
                    line.control,
                    column.title,
                    f.paper,
                    f.measured,
                    f.difference,
                    f.half_interval,
                    line.note,
                ]
            )
    return buffer.getvalue()


def to_json(table: Table) -> str:
    """Everything, for programs."""
    return json.dumps(asdict(table), indent=1)


def write_table(table: Table, folder: Path, also_json: Path | None = None) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json`` into a folder."""
    write_atomic(folder / "table.md", to_markdown(table))
    write_atomic(folder / "table.csv", to_csv(table))
    for path in filter(None, (folder / "table.json", also_json)):
        write_atomic(path, to_json(table))


def to_text(table: Table) -> str:
    """The table for a terminal."""
    rows = [["", *(f"{c.title} {c.better}" for c in table.columns), ""]]
    rows += [
        [
            line.title,
            *(cell(line.figures[c.key], c.digits).replace("**", "") for c in table.columns),
            line.note,
        ]
        for line in table.lines
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return text + "\n\n(paper · measured · difference; else measured)\n" + "\n".join(table.notes)
