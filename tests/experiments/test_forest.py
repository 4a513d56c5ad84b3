import math
import re
from xml.etree import ElementTree

import pytest
from underdrawing.experiments.forest import Estimate, interval_chart

EVIL = "<&> \"quoted\" 'name'"


def parse(*estimates: Estimate, zero: bool = True) -> ElementTree.Element:
    html = interval_chart(estimates, "difference in SSIM", zero)
    return ElementTree.fromstring(html)  # noqa: S314 (our own output)


def of_class(tree: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    svg = next(e for e in tree.iter("svg") if e.get("role") == "img")
    return [e for e in svg.iter() if name in e.get("class", "").split()]


def xs(drawn: ElementTree.Element) -> list[float]:
    return [float(x) for x in re.findall(r"[ML(]([-\d.]+)", drawn.get("d", ""))]


def x_of(mark: ElementTree.Element) -> float:
    return float(re.findall(r"[-\d.]+", mark.get("transform", ""))[0])


def texts(tree: ElementTree.Element) -> list[str]:
    return [e.text or "" for e in tree.iter("text")]


def test_dot_and_whiskers_lie_where_their_figures_say() -> None:
    tree = parse(Estimate("a", 0.5, 0.25, (0.25, 1.0)))
    (zero,) = of_class(tree, "zero")
    (dot,) = of_class(tree, "mark")
    (heavy,) = of_class(tree, "heavy")
    light = of_class(tree, "light")[0]
    half = x_of(dot) - xs(zero)[0]
    assert xs(heavy) == pytest.approx([xs(zero)[0] + half / 2, xs(zero)[0] + 1.5 * half], abs=0.11)
    assert xs(light) == pytest.approx([xs(zero)[0] + half / 2, xs(zero)[0] + 2 * half], abs=0.11)
    assert half > 50


@pytest.mark.parametrize(
    ("estimate", "settled"),
    [
        (Estimate("a", 0.5, 0.25, settled=True), True),
        (Estimate("a", -0.5, 0.25, (-0.6, -0.1), settled=True), True),
        (Estimate("a", -0.5, 0.25, (-0.6, -0.1)), False),  # the chart has no verdict of its own
        (Estimate("a", 0.5), False),
    ],
)
def test_only_what_is_settled_is_full_and_bold(estimate: Estimate, settled: bool) -> None:
    tree = parse(estimate)
    assert bool(of_class(tree, "settled")) == settled
    assert bool(of_class(tree, "hollow")) != settled


def test_without_zero_there_is_no_line_no_sign_and_no_verdict() -> None:
    tree = parse(Estimate("a", 20, 1, settled=True), Estimate("b", 30, 2), zero=False)
    assert not of_class(tree, "zero")
    assert not of_class(tree, "hollow")
    assert not of_class(tree, "settled")
    assert "20 ± 1" in " ".join(texts(tree)).replace(".0", "")
    assert "0" not in texts(tree)


def test_numbers_are_printed_with_sign_and_one_interval() -> None:
    said = texts(parse(Estimate("a", -0.02, 0.01), Estimate("b", 0.01, None, (-0.01, 0.02))))
    assert any(re.fullmatch(r"−0\.020+ ± 0\.010+", text) for text in said)
    assert any(re.fullmatch(r"\+0\.010+ \[−0\.010+, \+0\.020+\]", text) for text in said)


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_missing_value_is_said_and_not_drawn(value: float | None) -> None:
    tree = parse(Estimate("a", 0.1, 0.05), Estimate("b", value, 0.1, (5, 9)))
    assert "n/a" in texts(tree)
    assert len(of_class(tree, "mark")) == 1
    assert not of_class(tree, "light")


def test_a_long_name_takes_more_lines_and_room() -> None:
    short, long = parse(Estimate("a row", 0.1)), parse(Estimate("a row " * 20, 0.1))
    assert " ".join(e.text or "" for e in of_class(long, "name")[:-1]) == ("a row " * 20).strip()
    heights = [float(next(t.iter("svg")).get("viewBox", "").split()[3]) for t in (short, long)]
    assert heights[1] > heights[0] + 30


def test_names_are_escaped() -> None:
    assert EVIL in texts(parse(Estimate(EVIL, 0.1)))


def test_the_legend_names_what_is_drawn_only() -> None:
    legend = " ".join(next(parse(Estimate("a", 0.1, None, (0, 1))).iter("ul")).itertext())
    assert "bootstrap" in legend
    assert "seeds" not in legend
    assert "all intervals exclude zero" in legend
    assert "an interval holds zero or is missing" in legend


@pytest.mark.parametrize("estimates", [(), (Estimate("a", None),), (Estimate("a", math.nan),)])
def test_nothing_to_draw_is_a_sentence(estimates: tuple[Estimate, ...]) -> None:
    assert parse(*estimates).tag == "p"


def test_equal_figures_do_not_divide_by_zero() -> None:
    assert len(of_class(parse(Estimate("a", 0.0), Estimate("b", 0.0)), "mark")) == 2
    assert len(of_class(parse(Estimate("a", 7.0), zero=False), "mark")) == 1
