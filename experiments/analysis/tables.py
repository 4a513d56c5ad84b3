"""Tables of paper · measured · difference · 95 % interval, as Markdown, LaTeX and plain text.

The paper is 问答酱 (2025).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from textwrap import fill
from typing import NamedTuple

from tabulate import LATEX_ESCAPE_RULES, SEPARATING_LINE, tabulate

from ...metrics.cards import Card
from ...metrics.scores import MetricNetworks, Scores
from .intervals import mean_and_interval

LATEX = str.maketrans(
    {"±": r"$\pm$", "·": r"$\cdot$", "−": "$-$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    | {"|": r"\textbar{}", "¹": "$^1$", "é": r"\'e", "λ": r"$\lambda$", "’": "'"}
    | {"⟨": r"\shortstack[r]{", "⏎": r"\\", "⟩": "}"}  # a head of several lines
)

FLOAT = Template(r"""\begin{table}
\centering
\caption{$caption}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
$tabular}
\end{table}
""")


class Paper(NamedTuple):
    """Values of one row in the paper's table, with the paper's own digits."""

    ssim: str
    lpips: str
    frechet: str


class PaperRow(NamedTuple):
    """A trained row of the table."""

    recipe: str
    title: str
    paper: Paper | None
    baseline: str | None  # recipe of the row that it is compared with


#: Rows in the paper's order. The paper has no row for attention without a discriminator.
ROWS = (
    PaperRow("pixel-style", "pixel + style", Paper("0.72", "0.18", "45.2"), None),
    PaperRow("single-layer", "content, single layer", Paper("0.85", "0.12", "32.7"), "pixel-style"),
    PaperRow("multi-layer", "content, multi-layer", Paper("0.89", "0.10", "28.1"), "single-layer"),
    PaperRow("attention", "+ attention", None, "multi-layer"),
    PaperRow(
        "attention-adversarial",
        "+ attention + adversarial ¹",
        Paper("0.91", "0.09", "25.4"),
        "attention",
    ),
)
FOOTNOTE = (
    "¹ The paper's table calls this row “with attention”; "
    "its text says attention and adversarial training."
)


class Column(NamedTuple):
    """A metric in the table."""

    key: str  # field of ``Scores``
    title: str
    higher_is_better: bool | None
    paper: str | None  # field of ``Paper``
    digits: int = 3

    @property
    def arrow(self) -> str:
        """The direction of improvement."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def head(self) -> str:
        """Title with arrow."""
        return f"{self.title} {self.arrow}".strip()


@dataclass(frozen=True)
class Entry:
    """A value of the table: the mean over seeds, with its interval if there are several."""

    measured: float | None
    half_interval: float | None  # 95 %, over seeds
    paper: str | None  # as printed there

    @property
    def difference(self) -> float | None:
        """Measured − paper."""
        if self.measured is None or self.paper is None:
            return None
        return self.measured - float(self.paper)


@dataclass(frozen=True)
class TableRow:
    """A row with its entries by column key."""

    title: str
    control: bool
    entries: dict[str, Entry]
    note: str


@dataclass(frozen=True)
class Table:
    """Rows and columns with the cards of the metrics and notes to print below."""

    columns: list[Column]
    rows: list[TableRow]
    cards: list[Card]
    notes: list[str]


def make_columns(networks: MetricNetworks, boundaries: bool = False) -> list[Column]:
    """Return the table's columns, titled by the networks that compute the metrics.

    ``boundaries``: whether boundaries drawn by people are given.
    """
    fid = "frechet" if networks.frechet_name == "FID" else None  # other scales are not comparable
    columns = [
        Column("ssim", "SSIM", True, "ssim"),
        Column("lpips", networks.lpips_name, False, "lpips"),
        Column("frechet", networks.frechet_name, False, fid, 1),
        Column("kernel", networks.kernel_name, False, None),
        Column("ssim_worst", "SSIM worst tenth", True, None),
        Column("style_gap", "style gap closed", True, None),
    ]
    if other := networks.independent:
        columns += [
            Column("kernel_independent", f"KID ({other.name})", False, None),
            Column("style_gap_independent", f"style gap closed ({other.name})", True, None),
        ]
    if networks.saliency:
        columns += [
            Column("ssim_salient", "SSIM salient", True, None),
            Column("ssim_center", "SSIM center (control)", True, None),
        ]
    columns += [Column(metric.key, metric.title, False, None) for metric in networks.published]
    if networks.art:
        columns += [
            Column("art_frechet", "FID (ArtFID)", False, None),
            Column("art_fid", "ArtFID", False, None),
        ]
    if boundaries:
        columns.append(Column("boundaries", "boundaries kept", True, None))
    return columns


