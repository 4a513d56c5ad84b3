import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from underdrawing.experiments.analysis.tables import (
    FOOTNOTE,
    MARGIN,
    ROWS,
    Column,
    Entry,
    Table,
    TableRow,
    aligned,
    cell,
    make_columns,
    make_table_row,
    mark_unstylized,
    records,
    to_latex,
    to_markdown,
    to_text,
)
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, Scores, make_cards

CONTROL = "identity"


def networks(frechet: str = "Fréchet (toy)") -> MetricNetworks:
    extractor = FeatureExtractor(
        lambda images, layers: {}, [], lambda features: torch.empty(0), ("toy", "")
    )
    return MetricNetworks(extractor, extractor, extractor, "LPIPS", frechet, "KID (toy)")


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
        photo=[],
        painting=[],
    )


def make_table(frechet: str = "Fréchet (toy)") -> Table:
    columns = make_columns(networks(frechet))
    lines = [
        make_table_row(
            row.title, [scores(0.7 + 0.01 * seed) for seed in range(3)], row.paper, columns, False
        )
        for row in ROWS
    ]
    lines = mark_unstylized(lines, color_gap=0.4)
    lines.append(make_table_row(CONTROL, [scores(1.0, 0.0, 12.3)], None, columns, True))
    return Table(
        columns, lines, make_cards(networks(frechet), 48, 32, "64 px"), ["A note.", FOOTNOTE]
    )


def test_the_difference_is_measured_minus_paper() -> None:
    assert Entry(0.75, None, 0.5).difference == 0.25
    assert Entry(0.25, 0.1, 0.5).difference == -0.25
    assert Entry(None, None, 0.5).difference is None
    assert Entry(0.5, None, None).difference is None


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Entry(None, None, None), "n/a"),
        (Entry(None, None, 45.2), "45.2 · n/a"),
        (Entry(0.8, None, None), "0.800"),
        (Entry(0.8, 0.0123, None), "0.800 ± 0.012"),
        (Entry(0.8, None, 0.72), "0.72 · 0.800 · +0.080"),
        (Entry(0.7, 0.05, 0.72), "0.72 · 0.700 ± 0.050 · -0.020"),
    ],
)
def test_a_cell_says_what_there_is(figure: Entry, text: str) -> None:
    assert cell(figure, 3) == text


def test_a_line_takes_means_over_seeds_and_the_papers_figures() -> None:
    columns = make_columns(networks("FID"))
    seeds = [scores(0.6, frechet=40.0), scores(0.8, frechet=50.0)]
    line = make_table_row(ROWS[0].title, seeds, ROWS[0].paper, columns, control=False)
    assert line.figures.keys() == {column.key for column in columns}
    assert line.figures["ssim"].measured == pytest.approx(0.7)
    assert line.figures["ssim"].difference == pytest.approx(-0.02)
    assert line.figures["ssim"].half_interval == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert line.figures["frechet"].measured == 45.0
    assert line.figures["frechet"].paper == 45.2
    assert line.figures["style_gap"].paper is line.figures["kernel"].paper is None


def test_a_figure_missing_for_one_seed_is_missing() -> None:
    seeds = [scores(frechet=40.0), scores(frechet=None)]
    line = make_table_row("row", seeds, ROWS[0].paper, make_columns(networks("FID")), control=False)
    assert line.figures["frechet"] == Entry(None, None, 45.2)


def test_a_row_that_the_paper_lacks_has_no_difference() -> None:
    row = next(row for row in ROWS if row.paper is None)
    line = make_table_row(
        row.title, [scores()], row.paper, make_columns(networks("FID")), control=False
    )
    assert all(figure.paper is figure.difference is None for figure in line.figures.values())


def test_a_stand_in_is_never_set_beside_the_papers_fid() -> None:
    for name, paper in (("FID", "frechet"), ("Fréchet (VGG16 relu4_3)", None)):
        (column,) = (c for c in make_columns(networks(name)) if c.key == "frechet")
        assert (column.title, column.paper) == (name, paper)
    stand_in = make_table("Fréchet (toy)")
    assert all(line.figures["frechet"].paper is None for line in stand_in.lines)
    for form in (to_markdown, to_latex, to_text, records):
        text = str(form(stand_in))
        assert "45.2" not in text
        assert "FID" not in text
    assert "45.2" in to_markdown(make_table("FID"))


