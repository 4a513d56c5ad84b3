import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from underdrawing.experiments.analysis.curves import Curve
from underdrawing.experiments.analysis.results import (
    DIFFERENCES,
    FULL,
    MATCHED,
    StudyResult,
    difference_rows,
    differences_note,
    make_study_result,
    result_latex,
    result_markdown,
    result_text,
    result_tree,
    write_result,
)
from underdrawing.experiments.analysis.tables import Paper, make_columns, to_latex
from underdrawing.metrics.scores import MetricNetworks, Scores, SecondNetwork

NOISE = np.random.default_rng(0).normal(0, 0.05, 40)
PRICES = {"a": [0.5, 0.52, 0.51], "b": [0.3, 0.32, 0.31]}  # SSIM lost per style gap, by seed
CONTROLS = ["identity", "color only"]
REACH = 0.61

MakeCurve = Callable[..., Curve]
MakeScores = Callable[..., Scores]
MakeResult = Callable[..., StudyResult]


@pytest.fixture
def make_result(
    networks: MetricNetworks, make_curve: MakeCurve, make_scores: MakeScores
) -> MakeResult:
    def make(rows: dict[str, list[Curve]] | None = None, **options: Any) -> StudyResult:
        curves = {
            name: [make_curve(price, (REACH / 2, REACH), NOISE) for price in prices]
            for name, prices in PRICES.items()
        }
        controls = dict(zip(CONTROLS, (make_scores(0, 1), make_scores(0.2, 0.9)), strict=True))
        options = {
            "compare": [("b", "a")],
            "papers": {"a": Paper("0.70", "0.20", "45.2")},
            "controls": controls,
        } | options
        return make_study_result(
            "Toy", curves if rows is None else rows, columns=make_columns(networks), cards=[],
            **options,
        )  # fmt: skip

    return make


# -- tables ---------------------------------------------------------------------------------------


