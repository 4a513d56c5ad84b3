import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from underdrawing.experiments.ablations import ABLATIONS
from underdrawing.experiments.analysis import tables
from underdrawing.experiments.analysis.tables import (
    FOOTNOTE,
    ROWS,
    Entry,
    Table,
    make_columns,
    make_table_row,
    to_latex,
    to_markdown,
    to_text,
)
from underdrawing.metrics.scores import MetricNetworks, Scores, SecondNetwork

CONTROL = "identity"
MakeScores = Callable[..., Scores]


@pytest.fixture
def make_table(networks: MetricNetworks, make_scores: MakeScores) -> Callable[[str], Table]:
    def make(frechet: str = "Fréchet (toy)") -> Table:
        columns = make_columns(replace(networks, frechet_name=frechet))
        seeds = [make_scores(0.5, 0.7 + 0.01 * seed) for seed in range(3)]
        rows = [make_table_row(r.title, seeds, r.paper, columns, minimum_gap=0.6) for r in ROWS]
        control = make_scores(0.0, 1.0, frechet=12.3)
        rows.append(make_table_row(CONTROL, [control], None, columns, True, minimum_gap=0.6))
        return Table(columns, rows, [], ["A note.", FOOTNOTE])

    return make


def test_second_network_and_boundaries_have_columns(networks: MetricNetworks) -> None:
    second = SecondNetwork("other", networks.style, networks.pooled)
    columns = make_columns(replace(networks, independent=second), boundaries=True)
    assert [column.head for column in columns[-3:]] == [
        "KID (other) ↓", "style gap closed (other) ↑", "boundaries kept ↑"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "difference", "text"),
    [
        (Entry(None, None, None), None, "n/a"),
        (Entry(None, None, "45.2"), None, "45.2 · n/a"),
        (Entry(0.5, None, None), None, "0.500"),
        (Entry(0.5, 0.0123, None), None, "0.500 ± 0.012"),
        (Entry(0.75, None, "0.50"), 0.25, "0.50 · 0.750 · +0.250"),
        (Entry(0.25, 0.05, "0.50"), -0.25, "0.50 · 0.250 ± 0.050 · -0.250"),
    ],
)
def test_entry_shows_what_is_available(entry: Entry, difference: float | None, text: str) -> None:
    assert entry.difference == difference
    assert tables.entry_text(entry, 3) == text


def test_row_has_means_over_seeds_and_the_papers_values(
    networks: MetricNetworks, make_scores: MakeScores
) -> None:
    columns = make_columns(replace(networks, frechet_name="FID"))
    seeds = [make_scores(0.5, 0.6, frechet=40.0), make_scores(0.5, 0.8, frechet=50.0)]
    row = make_table_row("row", seeds, ROWS[0].paper, columns)
    assert row.entries.keys() == {column.key for column in columns}
    assert row.entries["ssim"].measured == pytest.approx(0.7)
    assert row.entries["ssim"].difference == pytest.approx(-0.02)
    assert row.entries["ssim"].half_interval == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert (row.entries["frechet"].measured, row.entries["frechet"].paper) == (45.0, "45.2")
    assert row.entries["style_gap"].paper is row.entries["kernel"].paper is None

    seeds[1] = make_scores(0.5, 0.8, frechet=None)
    row = make_table_row("row", seeds, ROWS[0].paper, columns)
    assert row.entries["frechet"] == Entry(None, None, "45.2")
    row = make_table_row("row", seeds, None, columns)
    assert all(entry.paper is entry.difference is None for entry in row.entries.values())


def test_only_fid_is_compared_with_the_papers(make_table: Callable[..., Table]) -> None:
    for form in (to_markdown, partial(to_latex, caption=""), to_text):
        other = form(make_table("Fréchet (VGG16 relu4_3)"))
        assert "45.2" not in other
        assert "FID" not in other
        assert "45.2" in form(make_table("FID"))


@pytest.mark.parametrize(
    ("gap", "control", "note"),
    [
        (0.4, False, ""), (0.399, False, "below minimum stylization"), (-3.0, True, ""),
        (-3.0, False, "below minimum stylization"),
    ],
)  # fmt: skip
def test_rows_below_the_minimum_style_gap_are_marked_but_controls_are_not(
    gap: float, control: bool, note: str, networks: MetricNetworks, make_scores: MakeScores
) -> None:
    columns, scores = make_columns(networks), [make_scores(gap, 0.8)]
    assert make_table_row("row", scores, None, columns, control, minimum_gap=0.4).note == note


