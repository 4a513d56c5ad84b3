import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from underdrawing.experiments.analysis.curves import Curve
from underdrawing.experiments.analysis.results import (
    DIFFERENCES,
    FULL,
    MATCHED,
    StudyResult,
    difference_rows,
    differences_note,
    make_study_result,
    result_json,
    result_markdown,
    result_text,
    section_text,
    write_result,
)
from underdrawing.experiments.analysis.tables import Paper, make_columns, to_latex
from underdrawing.metrics.scores import (
    FeatureExtractor,
    MetricNetworks,
    Scores,
    SecondNetwork,
    make_cards,
)

JUDGE = FeatureExtractor(
    lambda images, layers: {}, [], lambda features: torch.empty(0), ("toy", "")
)
JUDGES = MetricNetworks(JUDGE, JUDGE, JUDGE, "LPIPS", "FID", "KID (toy)")
COLUMNS = make_columns(JUDGES)
COMPARED = {"SSIM ↑", "LPIPS ↓", "KID (toy) ↓", "SSIM worst tenth ↑"}
NOISE = np.random.default_rng(0).normal(0, 0.05, 20)
ROWS = {"a": [0.5, 0.52, 0.51], "b": [0.3, 0.32, 0.31]}  # SSIM lost by style gap, by seed


def make_scores(gap: float, ssim: float) -> Scores:
    figures = {"ssim": ssim, "ssim_worst": ssim - 0.3, "lpips": 1 - ssim, "style_gap": gap}
    noise = (NOISE - NOISE.mean()) * gap
    return Scores(
        **figures, frechet=None, kernel=1 - gap, frechet_photos=None, pairs=20, left_out=0,
        per_pair={key: (value + noise).tolist() for key, value in figures.items()},
        photo=list(range(20)), painting=list(range(20)),
    )  # fmt: skip


def make_curve(price: float, reach: float = 0.61) -> Curve:
    gaps = (0.0, reach / 2, reach)
    return Curve((0.0, 0.5, 1.0), tuple(make_scores(gap, 1 - price * gap) for gap in gaps))


CONTROLS = {"identity": make_scores(0, 1), "color only": make_scores(0.2, 0.9)}


