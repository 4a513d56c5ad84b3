"""What a study found: rows at full strength, rows at matched style, and how they differ."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.files import write_atomic
from ..metrics.cards import Card
from ..metrics.judges import PER_PAIR, Scores
from .comparison import Curve, Difference, common_gap, difference
from .statistics import mean_and_interval
from .table import (
    MARGIN,
    Column,
    Figure,
    Line,
    Paper,
    Table,
    make_line,
    mark_unstylized,
    records,
    to_latex,
    to_markdown,
    to_text,
)

UNMATCHED = ("style_gap", "style_gap_independent", "frechet")  # no figures to compare at a gap
STRENGTH = Column("strength", "strength", "", None, 2)
FULL, MATCHED, DIFFERENCES = "At full strength", "At matched style", "Differences"


@dataclass(frozen=True)
class Findings:
    """Everything that is printed, drawn and kept."""

    title: str
    full: Table
    matched: Table
    at: float | None  # the style gap that rows are compared at
    differences: list[Difference]
    curves: dict[str, list[Curve]]  # by row, a curve a seed
    controls: dict[str, Scores]
    skipped: dict[str, str]  # rows without figures, and why


def make_findings(
    title: str,
    rows: Mapping[str, Sequence[Curve]],
    controls: Mapping[str, Scores],
    columns: Sequence[Column],
    cards: Sequence[Card],
    *,
    compare: Sequence[tuple[str, str]],
    papers: Mapping[str, Paper | None] | None = None,
    at: float | None = None,
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
) -> Findings:
    """Put scores into tables.

    Args:
        title: of the study.
        rows: each row's curves, one a seed.
        controls: scores of the control rows.
        columns, cards: of the figures.
        compare: pairs of rows (row, against).
        papers: the paper's figures by row.
        at: the style gap to compare at; without it, the largest that all rows reach.
        notes: more lines below the table.
        skipped: rows that could not be trained, and why.
    """
    least = controls["colour only"].style_gap + MARGIN
    at = common_gap(rows, least) if at is None else at
    lines = [
        make_line(name, [c.full for c in seeds], (papers or {}).get(name), columns, control=False)
        for name, seeds in rows.items()
    ]
    lines += [make_line(name, [s], None, columns, control=True) for name, s in controls.items()]
    lines = mark_unstylized(lines, controls["colour only"].style_gap)
    compared = [column for column in columns if column.key not in UNMATCHED]
    differences = [
        difference(rows, row, against, column.key, at)
        for row, against in compare
        if at is not None and row in rows and against in rows
        for column in compared
    ]
    told = [f"*{name}*: {why}" for name, why in (skipped or {}).items()]
    return Findings(
        title,
        Table(list(columns), lines, list(cards), [*notes, *told]),
        _matched(rows, compared, at),
        at,
        [d for d in differences if d.mean is not None],
        {name: list(seeds) for name, seeds in rows.items()},
        dict(controls),
        dict(skipped or {}),
    )


def _matched(
    rows: Mapping[str, Sequence[Curve]], columns: Sequence[Column], at: float | None
) -> Table:
    """The rows read off their curves at one style gap."""
    if at is None:
        return Table([], [], [], ["No row stylised, so there is no style to compare at."])
    plain = [column._replace(paper=None) for column in columns]
    lines = []
    for name, seeds in rows.items():
        figures = {
            column.key: Figure(*mean_and_interval([c.at(at, column.key) for c in seeds]), None)
            for column in plain
        }
        strengths = [curve.strength_at(at) for curve in seeds]
        figures[STRENGTH.key] = Figure(*mean_and_interval(strengths), None)
        lines.append(Line(name, False, figures, "not reached" if None in strengths else ""))
    note = f"Each row read off its content/style curve where it has closed {at:.2f} of the gap."
    return Table([*plain, STRENGTH], lines, [], [note])


# -- in words and files ---------------------------------------------------------------------------


def difference_rows(findings: Findings) -> list[list[str]]:
    """Head and rows of the differences; those beyond doubt are marked with a star."""
    columns = {column.key: column for column in findings.full.columns}
    rows = [["row", "less", "figure", "difference", "95 % over seeds", "95 % over pairs", ""]]
    for d in findings.differences:
        column = columns[d.key]
        assert d.mean is not None
        seeds = "one seed" if d.half_interval is None else f"± {d.half_interval:.{column.digits}f}"
        pairs = "–"
        if d.pairs_interval:
            pairs = " … ".join(f"{end:+.{column.digits}f}" for end in d.pairs_interval)
        rows.append(
            [d.row, d.against, f"{column.title} {column.better}", f"{d.mean:+.{column.digits}f}",
             seeds, pairs, verdict(d, column)]
        )  # fmt: skip
    return rows


def verdict(d: Difference, column: Column) -> str:
    """Better or worse, where that is beyond doubt."""
    if not d.decided or d.mean is None:
        return ""
    return "better" if (d.mean > 0) == (column.better == "↑") else "worse"


def differences_note(findings: Findings) -> str:
    """What the intervals are of."""
    seeds = max(map(len, findings.curves.values()), default=0)
    return (
        f"At a style gap of {findings.at}. Over seeds: Student's t of the differences of {seeds} "
        "seed(s), same start and same pictures. Over pairs: bootstrap of the test pairs"
        + (f" ({', '.join(c.title for c in findings.full.columns if c.key in PER_PAIR)})")
        + ", each sample matched anew. “better” and “worse” only where all intervals exclude zero."
    )


def findings_markdown(findings: Findings) -> str:
    """All tables as Markdown."""
    parts = [f"## {findings.title}", f"### {FULL}", to_markdown(findings.full)]
    parts += [f"### {MATCHED}", to_markdown(findings.matched)]
    if findings.differences:
        head, *rows = difference_rows(findings)
        bold = [[*row[:3], f"**{row[3]}**" if row[-1] else row[3], *row[4:]] for row in rows]
        lines = [head, ["---"] * len(head), *bold]
        parts += [f"### {DIFFERENCES}", "\n".join("| " + " | ".join(r) + " |" for r in lines)]
        parts += [differences_note(findings)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def findings_text(findings: Findings) -> str:
    """The tables for a terminal."""
    parts = [f"{FULL}:\n{to_text(findings.full)}", f"{MATCHED}:\n{to_text(findings.matched)}"]
    decided = [row for row in difference_rows(findings)[1:] if row[-1]]
    if findings.differences:
        lines = [f"{r[0]} less {r[1]}: {r[2]} {r[3]} ({r[-1]})" for r in decided]
        parts.append("Differences beyond doubt:\n" + "\n".join(lines or ["none"]))
    return "\n\n".join(parts)


def findings_csv(findings: Findings) -> str:
    """One line per row and figure, at full strength and at matched style."""
    buffer = io.StringIO()
    both = [("full", record) for record in records(findings.full)]
    both += [(f"style gap {findings.at}", record) for record in records(findings.matched)]
    writer = csv.DictWriter(buffer, ["read at", *both[0][1]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"read at": at} | record for at, record in both)
    return buffer.getvalue()


def findings_json(findings: Findings) -> str:
    """Everything but the single pairs, which the scores' own files have."""
    tree = asdict(findings)
    curves = [curve for seeds in tree["curves"].values() for curve in seeds]
    for scores in [*tree["controls"].values(), *(s for curve in curves for s in curve["scores"])]:
        del scores["per_pair"]
    return json.dumps(tree, indent=1)


def write_findings(findings: Findings, folder: Path, also_json: Path | None = None) -> None:
    """Write ``table.md``, ``.tex``, ``.csv`` and ``.json`` into a folder."""
    write_atomic(folder / "table.md", findings_markdown(findings))
    write_atomic(folder / "table.tex", to_latex(findings.full) + "\n" + to_latex(findings.matched))
    write_atomic(folder / "table.csv", findings_csv(findings))
    for path in filter(None, (folder / "table.json", also_json)):
        write_atomic(path, findings_json(findings))