def test_markdown_has_a_line_per_row_and_controls_in_italics(
    make_table: Callable[..., Table],
) -> None:
    table = make_table()
    body, *notes = to_markdown(table).strip().split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
    assert {len(line) for line in lines} == {len(table.columns) + 2}
    head, _, *rows = lines
    assert [row[0] for row in rows] == [*(row.title for row in ROWS), f"*{CONTROL}*"]
    assert [row[-1] for row in rows] == ["below minimum stylization"] * len(ROWS) + [""]
    assert head[1] == "SSIM ↑ (paper · measured · difference)"
    assert head[6] == "style gap closed ↑"
    assert rows[0][1].startswith("0.72 · 0.710 ± ")
    assert [row[3] for row in rows] == ["n/a"] * len(ROWS) + ["12.3"]
    assert notes == table.notes


def test_latex_has_controls_below_a_rule_and_notes_as_comments(
    make_table: Callable[..., Table],
) -> None:
    table = make_table()
    lines = [line.strip() for line in to_latex(table, "Title").splitlines()]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\\(top|mid|bottom)rule", line)]
    (head,), rows, (control,) = (lines[a + 1 : b] for a, b in pairwise(rules))
    assert len(rows) == len(ROWS)
    assert r"SSIM $\uparrow$" in head
    assert r"LPIPS $\downarrow$" in head
    assert r"0.72 $\cdot$ 0.710 $\pm$ 0.025 $\cdot$ -0.010" in rows[0]
    assert rows[-1].startswith("+ attention + adversarial $^1$ ")
    assert control.startswith(CONTROL)
    assert lines[-len(table.notes) :] == [f"% {note}" for note in table.notes]


def test_latex_escapes_special_characters(make_table: Callable[..., Table]) -> None:
    title = r"50_% of {A} & #3 $5 ~/a\b"
    row = tables.TableRow(title, False, {"style_gap": Entry(0.5, None, None)}, "")
    table = Table([tables.Column("style_gap", "gap", True, None)], [row], [], ["100 %\n#2"])
    text = to_latex(table, "A & b")
    assert r"\caption{A \& b}" in text
    assert text.endswith("% 100 %\n% #2\n")
    assert r"50\_\% of \{A\} \& \#3 \$5 \textasciitilde{}/a\textbackslash{}b" in text
    bare = re.sub(r"\\[{}$&%#_]", "", to_latex(make_table(), "") + text)
    assert bare.count("{") == bare.count("}") > 0
    assert all(line.count("$") % 2 == 0 for line in bare.splitlines())


def test_long_heads_are_wrapped_in_a_terminal() -> None:
    text = tables.plain([["", "KID (VGG16 relu4_3) ↓", "SSIM ↑"], ["on", "0.1", "0.9"]])
    assert [line.split() for line in text.splitlines()] == [
        ["KID", "(VGG16", "SSIM", "↑"], ["relu4_3)", "↓"], ["on", "0.1", "0.9"],
    ]  # fmt: skip


@pytest.mark.parametrize("title", [t for ablation in ABLATIONS.values() for t in ablation.values])
def test_titles_of_ablations_are_known_to_latex(title: str) -> None:
    assert tables.latex([["", "x"], [title, "1"]], title).isascii()


def test_latex_leaves_out_metrics_without_values_and_marks_rows(
    make_table: Callable[..., Table],
) -> None:
    table = make_table()
    assert "KID" in to_latex(table, "")
    for row in table.rows:
        row.entries["kernel"] = Entry(None, None, None)
    text = to_latex(replace(table, rows=[replace(table.rows[0], note="too weak")]), "")
    assert "KID" not in text
    assert "& too weak" in text


def test_table_without_rows_is_its_notes() -> None:
    empty = Table([], [], [], ["First note.", "Second note."])
    assert to_markdown(empty) == "First note.\n\nSecond note.\n"
    assert to_text(empty) == "First note.\nSecond note."