def make_table_row(
    title: str,
    seeds: Sequence[Scores],
    paper: Paper | None,
    columns: Sequence[Column],
    control: bool = False,
    minimum_gap: float = -math.inf,
) -> TableRow:
    """Return a row of means over seeds, marked if it closes less than a minimum style gap."""
    entries = {}
    for column in columns:
        reference = getattr(paper, column.paper) if paper and column.paper else None
        values = [getattr(scores, column.key) for scores in seeds]
        entries[column.key] = Entry(*mean_and_interval(values), reference)
    gap, _ = mean_and_interval([scores.style_gap for scores in seeds])
    stylized = control or gap is None or gap >= minimum_gap  # None: no pair has a style gap
    return TableRow(title, control, entries, "" if stylized else "below minimum stylization")


def entry_text(entry: Entry, digits: int) -> str:
    """Format ``paper · measured ± interval · difference``, without the parts that are missing."""
    if entry.measured is None:
        return "n/a" if entry.paper is None else f"{entry.paper} · n/a"
    measured = f"{entry.measured:.{digits}f}"
    if entry.half_interval is not None:
        measured += f" ± {entry.half_interval:.{digits}f}"
    if entry.paper is None:
        return measured
    return f"{entry.paper} · {measured} · {entry.difference:+.{digits}f}"


def _cells(row: TableRow, columns: Sequence[Column]) -> list[str]:
    return [entry_text(row.entries[c.key], c.digits) for c in columns]


def to_markdown(table: Table) -> str:
    """Format a table with its notes as Markdown; controls are in italics."""
    head = [c.head + (" (paper · measured · difference)" if c.paper else "") for c in table.columns]
    rows = [["row", *head, ""]]
    for row in table.rows:
        title = f"*{row.title}*" if row.control else row.title
        rows.append([title, *_cells(row, table.columns), row.note])
    return "\n\n".join([markdown(rows)] * bool(table.rows) + table.notes) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format cells, the head first, as a Markdown table."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return tabulate(rows, headers="firstrow", tablefmt="github", disable_numparse=True)


def to_latex(table: Table, caption: str) -> str:
    """Format a table for a paper, controls below a rule, notes as comments.

    It is shrunk to the width of the line; metrics without values are left out. Needs the packages
    booktabs and graphicx.
    """
    empty = Entry(None, None, None)
    columns = [c for c in table.columns if any(r.entries[c.key] != empty for r in table.rows)]
    notes = any(row.note for row in table.rows)
    rows: list[list[str] | str] = [["", *(c.head for c in columns), *[""] * notes]]
    for control in (False, True):
        part = [r for r in table.rows if r.control == control]
        rows += [SEPARATING_LINE] * bool(len(rows) > 1 and part)
        rows += [[r.title, *_cells(r, columns), *[r.note] * notes] for r in part]
    legend = ["paper · measured · difference"] * any(c.paper for c in columns)
    comments = [f"% {line}\n" for note in legend + table.notes for line in note.splitlines()]
    return latex(rows, caption) + "".join(comments)


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Format cells, the head first, as a float of LaTeX; escape them and the caption."""
    head, *body = rows
    head = [f"⟨{fill(cell, 18)}⟩".replace("\n", "⏎") if len(cell) > 18 else cell for cell in head]
    text = tabulate(
        body, head, tablefmt="latex_booktabs", disable_numparse=True,
        colalign=["left", *["right"] * (len(head) - 1)],
    )  # fmt: skip
    caption = caption.translate(str.maketrans(LATEX_ESCAPE_RULES))
    return FLOAT.substitute(caption=caption, tabular=text).translate(LATEX)


def to_text(table: Table) -> str:
    """Format a table with its notes for a terminal."""
    rows = [["", *(c.head for c in table.columns), ""]]
    rows += [[row.title, *_cells(row, table.columns), row.note] for row in table.rows]
    legend = ["(paper · measured · difference)"] * any(c.paper for c in table.columns)
    return "\n".join([plain(rows), ""] * bool(table.rows) + legend + table.notes)


def plain(rows: Sequence[Sequence[str]]) -> str:
    """Format cells, the head first, as aligned text."""
    return tabulate(
        rows, headers="firstrow", tablefmt="plain", disable_numparse=True, maxheadercolwidths=16
    )
