"""What a study found: rows at full strength, rows at matched style, and how they differ."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...data.files import write_atomic
from ...metrics.cards import Card
from ...metrics.scores import PER_PAIR, Scores
from .curves import Curve, Difference, common_gap, difference, point_difference
from .intervals import mean_and_interval
from .tables import (
    MARGIN,
    Column,
    Entry,
    Paper,
    Table,
    TableRow,
    aligned,
    make_table_row,
    mark_unstylized,
    markdown,
    records,
    to_latex,
    to_markdown,
    to_text,
)

UNMATCHED = ("style_gap", "frechet")  # no figures to compare at a gap
STRENGTH = Column("strength", "strength", "", None, 2)
FULL, MATCHED, DIFFERENCES = "At full strength", "At matched style", "Differences"


@dataclass(frozen=True)
class Section:
    """A table beside the two of a study, and the differences it shows."""

    heading: str
    table: Table
    differences: list[Difference]


@dataclass(frozen=True)
class StudyResult:
    """Everything that is printed, drawn and kept."""

    title: str
    full: Table
    matched: Table
    at: float | None  # the style gap that rows are compared at
    differences: list[Difference]
    curves: dict[str, list[Curve]]  # by row, a curve a seed
    controls: dict[str, Scores]
    skipped: dict[str, str]  # rows without figures, and why
    more: list[Section] = field(default_factory=list)


def make_study_result(
    title: str,
    rows: Mapping[str, Sequence[Curve]],
    controls: Mapping[str, Scores],
    columns: Sequence[Column],
    cards: Sequence[Card],
    *,
    compare: Sequence[tuple[str, str]],
    papers: Mapping[str, Paper | None] | None = None,
    points: Mapping[str, Scores] | None = None,
    at: float | None = None,
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
) -> StudyResult:
    """Put scores into tables.

    Args:
        title: of the study.
        rows: each row's curves, one a seed.
        controls: scores of the control rows.
        columns, cards: of the figures.
        compare: pairs of rows (row, against).
        papers: the paper's figures by row.
        points: scores of systems that have no curve; rows are read at each one's style gap.
        at: the style gap to compare at; without it, that of ``common_gap``.
        notes: more lines below the table.
        skipped: rows that could not be trained, and why.
    """
    least = controls["color only"].style_gap + MARGIN
    at = common_gap(rows, least) if at is None else at
    lines = [
        make_table_row(
            name, [c.full for c in seeds], (papers or {}).get(name), columns, control=False
        )
        for name, seeds in rows.items()
    ]
    points = points or {}
    lines += [make_table_row(name, [s], None, columns, control=False) for name, s in points.items()]
    lines += [
        make_table_row(name, [s], None, columns, control=True) for name, s in controls.items()
    ]
    lines = mark_unstylized(lines, controls["color only"].style_gap)
    compared = [column for column in columns if column.key not in UNMATCHED]
    differences = [
        difference(rows, row, against, column.key, at)
        for row, against in compare
        if at is not None and row in rows and against in rows
        for column in compared
    ]
    cond_strength = [f"*{name}*: {why}" for name, why in (skipped or {}).items()]
    return StudyResult(
        title,
        Table(list(columns), lines, list(cards), [*notes, *cond_strength]),
        matched_table(rows, compared, at),
        at,
        [d for d in differences if d.mean is not None],
        {name: list(seeds) for name, seeds in rows.items()},
        dict(controls),
        dict(skipped or {}),
        [beside(name, points, rows, compared) for name in points if rows],
    )


def beside(
    point: str,
    points: Mapping[str, Scores],
    rows: Mapping[str, Sequence[Curve]],
    columns: Sequence[Column],
) -> Section:
    """A system without a curve, and what every row keeps where it has closed as much of the gap."""
    gap = points[point].style_gap
    table, plain = matched_table(rows, columns, gap), [c._replace(paper=None) for c in columns]
    line = make_table_row(point, [points[point]], None, plain, control=False)
    line.figures[STRENGTH.key] = Entry(None, None, None)
    differences = [
        point_difference(points, rows, point, row, column.key) for row in rows for column in columns
    ]
    return Section(
        f"At the style gap of {point}",
        replace(table, lines=[line, *table.lines]),
        [d for d in differences if d.mean is not None],
    )


def matched_table(
    rows: Mapping[str, Sequence[Curve]], columns: Sequence[Column], at: float | None
) -> Table:
    """The rows read off their curves at one style gap."""
    if not rows:
        return Table([], [], [], ["No row has a curve."])
    if at is None:
        return Table([], [], [], ["No row stylized, so there is no style to compare at."])
    plain = [column._replace(paper=None) for column in columns]
    lines = []
    for name, seeds in rows.items():
        figures = {
            column.key: Entry(*mean_and_interval([c.at(at, column.key) for c in seeds]), None)
            for column in plain
        }
        strengths = [curve.strength_at(at) for curve in seeds]
        figures[STRENGTH.key] = Entry(*mean_and_interval(strengths), None)
        lines.append(TableRow(name, False, figures, "not reached" if None in strengths else ""))
    note = f"Each row read off its content/style curve where it has closed {at:.3g} of the gap."
    return Table([*plain, STRENGTH], lines, [], [note])


# -- in words and files ---------------------------------------------------------------------------


def difference_rows(
    differences: Sequence[Difference], columns: Sequence[Column]
) -> list[list[str]]:
    """Head and rows of differences; those beyond doubt end with their verdict."""
    by_key = {column.key: column for column in columns}
    rows = [["row", "less", "figure", "difference", "95 % over seeds", "95 % over pairs", ""]]
    for d in differences:
        column = by_key[d.key]
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


def differences_note(result: StudyResult) -> str:
    """What the intervals are of."""
    seeds = max(map(len, result.curves.values()), default=0)
    of_seeds = f"Student's t of the differences of {seeds} seeds, same start and same pictures"
    columns = [c for c in result.full.columns if c.key in PER_PAIR and c.key not in UNMATCHED]
    return (
        f"At a style gap of {result.at}. Over seeds: "
        f"{of_seeds if seeds > 1 else 'one seed each, so none, and no verdict on methods'}. "
        "Over pairs: bootstrap in which photos and paintings are each drawn anew, and a pair "
        "counts as often as its photo times its painting was drawn (pigeonhole bootstrap, Owen "
        f"2007), each sample matched anew ({', '.join(c.title for c in columns)}). "
        "“better” and “worse” only where all intervals exclude zero."
    )


def result_markdown(result: StudyResult) -> str:
    """All tables as Markdown."""
    parts = [f"## {result.title}", f"### {FULL}", to_markdown(result.full)]
    parts += [f"### {MATCHED}", to_markdown(result.matched)]
    columns = result.full.columns
    if result.differences:
        parts += [f"### {DIFFERENCES}", _differences_markdown(result.differences, columns)]
        parts += [differences_note(result)]
    for section in result.more:
        parts += [f"### {section.heading}", to_markdown(section.table)]
        if section.differences:
            parts.append(_differences_markdown(section.differences, columns))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _differences_markdown(differences: Sequence[Difference], columns: Sequence[Column]) -> str:
    head, *rows = difference_rows(differences, columns)
    bold = [[*row[:3], f"**{row[3]}**" if row[-1] else row[3], *row[4:]] for row in rows]
    return markdown([head, *bold])


def result_text(result: StudyResult) -> str:
    """The tables for a terminal."""
    parts = [f"{FULL}:\n{to_text(result.full)}", f"{MATCHED}:\n{to_text(result.matched)}"]
    rows = difference_rows(result.differences, result.full.columns)
    decided = [row for row in rows[1:] if row[-1]]
    if result.differences:
        lines = [f"{r[0]} less {r[1]}: {r[2]} {r[3]} ({r[-1]})" for r in decided]
        parts.append("Differences beyond doubt:\n" + "\n".join(lines or ["none"]))
    return "\n\n".join(parts)


def section_text(section: Section, columns: Sequence[Column]) -> str:
    """A table with its differences, all of them, for a terminal; ``columns`` are the figures."""
    parts = [f"{section.heading}:\n{to_text(section.table)}".rstrip()]
    if section.differences:
        parts.append(aligned(difference_rows(section.differences, columns)))
    return "\n\n".join(parts)


def result_csv(result: StudyResult) -> str:
    """One line per row and figure, of every table."""
    buffer = io.StringIO()
    tables = [("full", result.full), (f"style gap {result.at}", result.matched)]
    tables += [(section.heading, section.table) for section in result.more]
    lines = [{"read at": at} | record for at, table in tables for record in records(table)]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def result_json(result: StudyResult) -> str:
    """Everything but the single pairs, which the scores' own files have."""
    tree = asdict(result)
    curves = [curve for seeds in tree["curves"].values() for curve in seeds]
    for scores in [*tree["controls"].values(), *(s for curve in curves for s in curve["scores"])]:
        for key in ("per_pair", "photo", "painting"):
            del scores[key]
    return json.dumps(tree, indent=1)


def write_result(result: StudyResult, folder: Path, also_json: Path | None = None) -> None:
    """Write ``table.md``, ``.tex``, ``.csv`` and ``.json`` into a folder."""
    write_atomic(folder / "table.md", result_markdown(result))
    tables = [result.full, result.matched, *(section.table for section in result.more)]
    write_atomic(folder / "table.tex", "\n".join(to_latex(t) for t in tables if t.lines))
    write_atomic(folder / "table.csv", result_csv(result))
    for path in filter(None, (folder / "table.json", also_json)):
        write_atomic(path, result_json(result))
