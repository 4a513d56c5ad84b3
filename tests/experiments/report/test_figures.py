"""Figures show the numbers of a result, and are reproducible files."""

from collections.abc import Callable
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from underdrawing.experiments.analysis.results import StudyResult
from underdrawing.experiments.report.figures import (
    curves_figure,
    differences_figure,
    inline,
    render,
)

Make = Callable[..., StudyResult]


def panel(figure: Figure, metric: str) -> Any:
    """The axes of a metric."""
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(metric))


def test_curves_are_means_over_seeds_with_bands_in_a_panel_per_measured_metric(
    make_result: Make,
) -> None:
    figure = curves_figure(make_result())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["SSIM\N{NO-BREAK SPACE}↑", "KID\N{NO-BREAK SPACE}↓"]
    axes = panel(figure, "SSIM")
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.0, 1.0], [0.25, 0.9], [0.5, 0.65]])
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    half = 12.706 * 0.1 / 2  # Student's t with one degree of freedom; the values differ by 0.1
    assert (low, high) == pytest.approx((0.65 - half, 0.9 + half), abs=1e-3)


def test_controls_are_labeled_crosses(make_result: Make) -> None:
    axes = panel(curves_figure(make_result()), "KID")
    crosses = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "x"}
    assert crosses == {(0, 9), (0.3, 4)}  # the painting itself would stretch the axes
    assert {(text.get_text(), text.xy) for text in axes.texts} == {
        ("identity", (0, 9)), ("color only", (0.3, 4))
    }  # fmt: skip


def test_differences_show_both_intervals_and_zero(make_result: Make) -> None:
    axes = panel(differences_figure(make_result()), "SSIM")
    spans = [collection.get_datalim(axes.transData).intervalx for collection in axes.collections]
    np.testing.assert_allclose(spans[:2], [[0.02, 0.04], [0.02, 0.05]])
    np.testing.assert_allclose(axes.collections[2].get_offsets(), [[0.03, 0]])
    assert [0, 0] in [list(line.get_xdata()) for line in axes.lines]
    assert axes.get_yticklabels()[0].get_text() == "<b>new</b> $a$\nvs. plain"
    assert axes.get_xlabel() == "better →"


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_files_are_the_same_each_time(make_result: Make, kind: Literal["svg", "pdf"]) -> None:
    file = render(curves_figure(make_result()), kind, "name")
    assert file == render(curves_figure(make_result()), kind, "name")
    assert b"Date" not in file
    assert b"dc:date" not in file


def test_svg_keeps_names_as_plain_text(make_result: Make) -> None:
    svg = inline(render(curves_figure(make_result()), "svg", "name"))
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
    assert svg.startswith("<svg")
    assert {"plain", "<b>new</b> $a$", "identity", "matched gap, 0.400"} <= set(root.itertext())
    assert not any(group.get("id") for group in root.iter("{http://www.w3.org/2000/svg}g"))