def find(rows: Mapping[str, Sequence[Curve]] | None = None, **options: object) -> StudyResult:
    by_price = {name: [make_curve(price) for price in prices] for name, prices in ROWS.items()}
    options = {"compare": [("b", "a")], "papers": {"a": Paper(0.7, 0.2, 45.2)}} | options
    cards = make_cards(JUDGES, 20, 12, "64 px")
    return make_study_result(
        "Toy", by_price if rows is None else rows, CONTROLS, COLUMNS, cards, **options  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_full_table_has_rows_then_points_then_controls() -> None:
    found = find(points={"theirs": make_scores(0.3, 0.8), "still": make_scores(0.21, 0.9)})
    titles = [(line.title, line.control, line.note) for line in found.full.lines]
    assert titles == [
        ("a", False, ""),
        ("b", False, ""),
        ("theirs", False, "did not stylize"),
        ("still", False, "did not stylize"),
        ("identity", True, ""),
        ("color only", True, ""),
    ]
    assert found.full.lines[0].figures["ssim"].measured == pytest.approx(1 - 0.51 * 0.61)
    assert found.full.lines[0].figures["ssim"].paper == 0.7


def test_rows_are_matched_where_all_that_stylized_have_come() -> None:
    rows = {
        "a": [make_curve(0.5)],
        "b": [make_curve(0.3, reach=0.456)],
        "lazy": [make_curve(1, 0.3)],
    }
    found = find(rows)
    assert found.at is not None
    assert found.at == pytest.approx(0.44, abs=0.015)  # as far as nearly all samples get
    a, b, lazy = found.matched.lines
    assert a.figures["ssim"].measured == pytest.approx(1 - 0.5 * found.at)
    assert b.figures["ssim"].measured == pytest.approx(1 - 0.3 * found.at)
    assert a.figures["strength"].measured == pytest.approx(found.at / 0.61)
    assert lazy.figures["ssim"].measured is None
    assert [line.note for line in found.matched.lines] == ["", "", "not reached"]
    assert all(
        figure.paper is None for line in found.matched.lines for figure in line.figures.values()
    )
    assert {c.key for c in found.matched.columns}.isdisjoint({"style_gap", "frechet"})


def test_a_gap_that_is_asked_for_is_the_one_compared_at() -> None:
    found = find(at=0.2)
    assert found.at == 0.2
    assert found.matched.lines[0].figures["ssim"].measured == pytest.approx(1 - 0.51 * 0.2)


def test_without_a_row_that_stylized_there_is_nothing_to_compare() -> None:
    found = find({"a": [make_curve(0.5, 0.3)], "b": [make_curve(0.4, 0.2)]})
    assert (found.at, found.matched.lines, found.differences) == (None, [], [])
    assert "No row stylized" in found.matched.notes[0]
    assert result_markdown(found).count("did not stylize") == 2


def test_differences_say_which_is_better_only_where_that_is_beyond_doubt() -> None:
    head, *rows = difference_rows(find().differences, COLUMNS)
    assert len(head) == len(rows[0])
    assert {row[2] for row in rows} == COMPARED
    verdicts = {row[2]: row[-1] for row in rows}
    assert verdicts["SSIM ↑"] == verdicts["LPIPS ↓"] == "better"
    assert verdicts["KID (toy) ↓"] == ""  # the same at any price
    back = find(compare=[("a", "b")]).differences
    assert [row[-1] for row in difference_rows(back, COLUMNS) if row[2] == "SSIM ↑"] == ["worse"]


def test_one_seed_alone_decides_nothing_and_that_is_said() -> None:
    found = find({name: [make_curve(prices[0])] for name, prices in ROWS.items()})
    rows = difference_rows(found.differences, COLUMNS)[1:]
    assert {row[-1] for row in rows} == {""}
    assert {row[4] for row in rows} == {"one seed"}
    assert all("…" in row[5] for row in rows if row[2] == "SSIM ↑")
    assert "one seed each" in differences_note(found)
    assert "of 3 seeds" in differences_note(find())


def test_the_note_says_what_is_resampled_and_for_which_figures() -> None:
    note = differences_note(find())
    assert "photos and paintings are each drawn anew" in note
    assert "pigeonhole bootstrap" in note
    assert "(SSIM, LPIPS, SSIM worst tenth)" in note


def test_the_independent_networks_style_gap_is_compared_pair_by_pair() -> None:
    """Row b pleases the network that trains, and closes half as much of the gap to another."""

    def judged(curve: Curve, share: float) -> Curve:
        scores = [
            replace(
                s, style_gap_independent=share * s.style_gap,
                per_pair=s.per_pair
                | {"style_gap_independent": [share * gap for gap in s.per_pair["style_gap"]]},
            )
            for s in curve.scores
        ]  # fmt: skip
        return replace(curve, scores=tuple(scores))

    rows = {"a": [judged(make_curve(0.5), 0.8)] * 2, "b": [judged(make_curve(0.3), 0.4)] * 2}
    networks = replace(JUDGES, independent=SecondNetwork("other", JUDGE, JUDGE))
    controls = {name: judged(Curve((0.0,), (s,)), 1).full for name, s in CONTROLS.items()}
    points = {"theirs": judged(Curve((0.0,), (make_scores(0.4, 0.7),)), 0.6).full}
    found = make_study_result(
        "Toy",
        rows,
        controls,
        make_columns(networks),
        [],
        compare=[("b", "a")],
        at=0.5,
        points=points,
    )
    key, title = "style_gap_independent", "style gap closed (other)"
    a, b = (line.figures[key].measured for line in found.matched.lines)
    assert (a, b) == pytest.approx((0.4, 0.2))
    (gap,) = (d for d in found.differences if d.key == key)
    assert gap.mean == pytest.approx(-0.2)
    assert gap.pairs_interval == pytest.approx((-0.2, -0.2))  # a pair's gap is matched with it
    (row,) = (r for r in difference_rows(found.differences, found.full.columns) if title in r[2])
    assert row[-1] == "worse"
    (beside,) = (d for d in found.more[0].differences if (d.key, d.against) == (key, "b"))
    assert beside.mean == pytest.approx(0.08)
    assert beside.pairs_interval == pytest.approx((0.08, 0.08), abs=0.02)
    assert title in differences_note(found)


def test_rows_are_read_at_the_style_gap_of_each_point() -> None:
    found = find(points={"theirs": make_scores(0.4, 0.75), "far": make_scores(0.9, 0.2)})
    theirs, far = found.more
    assert theirs.heading == "At the style gap of theirs"
    assert [line.title for line in theirs.table.lines] == ["theirs", "a", "b"]
    point, a, b = (line.figures["ssim"].measured for line in theirs.table.lines)
    assert (point, a, b) == pytest.approx((0.75, 1 - 0.51 * 0.4, 1 - 0.31 * 0.4))
    ssim = {d.against: d for d in theirs.differences if d.key == "ssim"}
    assert ssim["b"].mean == pytest.approx(0.75 - (1 - 0.31 * 0.4))
    assert ssim["b"].pairs_interval is not None
    assert far.differences == []
    assert [line.note for line in far.table.lines] == ["", "not reached", "not reached"]
    text = section_text(theirs, COLUMNS)
    assert text.startswith("At the style gap of theirs:\n")
    assert f"{0.75 - (1 - 0.31 * 0.4):+.3f}" in text


def test_points_alone_need_no_rows() -> None:
    found = find({}, compare=[], points={"theirs": make_scores(0.4, 0.75)})
    assert found.more == []
    assert [line.title for line in found.full.lines] == ["theirs", *CONTROLS]
    assert "No row has a curve" in result_markdown(found)


def test_markdown_has_every_table_and_bold_only_what_is_beyond_doubt() -> None:
    text = result_markdown(find(skipped={"c": "no weights"}, points={"x": make_scores(0.4, 0.7)}))
    for heading in (FULL, MATCHED, DIFFERENCES, "At the style gap of x"):
        assert text.count(f"### {heading}\n") == 1
    assert "*c*: no weights" in text
    for row in text.splitlines():
        if "**" in row:
            assert row.endswith((" better |", " worse |"))
    assert "| b | a | SSIM ↑ | **+0." in text


def test_a_terminal_hears_what_is_beyond_doubt() -> None:
    text = result_text(find())
    assert "b less a: SSIM ↑ +0." in text
    assert "(better)" in text
    one = find({name: [make_curve(prices[0])] for name, prices in ROWS.items()})
    assert result_text(one).endswith("Differences beyond doubt:\nnone")


def test_json_holds_all_but_the_single_pairs() -> None:
    found = find(points={"theirs": make_scores(0.4, 0.75)})
    tree = json.loads(result_json(found))
    assert tree["at"] == found.at
    assert [line["title"] for line in tree["full"]["lines"]] == ["a", "b", "theirs", *CONTROLS]
    assert tree["curves"]["b"][2]["scores"][1]["ssim"] == pytest.approx(1 - 0.31 * 0.305)
    assert tree["more"][0]["heading"] == found.more[0].heading
    assert len(tree["differences"]) == len(found.differences)
    assert not any(f'"{key}"' in result_json(found) for key in ("per_pair", "photo", "painting"))
    assert found.controls["identity"].per_pair  # nothing is taken from the findings themselves


def test_findings_are_written_four_times_and_where_else_they_are_asked_for(tmp_path: Path) -> None:
    found, folder = find(points={"x": make_scores(0.4, 0.7)}), tmp_path / "new"
    write_result(found, folder, tmp_path / "figures.json")
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(written) == {"table.md", "table.tex", "table.csv", "table.json"}
    assert written["table.md"] == result_markdown(found)
    assert written["table.json"] == result_json(found)
    assert (tmp_path / "figures.json").read_text() == written["table.json"]
    for table in (found.full, found.matched, found.more[0].table):
        assert to_latex(table) in written["table.tex"]
    rows = list(csv.DictReader(io.StringIO(written["table.csv"])))
    assert {row["read at"] for row in rows} == {
        "full", f"style gap {found.at}", "At the style gap of x"
    }  # fmt: skip
    (cell,) = (
        row for row in rows
        if (row["read at"], row["row"], row["figure"]) == ("full", "identity", "SSIM")
    )  # fmt: skip
    assert float(cell["measured"]) == 1


def test_a_figure_that_nothing_has_makes_no_difference() -> None:
    rows = {
        name: [Curve(c.strengths, tuple(replace(s, kernel=None) for s in c.scores))]
        for name, c in (("a", make_curve(0.5)), ("b", make_curve(0.4)))
    }
    assert {d.key for d in find(rows).differences} == {"ssim", "lpips", "ssim_worst"}
