"""The paper's table beside what was measured: paper · measured · difference · 95 % interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...metrics.cards import Card
from ...metrics.scores import MetricNetworks, Scores
from .intervals import mean_and_interval

MARGIN = 0.15  # a method must close this much more of the style gap than color matching does


class Paper(NamedTuple):
    """The paper's figures for a row."""

    ssim: float
    lpips: float
    frechet: float


class PaperRow(NamedTuple):
    """One trained row of the table."""

    recipe: str
    title: str
    paper: Paper | None
    against: tuple[str, ...] = ()  # recipes of the rows that it is compared with


#: The paper's table, in its order; it has no row for attention without a discriminator, nor for a
#: map that the painting itself follows, by its strength or in the decoder.
ROWS = (
    PaperRow("pixel-style", "pixel + style", Paper(0.72, 0.18, 45.2)),
    PaperRow("single-layer", "content, single layer", Paper(0.85, 0.12, 32.7), ("pixel-style",)),
    PaperRow("multi-layer", "content, multi-layer", Paper(0.89, 0.10, 28.1), ("single-layer",)),
    PaperRow("attention", "+ attention", None, ("multi-layer",)),
    PaperRow(
        "attention-strength",
        "+ attention, strength follows A",
        None,
        ("multi-layer", "attention"),
    ),
    PaperRow("attention-gate", "+ attention as a gate", None, ("multi-layer", "attention")),
    PaperRow(
        "attention-adversarial",
        "+ attention + adversarial ¹",
        Paper(0.91, 0.09, 25.4),
        ("attention",),
    ),
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
class Entry:
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
class TableRow:
    """One row with its figures by column key."""

    title: str
    control: bool
    figures: dict[str, Entry]
    note: str


@dataclass(frozen=True)
class Table:
    """Everything that is printed."""

    columns: list[Column]
    lines: list[TableRow]
    cards: list[Card]
    notes: list[str]


def make_columns(networks: MetricNetworks) -> list[Column]:
    """The table's columns, under the names the judges give them."""
    columns = [
        Column("ssim", "SSIM", "↑", "ssim"),
        Column("lpips", networks.lpips_name, "↓", "lpips"),
        # A stand-in's scale is its own: set beside the paper's FID it would only mislead.
        Column(
            "frechet",
            networks.frechet_name,
            "↓",
            "frechet" if networks.frechet_name == "FID" else None,
            1,
        ),
        Column("kernel", networks.kernel_name, "↓", None),
        Column("ssim_worst", "SSIM worst tenth", "↑", None),
        Column("style_gap", "style gap closed", "↑", None),
    ]
    if other := networks.independent:
        columns += [
            Column("kernel_independent", f"KID ({other.name})", "↓", None),
            Column("style_gap_independent", f"style gap closed ({other.name})", "↑", None),
        ]
    return columns


def make_table_row(
    title: str,
    seeds: Sequence[Scores],
    paper: Paper | None,
    columns: Sequence[Column],
    control: bool,
) -> TableRow:
    """A row from the scores of its seeds."""
    figures = {}
    for column in columns:
        values = [getattr(scores, column.key) for scores in seeds]
        reference = getattr(paper, column.paper) if paper and column.paper else None
        figures[column.key] = Entry(*mean_and_interval(values), reference)
    return TableRow(title, control, figures, "")


def mark_unstylized(lines: Sequence[TableRow], color_gap: float) -> list[TableRow]:
    """Mark the trained rows that did not go clearly beyond matching colors."""
    marked = []
    for line in lines:
        gap = line.figures["style_gap"].measured
        lazy = not line.control and (gap is None or gap < color_gap + MARGIN)
        marked.append(
            TableRow(
                line.title, line.control, line.figures, "did not stylize" if lazy else line.note
            )
        )
    return marked


def cell(figure: Entry, digits: int) -> str:
    """``paper · measured ± interval · difference`` as far as there is such a thing."""
    if figure.measured is None:
        return "n/a" if figure.paper is None else f"{figure.paper:g} · n/a"
    measured = f"{figure.measured:.{digits}f}"
    if figure.half_interval is not None:
        measured += f" ± {figure.half_interval:.{digits}f}"
    if figure.paper is None:
        return measured
    return f"{figure.paper:g} · {measured} · {figure.difference:+.{digits}f}"


def to_markdown(table: Table) -> str:
    """The table as Markdown; of one without rows, its notes."""
    if not table.lines:
        return "\n\n".join(table.notes) + "\n"
    head = [
        f"{c.title} {c.better}" + (" (paper · measured · difference)" if c.paper else "")
        for c in table.columns
    ]
    rows = [["row", *head, ""]]
    for line in table.lines:
        title = f"*{line.title}*" if line.control else line.title
        rows.append([title, *_cells(line, table.columns), line.note])
    return "\n\n".join([markdown(rows), *table.notes]) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the head first, as a Markdown table."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def to_latex(table: Table) -> str:
    """The table for a paper; needs the package booktabs."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    head = [f"{_tex(c.title)} {arrows.get(c.better, '')}".strip() for c in table.columns]
    body, controls = (
        [
            [_tex(line.title), *(_tex(cell) for cell in _cells(line, table.columns))]
            for line in table.lines
            if line.control == wanted
        ]
        for wanted in (False, True)
    )
    parts = ["\n".join(" & ".join(row) + r" \\" for row in part) for part in (body, controls)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * len(head)}}}",
            r"\toprule",
            " & ".join(["", *head]) + r" \\",
            r"\midrule",
            "\n\\midrule\n".join(filter(None, parts)),
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note}" for note in table.notes),
            "",
        ]
    )


def _tex(text: str) -> str:
    """Text as LaTeX."""
    signs = {"±": r"$\pm$", "·": r"$\cdot$", "−": "$-$", "¹": "$^1$", "é": r"\'e"}
    signs |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: rf"\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)


def to_text(table: Table) -> str:
    """The table for a terminal; of one without rows, its notes."""
    if not table.lines:
        return "\n".join(table.notes)
    rows = [["", *(f"{c.title} {c.better}" for c in table.columns), ""]]
    rows += [[line.title, *_cells(line, table.columns), line.note] for line in table.lines]
    cond_strength = ["(paper · measured · difference; else measured)"] * any(
        c.paper for c in table.columns
    )
    return "\n".join([aligned(rows), "", *cond_strength, *table.notes])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text whose columns line up."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cells(line: TableRow, columns: Sequence[Column]) -> list[str]:
    return [cell(line.figures[c.key], c.digits) for c in columns]


def records(table: Table) -> list[dict[str, object]]:
    """One record per row and figure, for a CSV file."""
    return [
        {
            "row": line.title,
            "control": line.control,
            "figure": column.title,
            "paper": figure.paper,
            "measured": figure.measured,
            "difference": figure.difference,
            "half_interval_95": figure.half_interval,
            "note": line.note,
        }
        for line in table.lines
        for column in table.columns
        for figure in [line.figures[column.key]]
    ]
