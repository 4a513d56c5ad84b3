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
from underdrawing.experiments.analysis import results
from underdrawing.experiments.analysis.curves import Curve
from underdrawing.experiments.analysis.results import (
    FULL,
    MATCHED,
    StudyResult,
    difference_rows,
    result_latex,
    result_markdown,
    result_text,
)
from underdrawing.experiments.analysis.tables import Paper, make_columns, to_latex
from underdrawing.metrics.scores import MetricNetworks, Scores

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
        defaults: dict[str, Any] = {
            "compare": [("b", "a")], "papers": {"a": Paper("0.70", "0.20", "45.2")},
            "controls": {"identity": make_scores(0, 1), "color only": make_scores(0.2, 0.9)},
            "columns": make_columns(networks), "cards": [],
        }  # fmt: skip
        rows = curves if rows is None else rows
        return results.make_study_result("Toy", rows, **defaults | options)

    return make


def significance(result: StudyResult) -> dict[str, str]:
    """Return the verdict on the difference in each metric."""
    _, *rows = difference_rows(result.differences, result.full.columns)
    return {row[2]: row[-1] for row in rows}


# -- tables ---------------------------------------------------------------------------------------


def test_full_table_has_rows_then_points_then_controls(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    result = make_result(points={"theirs": make_scores(0.4, 0.8), "weak": make_scores(0.3, 0.9)})
    rows = [(row.title, row.control, row.note) for row in result.full.rows]
    assert rows == [
        ("a", False, ""), ("b", False, ""), ("theirs", False, ""),
        ("weak", False, "below minimum stylization"),  # 0.2 of color transfer + 0.15
        ("identity", True, ""), ("color only", True, ""),
    ]  # fmt: skip
    assert result.full.rows[0].entries["ssim"].measured == pytest.approx(1 - 0.51 * REACH)
    assert result.full.rows[0].entries["ssim"].paper == "0.70"


def test_matched_table_is_read_at_the_common_gap(
    make_result: MakeResult, make_curve: MakeCurve
) -> None:
    rows = {
        "a": [make_curve(0.5, (0.3, 0.6))], "b": [make_curve(0.3, (0.2, 0.456))],
        "weak": [make_curve(1, (0.1, 0.3))],
    }  # fmt: skip
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
    make_result: MakeResult, make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    result = make_result({"a": [make_curve(0.5, (0.1, 0.3))], "b": [make_curve(0.4, (0.1, 0.2))]})
    assert (result.gap, result.matched.rows, result.differences) == (None, [], [])
    assert result_markdown(result).count("below minimum stylization") == 2
    without_rows = make_result({}, compare=[], points={"theirs": make_scores(0.4, 0.75)})
    assert without_rows.sections == []
    assert [row.title for row in without_rows.full.rows] == ["theirs", *CONTROLS]
    for skipped in (result, without_rows):
        assert "matched-style comparison skipped" in result_markdown(skipped)


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


def test_pairs_without_a_style_gap_are_reported(
    make_result: MakeResult, make_scores: MakeScores
) -> None:
    none = replace(make_scores(math.nan, 0.75), left_out=40)
    result = make_result(points={"black": none}, controls=dict.fromkeys(CONTROLS, none))
    assert "40 of 40 pairs have no style gap" in result_markdown(result)
    assert result.sections == []
    assert [row.note for row in result.full.rows if row.title == "black"] == [""]
    tree = results.result_tree(result)
    assert tree["controls"]["identity"]["style_gap"] is None
    assert "NaN" not in json.dumps(tree)


# -- text and files -------------------------------------------------------------------------------


def test_only_significant_differences_have_a_verdict(make_result: MakeResult) -> None:
    assert significance(make_result()) == {
        "SSIM ↑": "better", "LPIPS ↓": "better", "SSIM worst tenth ↑": "better",
        "KID (toy) ↓": "",  # equal in both rows
    }  # fmt: skip
    assert significance(make_result(compare=[("a", "b")]))["SSIM ↑"] == "worse"


def test_text_has_every_table_and_marks_significant_differences(
    make_result: MakeResult, make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    points = {"x": make_scores(0.4, 0.7)}
    result = make_result(points=points, skipped={"c": "no weights"})
    markdown, text, tex = result_markdown(result), result_text(result), result_latex(result)
    for heading in (FULL, MATCHED, "At the style gap of x"):
        assert markdown.count(f"### {heading}\n") == text.count(f"{heading}:\n") == 1
    for table in (result.full, result.matched, result.sections[0].table):
        assert to_latex(table, "").split("caption{}")[1] in tex
    assert markdown.count("95 % over seeds") == text.count("95 % over seeds") == 2
    assert "c: no weights" in markdown
    assert results.differences_note(result) in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    bold, verdict = ({x for x in lines if re.search(p, x)} for p in (r"\*\*", "better|worse"))
    assert bold == verdict != set()
    single = result_text(make_result({"a": [make_curve(0.5)]}, points=points))
    assert MATCHED not in single  # one curve has nothing to be compared with


def test_write_result_creates_md_csv_json(
    make_result: MakeResult, make_scores: MakeScores, tmp_path: Path
) -> None:
    result = make_result(points={"x": make_scores(0.4, 0.7)})
    results.write_result(result, tmp_path / "new")
    written = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert written.keys() == {"table.md", "table.csv", "table.json"}
    assert written["table.md"] == result_markdown(result)

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