def test_full_table_has_rows_then_points_then_controls(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    result = make_result(points={"theirs": make_scores(0.4, 0.8), "weak": make_scores(0.3, 0.9)})
    rows = [(row.title, row.control, row.note) for row in result.full.rows]
    assert rows == [
        ("a", False, ""),
        ("b", False, ""),
        ("theirs", False, ""),
        ("weak", False, "below minimum stylization"),  # 0.2 of color transfer + 0.15
        ("identity", True, ""),
        ("color only", True, ""),
    ]
    assert result.full.rows[0].entries["ssim"].measured == pytest.approx(1 - 0.51 * REACH)
    assert result.full.rows[0].entries["ssim"].paper == "0.70"


def test_matched_table_is_read_at_the_common_gap(
    make_result: MakeResult, make_curve: MakeCurve
) -> None:
    rows = {
        "a": [make_curve(0.5, (0.3, 0.6))],
        "b": [make_curve(0.3, (0.2, 0.456))],
        "weak": [make_curve(1, (0.1, 0.3))],
    }
    result = make_result(rows)
    assert result.gap == 0.45
    a, b, weak = result.matched.rows
    assert a.entries["ssim"].measured == pytest.approx(1 - 0.5 * 0.45)
    assert b.entries["ssim"].measured == pytest.approx(1 - 0.3 * 0.45)
    assert a.entries["strength"].measured == pytest.approx(0.45 / 0.6)
    assert weak.entries["ssim"].measured is None
    assert [row.note for row in result.matched.rows] == ["", "", "not reached"]
    assert all(e.paper is None for row in result.matched.rows for e in row.entries.values())
    assert {c.key for c in result.matched.columns}.isdisjoint({"style_gap", "frechet"})


def test_no_comparison_without_a_row_that_stylizes(
    make_result: MakeResult, make_curve: MakeCurve
) -> None:
    result = make_result({"a": [make_curve(0.5, (0.1, 0.3))], "b": [make_curve(0.4, (0.1, 0.2))]})
    assert (result.gap, result.matched.rows, result.differences) == (None, [], [])
    text = result_markdown(result)
    assert "matched-style comparison skipped" in text
    assert text.count("below minimum stylization") == 2


def test_rows_are_compared_at_the_style_gap_of_each_point(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    points = {"theirs": make_scores(0.4, 0.75, NOISE), "far": make_scores(0.9, 0.2)}
    theirs, far = make_result(points=points).sections
    assert theirs.heading == "At the style gap of theirs"
    assert [row.title for row in theirs.table.rows] == ["theirs", "a", "b"]
    values = [row.entries["ssim"].measured for row in theirs.table.rows]
    assert values == pytest.approx([0.75, 1 - 0.51 * 0.4, 1 - 0.31 * 0.4])
    (ssim,) = (d for d in theirs.differences if (d.key, d.against) == ("ssim", "b"))
    assert ssim.mean == pytest.approx(0.75 - (1 - 0.31 * 0.4))
    assert ssim.pairs_interval is not None
    assert far.differences == []
    assert [row.note for row in far.table.rows] == ["", "not reached", "not reached"]


def test_points_need_no_rows(make_result: MakeResult, make_scores: MakeScores) -> None:
    result = make_result({}, compare=[], points={"theirs": make_scores(0.4, 0.75)})
    assert result.sections == []
    assert [row.title for row in result.full.rows] == ["theirs", *CONTROLS]
    assert "matched-style comparison skipped" in result_markdown(result)


def test_pairs_without_a_style_gap_are_reported(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    none = replace(make_scores(math.nan, 0.75), left_out=40)
    result = make_result(points={"black": none}, controls=dict.fromkeys(CONTROLS, none))
    assert "40 of 40 pairs have no style gap" in result_markdown(result)
    assert result.sections == []
    assert [row.note for row in result.full.rows if row.title == "black"] == [""]
    tree = result_tree(result)
    assert tree["controls"]["identity"]["style_gap"] is None
    assert "NaN" not in json.dumps(tree)


def test_second_networks_style_gap_is_matched_pair_by_pair(
    networks: MetricNetworks, make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    """Row b closes half as much of the second network's style gap as row a."""
    key = "style_gap_independent"

    def with_second(scores: Scores, share: float) -> Scores:
        per_pair = {key: [share * gap for gap in scores.per_pair["style_gap"]]}
        return replace(
            scores, style_gap_independent=share * scores.style_gap,
            per_pair=scores.per_pair | per_pair,
        )  # fmt: skip

    def row(price: float, share: float) -> list[Curve]:
        curve = make_curve(price)
        return [replace(curve, scores=tuple(with_second(s, share) for s in curve.scores))] * 2

    second = SecondNetwork("other", networks.style, networks.pooled)
    controls = dict.fromkeys(CONTROLS, with_second(make_scores(0.2, 0.9), 1))
    result = make_study_result(
        "Toy", {"a": row(0.5, 0.8), "b": row(0.3, 0.4)}, controls,
        make_columns(replace(networks, independent=second)), [], compare=[("b", "a")], gap=0.5,
        points={"theirs": with_second(make_scores(0.4, 0.7), 0.6)},
    )  # fmt: skip
    assert [r.entries[key].measured for r in result.matched.rows] == pytest.approx([0.4, 0.2])
    (found,) = (d for d in result.differences if d.key == key)
    assert found.mean == pytest.approx(-0.2)
    assert found.pairs_interval == pytest.approx((-0.2, -0.2))
    (line,) = (
        r for r in difference_rows([found], result.full.columns)
        if r[2] == "style gap closed (other) ↑"
    )  # fmt: skip
    assert line[-1] == "worse"
    (beside,) = (d for d in result.sections[0].differences if (d.key, d.against) == (key, "b"))
    assert beside.mean == pytest.approx(0.6 * 0.4 - 0.4 * 0.4)


# -- text and files -------------------------------------------------------------------------------


def test_only_significant_differences_have_a_verdict(make_result: MakeResult) -> None:
    result = make_result()
    head, *rows = difference_rows(result.differences, result.full.columns)
    assert len(head) == len(rows[0])
    verdicts = {row[2]: row[-1] for row in rows}
    assert verdicts == {
        "SSIM ↑": "better", "LPIPS ↓": "better", "SSIM worst tenth ↑": "better",
        "KID (toy) ↓": "",  # equal in both rows
    }  # fmt: skip
    back = difference_rows(make_result(compare=[("a", "b")]).differences, result.full.columns)
    assert [row[-1] for row in back if row[2] == "SSIM ↑"] == ["worse"]


def test_markdown_has_every_table_and_bold_significant_differences(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    result = make_result(points={"x": make_scores(0.4, 0.7)}, skipped={"c": "no weights"})
    text = result_markdown(result)
    for heading in (FULL, MATCHED, "At the style gap of x"):
        assert text.count(f"### {heading}\n") == 1
    assert text.count(f"#### {DIFFERENCES}\n") == 2
    assert "c: no weights" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bold, verdict = ({x for x in lines if re.search(p, x)} for p in (r"\*\*", "better|worse"))
    assert bold == verdict != set()
    assert differences_note(result) in text


def test_text_has_every_table_with_its_differences(
    make_result: MakeResult, make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    points = {"x": make_scores(0.4, 0.7)}
    text = result_text(make_result(points=points))
    for heading in (FULL, MATCHED, "At the style gap of x"):
        assert text.count(f"{heading}:\n") == 1
    assert text.count("95 % over seeds") == 2
    single = result_text(make_result({"a": [make_curve(0.5)]}, points=points))
    assert MATCHED not in single  # one curve has nothing to be compared with


def test_write_result_creates_md_csv_json(
    make_result: MakeResult, make_scores: MakeScores, tmp_path: Path
) -> None:
    result = make_result(points={"x": make_scores(0.4, 0.7)})
    write_result(result, tmp_path / "new")
    written = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert written.keys() == {"table.md", "table.csv", "table.json"}
    assert written["table.md"] == result_markdown(result)
    for table in (result.full, result.matched, result.sections[0].table):
        assert to_latex(table, "").split("caption{}")[1] in result_latex(result)

    rows = list(csv.DictReader(io.StringIO(written["table.csv"])))
    tables = [(FULL, ""), (MATCHED, str(result.gap)), ("At the style gap of x", "0.4")]
    assert list(dict.fromkeys((row["table"], row["style gap"]) for row in rows)) == tables
    found = {(row["table"], row["row"], row["metric"]): row for row in rows}
    entry, row = result.full.rows[0].entries["ssim"], found[FULL, "a", "SSIM"]
    for name in ("paper", "measured", "difference", "half_interval"):
        assert row[name] == str(getattr(entry, name))
    assert found[FULL, "identity", "SSIM"]["paper"] == ""

    tree = json.loads(written["table.json"])
    assert tree["gap"] == result.gap
    assert [row["title"] for row in tree["full"]["rows"]] == ["a", "b", "x", *CONTROLS]
    expected = 1 - 0.31 * REACH / 2
    assert tree["curves"]["b"][2]["scores"][1]["ssim"] == pytest.approx(expected)
    assert not any(f'"{key}"' in written["table.json"] for key in ("per_pair", "photo"))
    assert result.controls["identity"].per_pair  # the result itself is unchanged
