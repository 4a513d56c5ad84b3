import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from underdrawing.experiments.table import (
    FOOTNOTE,
    MARGIN,
    ROWS,
    Column,
    Figure,
    Line,
    Table,
    cell,
    make_columns,
    make_line,
    mark_unstylized,
    mean_and_interval,
    to_csv,
    to_json,
    to_markdown,
    to_text,
    write_table,
)
from underdrawing.metrics.judges import Judge, Judges, Scores, make_cards

CONTROL = "identity"


def judges(frechet: str = "Fréchet (toy)") -> Judges:
    judge = Judge(lambda images, layers: {}, [], lambda features: torch.empty(0), ("toy", ""))
    return Judges(judge, judge, judge, "LPIPS", frechet, "KID (toy)")


def scores(ssim: float = 0.8, style_gap: float = 0.5, frechet: float | None = None) -> Scores:
    return Scores(
        ssim=ssim,
        ssim_worst=ssim - 0.3,
        lpips=0.2,
        frechet=frechet,
        kernel=0.01,
        frechet_photos=None,
        style_gap=style_gap,
        pairs=48,
        left_out=0,
        per_pair={},
    )


def make_table(frechet: str = "Fréchet (toy)") -> Table:
    columns = make_columns(judges(frechet))
    lines = [
        make_line(
            row.title, [scores(0.7 + 0.01 * seed) for seed in range(3)], row.paper, columns, False
        )
        for row in ROWS
    ]
    lines = mark_unstylized(lines, colour_gap=0.4)
    lines.append(make_line(CONTROL, [scores(1.0, 0.0, 12.3)], None, columns, True))
    return Table(
        columns, lines, make_cards(judges(frechet), 48, 32, "64 px"), ["A note.", FOOTNOTE]
    )


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6, 10])
def test_the_interval_is_students(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(0.8, 0.05, seeds)
    mean, half = mean_and_interval(values.tolist())
    low, high = stats.t.interval(0.95, seeds - 1, values.mean(), stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert mean is not None
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3)


def test_with_many_seeds_the_interval_is_rather_too_wide() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.05, 30)
    half = mean_and_interval(values.tolist())[1] or 0.0
    exact = stats.t.ppf(0.975, 29) * stats.sem(values)
    assert exact < half < 1.15 * exact


def test_one_seed_has_no_interval_and_equal_seeds_a_narrow_one() -> None:
    assert mean_and_interval([0.25]) == (0.25, None)
    assert mean_and_interval([0.25, 0.25, 0.25]) == (0.25, 0.0)


@pytest.mark.parametrize("values", [[], [None], [None, 0.5], [0.5, 0.6, None], [math.nan, 0.5]])
def test_a_seed_without_the_figure_makes_it_not_available(values: list[float | None]) -> None:
    assert mean_and_interval(values) == (None, None)


def test_the_difference_is_measured_minus_paper() -> None:
    assert Figure(0.75, None, 0.5).difference == 0.25
    assert Figure(0.25, 0.1, 0.5).difference == -0.25
    assert Figure(None, None, 0.5).difference is None
    assert Figure(0.5, None, None).difference is None


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(None, None, None), "n/a"),
        (Figure(None, None, 45.2), "45.2 · n/a"),
        (Figure(0.8, None, None), "0.800"),
        (Figure(0.8, 0.0123, None), "0.800 ± 0.012"),
        (Figure(0.8, None, 0.72), "0.72 · **0.800** · +0.080"),
        (Figure(0.7, 0.05, 0.72), "0.72 · **0.700 ± 0.050** · -0.020"),
    ],
)
def test_a_cell_says_what_there_is(figure: Figure, text: str) -> None:
    assert cell(figure, 3) == text


def test_a_line_takes_means_over_seeds_and_the_papers_figures() -> None:
    columns = make_columns(judges("FID"))
    seeds = [scores(0.6, frechet=40.0), scores(0.8, frechet=50.0)]
    line = make_line(ROWS[0].title, seeds, ROWS[0].paper, columns, control=False)
    assert line.figures.keys() == {column.key for column in columns}
    assert line.figures["ssim"].measured == pytest.approx(0.7)
    assert line.figures["ssim"].difference == pytest.approx(-0.02)
    assert line.figures["ssim"].half_interval == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert line.figures["frechet"].measured == 45.0
    assert line.figures["frechet"].paper == 45.2
    assert line.figures["style_gap"].paper is line.figures["kernel"].paper is None


def test_a_figure_missing_for_one_seed_is_missing() -> None:
    seeds = [scores(frechet=40.0), scores(frechet=None)]
    line = make_line("row", seeds, ROWS[0].paper, make_columns(judges("FID")), control=False)
    assert line.figures["frechet"] == Figure(None, None, 45.2)


