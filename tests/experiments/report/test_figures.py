"""Figures show the numbers of a result, and are reproducible files."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from underdrawing.experiments.analysis.results import StudyResult
from underdrawing.experiments.report.figures import (
    BLUE,
    curves_figure,
    differences_figure,
    inline,
    render,
)

Make = Callable[..., StudyResult]


def panel(figure: Figure, metric: str) -> Any:
    """The axes of a metric."""
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(metric))


def vertical_lines(axes: Any) -> list[float]:
    return [x for x, *more in (line.get_xdata() for line in axes.lines) if set(more) == {x}]


def test_curves_have_one_panel_per_measured_metric(make_result: Make) -> None:
    titles = [a.get_title(loc="left") for a in curves_figure(make_result()).axes]
    assert titles == ["SSIM\N{NO-BREAK SPACE}↑", "KID\N{NO-BREAK SPACE}↓"]


def test_curves_are_means_over_seeds_with_bands(make_result: Make) -> None:
    axes = panel(curves_figure(make_result()), "SSIM")
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.0, 1.0], [0.25, 0.9], [0.5, 0.65]])
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    half = 12.706 * 0.1 / 2  # Student's t with one degree of freedom; the values differ by 0.1
    assert (low, high) == pytest.approx((0.65 - half, 0.9 + half), abs=1e-3)


def test_curves_of_one_seed_have_no_band(make_result: Make) -> None:
    one_seed = {row: seeds[:1] for row, seeds in make_result().curves.items()}
    axes = panel(curves_figure(make_result(curves=one_seed)), "SSIM")
    assert len(axes.lines[0].get_xydata()) == 3
    assert not any(len(path) for band in axes.collections for path in band.get_paths())


def test_controls_are_labeled_crosses(make_result: Make) -> None:
    axes = panel(curves_figure(make_result()), "KID")
    crosses = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "x"}
    assert crosses == {(0, 9), (0.3, 4)}  # the painting itself would stretch the axes
    assert {(text.get_text(), text.xy) for text in axes.texts} == {
        ("identity", (0, 9)), ("color only", (0.3, 4))
    }  # fmt: skip


def test_the_matched_gap_is_a_vertical_line(make_result: Make) -> None:
    assert vertical_lines(panel(curves_figure(make_result()), "SSIM")) == [0.4]
    assert not vertical_lines(panel(curves_figure(make_result(gap=None)), "SSIM"))


def test_differences_show_both_intervals_and_zero(make_result: Make) -> None:
    axes = panel(differences_figure(make_result()), "SSIM")
    spans = [collection.get_datalim(axes.transData).intervalx for collection in axes.collections]
    np.testing.assert_allclose(spans[:2], [[0.02, 0.04], [0.02, 0.05]])
    np.testing.assert_allclose(axes.collections[2].get_offsets(), [[0.03, 0]])
    assert vertical_lines(axes) == [0]
    assert axes.get_yticklabels()[0].get_text() == "<b>new</b> $a$\nvs. plain"
    assert axes.get_xlabel() == "better →"


def test_only_significant_differences_are_filled(make_result: Make) -> None:
    result = make_result()
    crossing = replace(result.differences[0], pairs_interval=(-0.01, 0.05))
    for differences, color in (
        (result.differences, BLUE),
        ([crossing, result.differences[1]], "white"),
    ):
        axes = panel(differences_figure(replace(result, differences=differences)), "SSIM")
        assert differences[0].significant == (color == BLUE)
        assert tuple(axes.collections[2].get_facecolor()[0]) == to_rgba(color)


@pytest.mark.parametrize("draw", [curves_figure, differences_figure])
@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_files_are_the_same_each_time(
    make_result: Make, draw: Callable[[StudyResult], Figure], kind: Literal["svg", "pdf"]
) -> None:
    file = render(draw(make_result()), kind, "name")
    assert file == render(draw(make_result()), kind, "name")
    assert b"Date" not in file
    assert b"dc:date" not in file


def test_svg_keeps_names_as_plain_text(make_result: Make) -> None:
    svg = inline(render(curves_figure(make_result()), "svg", "name"))
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
    assert svg.startswith("<svg")
    assert {"plain", "<b>new</b> $a$", "identity", "matched gap, 0.400"} <= set(root.itertext())
    assert not any(group.get("id") for group in root.iter("{http://www.w3.org/2000/svg}g"))
