"""The result of a study: tables at full strength and at matched style, and differences of rows."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from ...data.files import write_atomic
from ...metrics.cards import Card
from ...metrics.scores import PER_PAIR, Scores
from . import tables
from .curves import Curve, Difference, common_gap, difference, point_difference
from .intervals import mean_and_interval
from .tables import Column, Entry, Paper, Table, TableRow, make_table_row

MARGIN = 0.15  # style gap that a method must close beyond color only to count as stylizing
UNMATCHED = ("style_gap", "frechet")  # not compared at matched style
STRENGTH = Column("strength", "strength", None, None, 2)
FULL, MATCHED, DIFFERENCES = "At full strength", "At matched style", "Differences"


@dataclass(frozen=True)
class Section:
    """An additional table of a study, with the differences it shows."""

    heading: str
    table: Table
    differences: list[Difference]
    gap: float | None = None  # style gap that the rows are read at


@dataclass(frozen=True)
class StudyResult:
    """Everything that is printed, plotted and stored of a study."""

    title: str
    full: Table
    matched: Table
    gap: float | None  # style gap that rows are compared at
    differences: list[Difference]
    curves: dict[str, list[Curve]]  # by row, one per seed
    controls: dict[str, Scores]
    skipped: dict[str, str]  # rows without results, and why
    sections: list[Section] = field(default_factory=list)

    def all_sections(self) -> list[Section]:
        """Return every table with its differences."""
        matched = Section(MATCHED, self.matched, self.differences, self.gap)
        return [Section(FULL, self.full, []), matched, *self.sections]


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
    gap: float | None = None,
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
    sections: Sequence[Section] = (),
) -> StudyResult:
    """Build the tables of a study from its scores.

    Args:
        title, columns, cards, notes, sections: what to print.
        rows: curves of the trained rows, one per seed.
        controls: scores of the control rows, ``color only`` among them.
        compare: (row, baseline) pairs; those with a row that has no curve are left out.
        papers: the paper's values by row.
        points: scores of methods without a curve; all rows are also compared at their style gaps.
        gap: style gap to compare at; default: ``common_gap``.
        skipped: rows without results, and why.
    """
    papers, points, skipped = papers or {}, points or {}, skipped or {}
    control = controls["color only"]
    minimum = control.style_gap + MARGIN
    gap = common_gap(rows, minimum) if gap is None else gap
    trained = {name: [curve.full for curve in seeds] for name, seeds in rows.items()}
    trained |= {name: [scores] for name, scores in points.items()}
    full = [
        make_table_row(n, s, papers.get(n), columns, False, minimum) for n, s in trained.items()
    ]
    full += [make_table_row(n, [s], None, columns, control=True) for n, s in controls.items()]
    if control.left_out:
        excluded = f"{control.left_out} of {control.pairs} pairs"
        notes = [*notes, f"{excluded} have no style gap, as photo and painting are too similar."]
    all_notes = [*notes, *(f"{name}: {why}" for name, why in skipped.items())]
    matched = [column._replace(paper=None) for column in columns if column.key not in UNMATCHED]
    differences = [
        difference(rows, row, baseline, column.key, gap)
        for row, baseline in compare
        if gap is not None and row in rows and baseline in rows
        for column in matched
    ]
    at_points = [
        point_section(name, points, rows, matched)
        for name, scores in points.items()
        if rows and not math.isnan(scores.style_gap)
    ]
    return StudyResult(
        title,
        Table(list(columns), full, list(cards), all_notes),
        matched_table(rows, matched, gap),
        gap,
        [d for d in differences if d.mean is not None],
        {name: list(seeds) for name, seeds in rows.items()},
        dict(controls),
        dict(skipped),
        [*at_points, *sections],
    )


def matched_table(
    rows: Mapping[str, Sequence[Curve]], columns: Sequence[Column], gap: float | None
) -> Table:
    """Return the rows' metrics, interpolated at one style gap."""
    if gap is None or not rows:
        note = "No curve reached the minimum style gap; matched-style comparison skipped."
        return Table([], [], [], [note])
    columns, lines = [*columns, STRENGTH], []
    for name, seeds in rows.items():
        entries = {
            c.key: Entry(*mean_and_interval([curve.at(gap, c.key) for curve in seeds]), None)
            for c in columns
        }
        note = "not reached" if entries[STRENGTH.key].measured is None else ""
        lines.append(TableRow(name, False, entries, note))
    note = f"Interpolated on each method's content/style curve, at style gap closed = {gap:.3f}."
    return Table(columns, lines, [], [note])


def point_section(
    point: str,
    points: Mapping[str, Scores],
    rows: Mapping[str, Sequence[Curve]],
    columns: Sequence[Column],
) -> Section:
    """Return a method without a curve beside all rows at the style gap of the method."""
    table = matched_table(rows, columns, points[point].style_gap)
    line = make_table_row(point, [points[point]], None, columns)
    line.entries[STRENGTH.key] = Entry(None, None, None)
    differences = [point_difference(points, rows, point, r, c.key) for r in rows for c in columns]
    return Section(
        f"At the style gap of {point}",
        replace(table, rows=[line, *table.rows]),
        [d for d in differences if d.mean is not None],
        points[point].style_gap,
    )