def test_a_row_that_the_paper_lacks_has_no_difference() -> None:
    (row,) = (row for row in ROWS if row.paper is None)
    line = make_line(row.title, [scores()], row.paper, make_columns(judges("FID")), control=False)
    assert all(figure.paper is figure.difference is None for figure in line.figures.values())


def test_a_stand_in_is_never_set_beside_the_papers_fid() -> None:
    for name, paper in (("FID", "frechet"), ("Fréchet (VGG16 relu4_3)", None)):
        (column,) = (c for c in make_columns(judges(name)) if c.key == "frechet")
        assert (column.title, column.paper) == (name, paper)
    stand_in = make_table("Fréchet (toy)")
    assert all(line.figures["frechet"].paper is None for line in stand_in.lines)
    for text in (to_markdown(stand_in), to_csv(stand_in), to_text(stand_in), to_json(stand_in)):
        assert "45.2" not in text
        assert "FID" not in text
    assert "45.2" in to_markdown(make_table("FID"))


def line(gap: float | None, control: bool = False, note: str = "") -> Line:
    return Line("row", control, {"style_gap": Figure(gap, None, None)}, note)


def test_rows_that_did_not_stylise_are_marked_up_to_the_margin() -> None:
    edge = 0.25 + MARGIN
    gaps = [edge + 0.1, edge, np.nextafter(edge, 0), 0.0, -3.0, None]
    notes = [marked.note for marked in mark_unstylized([line(gap) for gap in gaps], 0.25)]
    assert MARGIN == 0.15
    assert notes == ["", "", *["did not stylise"] * 4]


def test_controls_are_never_marked_and_nothing_else_changes() -> None:
    lines = [line(None, control=True), line(0.0, control=True), line(0.9, note="kept")]
    assert mark_unstylized(lines, 0.25) == lines


def test_markdown_has_a_row_for_each_line_and_as_many_cells_as_columns() -> None:
    table = make_table()
    body, *notes = to_markdown(table).strip().split("\n\n")
    rows = [row.strip("|").split("|") for row in body.splitlines()]
    assert {len(row) for row in rows} == {len(table.columns) + 2}
    titles = [row[0].strip() for row in rows[2:]]
    assert titles == [*(row.title for row in ROWS), f"*{CONTROL}*"]
    assert all(row[-1].strip() == "did not stylise" for row in rows[2:-1])
    assert rows[0][1].strip() == "SSIM ↑ (paper · measured · difference)"
    assert rows[0][6].strip() == "style gap closed ↑"
    assert rows[2][1].strip().startswith("0.72 · **0.710 ± ")
    assert [row[3].strip() for row in rows[2:]] == ["n/a"] * len(ROWS) + ["12.3"]
    assert notes == table.notes


def test_csv_reads_back() -> None:
    table = make_table("FID")
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(table.lines) * len(table.columns)
    found = {(row["row"], row["figure"]): row for row in rows}
    for line in table.lines:
        for column in table.columns:
            row, figure = found[line.title, column.title], line.figures[column.key]
            for name, value in (
                ("paper", figure.paper),
                ("measured", figure.measured),
                ("difference", figure.difference),
                ("half_interval_95", figure.half_interval),
            ):
                assert row[name] == ("" if value is None else str(value))
            assert (row["control"], row["note"]) == (str(line.control), line.note)


def test_json_holds_everything() -> None:
    table = make_table()
    tree = json.loads(to_json(table))
    assert tree["lines"] == json.loads(json.dumps([asdict(line) for line in table.lines]))
    assert [Column(*column) for column in tree["columns"]] == table.columns
    assert [card["name"] for card in tree["cards"]] == [card.name for card in table.cards]
    assert tree["notes"] == table.notes
    assert tree["lines"][0]["figures"]["frechet"]["measured"] is None


def test_a_written_table_is_there_three_times_and_where_else_it_is_asked_for(
    tmp_path: Path,
) -> None:
    table, folder, elsewhere = make_table(), tmp_path / "new", tmp_path / "figures.json"
    write_table(table, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "table.md": to_markdown(table),
        "table.csv": to_csv(table),
        "table.json": to_json(table),
    }
    assert not elsewhere.exists()
    write_table(table, folder, elsewhere)
    assert elsewhere.read_text() == to_json(table)


def test_text_lines_up() -> None:
    table = make_table()
    head, *rows = to_text(table).split("\n\n")[0].splitlines()
    assert [row.split("  ")[0] for row in rows] == [line.title for line in table.lines]
    assert "**" not in to_text(table)
    for title, text in (
        ("SSIM", "0.72 ·"),
        ("Fréchet", "n/a"),
        ("KID", "0.010 ±"),
        ("style", "0.500"),
    ):
        assert rows[0][head.index(title) :].startswith(text)
    assert rows[-1][head.index("KID") :].startswith("0.010")
    assert all("n/a" in row for row in rows[:-1])
    assert all(note in to_text(table) for note in table.notes)