def line(gap: float | None, control: bool = False, note: str = "") -> TableRow:
    return TableRow("row", control, {"style_gap": Entry(gap, None, None)}, note)


def test_rows_that_did_not_stylize_are_marked_up_to_the_margin() -> None:
    edge = 0.25 + MARGIN
    gaps = [edge + 0.1, edge, np.nextafter(edge, 0), 0.0, -3.0, None]
    notes = [marked.note for marked in mark_unstylized([line(gap) for gap in gaps], 0.25)]
    assert MARGIN == 0.15
    assert notes == ["", "", *["did not stylize"] * 4]


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
    assert all(row[-1].strip() == "did not stylize" for row in rows[2:-1])
    assert rows[0][1].strip() == "SSIM ↑ (paper · measured · difference)"
    assert rows[0][6].strip() == "style gap closed ↑"
    assert rows[2][1].strip().startswith("0.72 · 0.710 ± ")
    assert [row[3].strip() for row in rows[2:]] == ["n/a"] * len(ROWS) + ["12.3"]
    assert notes == table.notes


def test_there_is_a_record_for_every_row_and_figure() -> None:
    table = make_table("FID")
    rows = records(table)
    assert len(rows) == len(table.lines) * len(table.columns)
    found = {(row["row"], row["figure"]): row for row in rows}
    for line in table.lines:
        for column in table.columns:
            figure = line.figures[column.key]
            assert found[line.title, column.title] == {
                "row": line.title,
                "control": line.control,
                "figure": column.title,
                "paper": figure.paper,
                "measured": figure.measured,
                "difference": figure.difference,
                "half_interval_95": figure.half_interval,
                "note": line.note,
            }


def test_latex_has_a_row_for_each_line_and_the_controls_below_a_rule() -> None:
    table = make_table()
    lines = to_latex(table).splitlines()
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}"
    rules = [
        i for i, line in enumerate(lines) if line in (r"\toprule", r"\midrule", r"\bottomrule")
    ]
    assert [lines[i] for i in rules] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    head, rows, controls = (lines[a + 1 : b] for a, b in pairwise(rules))
    assert (len(head), len(rows), len(controls)) == (1, len(ROWS), 1)
    for row in head + rows + controls:
        assert row.count(" & ") == len(table.columns)
        assert row.endswith(r" \\")
    assert controls[0].startswith(CONTROL)
    assert r"SSIM $\uparrow$" in head[0]
    assert r"LPIPS $\downarrow$" in head[0]
    assert r"0.72 $\cdot$ 0.710 $\pm$ 0.025 $\cdot$ -0.010" in rows[0]
    assert rows[-1].startswith("+ attention + adversarial $^1$ & ")
    assert lines[-len(table.notes) :] == [f"% {note}" for note in table.notes]


def test_latex_is_balanced_and_escapes_what_it_would_read_as_its_own() -> None:
    nasty = r"50_% of {A} & #3 $5 ~/a\b^2"
    text = to_latex(Table([Column("style_gap", nasty, "↑", None)], [line(0.5)], [], []))
    escaped = r"50\_\% of \{A\} \& \#3 \$5 \textasciitilde{}/a\textbackslash{}b\textasciicircum{}2"
    assert escaped in text
    bare = re.sub(r"\\[{}$&%#_]", "", to_latex(make_table()) + text)
    assert bare.count("{") == bare.count("}") > 0
    assert all(row.count("$") % 2 == 0 for row in bare.splitlines())


def test_a_table_without_rows_is_its_notes() -> None:
    empty = Table([], [], [], ["Nothing stylized.", "So there is nothing."])
    assert to_markdown(empty) == "Nothing stylized.\n\nSo there is nothing.\n"
    assert to_text(empty) == "Nothing stylized.\nSo there is nothing."


def test_rows_of_cells_line_up() -> None:
    assert aligned([["a", "bb", ""], ["ccc", "d", "e"]]) == "a    bb\nccc  d   e"


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