# -- text and files -------------------------------------------------------------------------------


def verdict(d: Difference, column: Column) -> str:
    """Return "better" or "worse" for a significant difference, else nothing."""
    if not d.significant or d.mean is None:
        return ""
    return "better" if (d.mean > 0) == column.higher_is_better else "worse"


def difference_rows(
    differences: Sequence[Difference], columns: Sequence[Column], bold: str = ""
) -> list[list[str]]:
    """Return head and rows of differences; ``bold`` encloses significant values."""
    by_key = {column.key: column for column in columns}
    rows = [["row", "vs.", "metric", "difference", "95 % over seeds", "95 % over pairs", ""]]
    for d in differences:
        column, digits = by_key[d.key], by_key[d.key].digits
        seeds = "one seed" if d.half_interval is None else f"± {d.half_interval:.{digits}f}"
        pairs = " … ".join(f"{end:+.{digits}f}" for end in d.pairs_interval or ()) or "–"
        mark = bold if d.significant else ""
        value = f"{mark}{d.mean:+.{digits}f}{mark}"
        rows.append([d.row, d.against, column.head, value, seeds, pairs, verdict(d, column)])
    return rows


def differences_note(result: StudyResult) -> str:
    """Return how the intervals of the differences were computed."""
    seeds = max(map(len, result.curves.values()), default=0)
    over_seeds = f"Student's t of the paired differences of {seeds} seeds (same start and images)"
    if seeds < 2:
        over_seeds = "not available with one seed, so no difference is called significant"
    metrics = [c.title for c in result.full.columns if c.key in PER_PAIR and c.key not in UNMATCHED]
    return (
        f"At style gap closed = {result.gap:.3f}. Interval over seeds: {over_seeds}. Interval over "
        "pairs: pigeonhole bootstrap of photos and paintings (Owen 2007), each sample matched by "
        f"its own curve ({', '.join(metrics)}). “better” and “worse” only where all intervals "
        "exclude zero."
    )


def result_markdown(result: StudyResult) -> str:
    """Format all tables as Markdown."""
    parts = [f"## {result.title}"]
    for section in result.all_sections():
        parts += [f"### {section.heading}", tables.to_markdown(section.table)]
        if section.differences:
            rows = difference_rows(section.differences, result.full.columns, bold="**")
            parts += [f"#### {DIFFERENCES}", tables.markdown(rows)]
    if result.differences:
        parts.append(differences_note(result))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def result_text(result: StudyResult) -> str:
    """Format all tables for a terminal."""
    parts = []
    for section in result.all_sections():
        if section.heading == MATCHED and len(result.curves) < 2:
            continue
        parts.append(f"{section.heading}:\n{tables.to_text(section.table)}")
        if section.differences:
            parts.append(tables.plain(difference_rows(section.differences, result.full.columns)))
    return "\n\n".join(parts)


def result_csv(result: StudyResult) -> str:
    """Return one line per table, row and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("paper", "measured", "difference", "half_interval")
    writer.writerow(["table", "style gap", "row", "control", "metric", *names, "note"])
    for section in result.all_sections():
        head = [section.heading, section.gap]
        for row, column in product(section.table.rows, section.table.columns):
            values = [getattr(row.entries[column.key], name) for name in names]
            writer.writerow([*head, row.title, row.control, column.title, *values, row.note])
    return buffer.getvalue()


def result_latex(result: StudyResult) -> str:
    """Format all tables for a paper."""
    parts = []
    for section in result.all_sections():
        if section.table.rows:
            parts.append(tables.to_latex(section.table, section.heading))
        if section.differences:
            rows = difference_rows(section.differences, result.full.columns)
            parts.append(tables.latex(rows, f"{section.heading}: {DIFFERENCES.lower()}"))
    return "\n".join(parts)


def write_result(result: StudyResult, folder: Path) -> None:
    """Write ``table.md``, ``.csv`` and ``.json`` into a folder."""
    write_atomic(folder / "table.md", result_markdown(result))
    write_atomic(folder / "table.csv", result_csv(result))
    write_atomic(folder / "table.json", json.dumps(result_tree(result), indent=1))


def result_tree(result: StudyResult) -> dict[str, Any]:
    """Return a result as JSON values, with the paper's values, without the scores per pair; a NaN,
    which JSON cannot express, is None.
    """
    tree = asdict(result)
    curves = [curve for seeds in tree["curves"].values() for curve in seeds]
    for scores in [*tree["controls"].values(), *(s for curve in curves for s in curve["scores"])]:
        for key in ("per_pair", "photo", "painting"):  # the scores' own files have them
            del scores[key]
    numbers: dict[str, Any] = json.loads(json.dumps(tree), parse_constant=lambda _: None)
    return numbers
