import math
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from underdrawing.experiments.charts import Point, Series, line_chart
from underdrawing.experiments.report_style import CSS

EVIL = "<&> \"quoted\" 'name'"
NAN = math.nan
Place = tuple[float, float]


def parse(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)  # noqa: S314 (our own output)


def of_class(tree: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [e for e in tree.iter() if name in e.get("class", "").split()]


def plot(tree: ElementTree.Element) -> ElementTree.Element:
    return next(e for e in tree.iter("svg") if e.get("role") == "img")


def place(mark: ElementTree.Element) -> Place:
    x, y = re.findall(r"[-\d.]+", mark.get("transform", ""))
    return float(x), float(y)


def places(tree: ElementTree.Element) -> list[Place]:
    return [place(mark) for mark in of_class(plot(tree), "mark")]


def words(tree: ElementTree.Element) -> str:
    return " ".join(tree.itertext())


def text(tree: ElementTree.Element, words: str) -> Place:
    found = [e for e in plot(tree).iter("text") if e.text == words]
    assert len(found) == 1, words
    return float(found[0].get("x", "")), float(found[0].get("y", ""))


def chart(
    *series: Series, points: tuple[Point, ...] = (), **options: object
) -> ElementTree.Element:
    return parse(line_chart(series, "style gap", "SSIM", points, **options))  # type: ignore[arg-type]


def test_every_finite_point_is_drawn_and_no_other() -> None:
    tree = chart(
        Series("a", [0, 1, 2, NAN], [0.1, NAN, math.inf, 0.2]),
        Series("b", [0, 1, None], [0.3, 0.4, 0.5]),
        points=(Point("control", 1, 0.2), Point("nowhere", 1, NAN), Point("none", None, 1)),
    )
    titles = [e.findtext("title") for e in of_class(plot(tree), "mark")]
    assert titles == ["a: 0, 0.1", "b: 0, 0.3", "b: 1, 0.4", "control: 1, 0.2"]
    assert "nowhere" not in words(tree)


def test_a_value_lies_at_its_tick() -> None:
    tree = chart(Series("a", [0, 0.4, 1], [0, 60, 100]))
    (left, bottom), known, (right, top) = places(tree)
    assert text(tree, "0.4")[0] == known[0]
    assert known[1] == pytest.approx(text(tree, "60")[1] - 4.5, abs=0.11)
    assert known[0] == pytest.approx(left + 0.4 * (right - left), abs=0.11)
    assert known[1] == pytest.approx(bottom + 0.6 * (top - bottom), abs=0.11)
    assert left < right
    assert top < bottom


def test_the_plot_holds_its_points_bands_and_guide() -> None:
    tree = chart(Series("a", [0.2, 0.3], [1, 2], [0.9, 0.9]), at=0.71, at_label="compared here")
    xs = [float(e.get("x", "")) for e in of_class(tree, "tick") if e.get("text-anchor") == "middle"]
    guide = re.findall(r"[-\d.]+", of_class(tree, "guide")[0].get("d", ""))
    assert min(xs) <= float(guide[0]) <= max(xs)
    assert guide[0] == guide[2]
    heights = [
        float(e.get("y", "")) for e in of_class(tree, "tick") if e.get("text-anchor") == "end"
    ]
    band = re.findall(r"([-\d.]+),([-\d.]+)", of_class(tree, "band")[0].get("d", ""))
    assert all(min(heights) - 5 <= float(y) <= max(heights) for _, y in band)
    assert "compared here" in words(tree)


def test_a_band_is_as_high_as_its_interval_and_only_where_there_is_one() -> None:
    tree = chart(Series("a", [0, 1, 2, 3], [0, 1, 1, 0], [None, 0.5, 0.25, NAN]))
    (band,) = of_class(tree, "band")
    corners = [float(y) for _, y in re.findall(r"([-\d.]+),([-\d.]+)", band.get("d", ""))]
    bottom, top = (places(tree)[i][1] for i in (0, 1))
    unit = bottom - top
    expected = [top - 0.5 * unit, top - 0.25 * unit, top + 0.25 * unit, top + 0.5 * unit]
    assert corners == pytest.approx(expected, abs=0.2)


def test_a_missing_figure_interrupts_the_curve() -> None:
    whole = chart(Series("a", [0, 1, 2, 3], [0, 1, 2, 3]))
    broken = chart(Series("a", [0, 1, 2, 3, 4], [0, 1, NAN, 3, 4]))
    assert len(of_class(plot(whole), "curve")) == 1
    assert len(of_class(plot(broken), "curve")) == 2


def test_names_are_escaped() -> None:
    options = {"title": EVIL, "at": 0.5, "at_label": EVIL}
    tree = chart(Series(EVIL, [0, 1], [0, 1]), points=(Point(EVIL, 0, 1),), **options)
    assert plot(tree).get("aria-label") == EVIL
    assert [e.text for e in plot(tree).iter("text")].count(EVIL) == 2
    assert EVIL in words(next(tree.iter("ul")))


def test_a_constant_curve_and_a_single_point_are_drawn() -> None:
    assert len({y for _, y in places(chart(Series("a", [0, 1], [0.7, 0.7])))}) == 1
    assert len(places(chart(Series("a", [0], [0])))) == 1


@pytest.mark.parametrize("series", [[], [Series("a", [], [])], [Series("a", [0, 1], [NAN, None])]])
def test_nothing_to_draw_is_a_sentence(series: list[Series]) -> None:
    assert parse(line_chart(series, "x", "y")).tag == "p"


def test_a_series_without_figures_is_named_so() -> None:
    tree = chart(Series("trained", [0, 1], [0, 1]), Series("skipped", [0, 1], [NAN, NAN]))
    assert "skipped (no figures)" in words(next(tree.iter("ul")))


def test_ten_series_differ_in_colour_and_without_it() -> None:
    tree = chart(*(Series(f"row {i}", [0, 1], [i, i + 1]) for i in range(10)))
    looks, colours = set(), set()
    for entry in tree.iter("li"):
        classes = entry.get("class", "").split()
        line, mark = of_class(entry, "curve")[0], of_class(entry, "mark")[0]
        looks.add((line.get("stroke-dasharray"), mark.get("d"), "hollow" in classes))
        colours.add(classes[0])
    assert len(looks) == len(colours) == 10


def test_the_legend_shows_what_the_plot_draws() -> None:
    tree = chart(*(Series(f"row {i}", [0, 1], [i, i + 1]) for i in range(7)))
    groups = [e for e in plot(tree).iter("g") if of_class(e, "curve")]
    for drawn, entry in zip(groups, tree.iter("li"), strict=True):
        assert drawn.get("class") == entry.get("class")
        for part in ("curve", "mark"):
            name = "stroke-dasharray" if part == "curve" else "d"
            assert of_class(drawn, part)[0].get(name) == of_class(entry, part)[0].get(name)


def test_names_of_controls_do_not_overlap() -> None:
    names = ["identity", "colour only", "style image as output"]
    points = tuple(Point(name, 0.02 * i, 0.99 - 0.01 * i) for i, name in enumerate(names))
    tree = chart(Series("a", [0, 0.5, 1], [1, 0.8, 0.1]), points=points)
    boxes = []
    for e in of_class(tree, "name"):
        width = 8.5 * len(e.text or "")
        left = float(e.get("x", "")) - {"start": 0, "end": width}.get(
            e.get("text-anchor", ""), width / 2
        )
        boxes.append((left, left + width, float(e.get("y", ""))))
    assert len(boxes) == 3
    for a, b in combinations(boxes, 2):
        assert a[1] < b[0] or b[1] < a[0] or abs(a[2] - b[2]) > 12


def test_a_name_at_the_right_edge_stays_inside() -> None:
    tree = chart(Series("a", [0, 1], [0, 1]), points=(Point("style image as output", 1, 0.5),))
    (name,) = of_class(tree, "name")
    assert name.get("text-anchor") == "end"


def test_a_name_leaves_a_fan_of_curves_free() -> None:
    fan = [Series(f"row {i}", [0, 1], [0, i]) for i in range(1, 6)]
    tree = chart(*fan, points=(Point("identity", 0, 0),))
    control = places(tree)[-1]
    axis = re.findall(r"[-\d.]+", of_class(tree, "axis")[0].get("d", ""))
    assert control[1] + 12 < text(tree, "identity")[1] < float(axis[1])


def test_the_same_figures_give_the_same_drawing() -> None:
    series = [Series("a", [0, 1], [0.1, 0.2], [0.01, 0.02])]
    points = [Point("identity", 0, 0.1)]
    assert line_chart(series, "x", "y", points) == line_chart(series, "x", "y", points)


def test_a_chart_scales_says_what_it_is_and_fetches_nothing() -> None:
    html = line_chart([Series("a row", [0, 1], [0, 1])], "style gap", "SSIM ↑")
    svg = plot(parse(html))
    assert svg.get("viewBox")
    assert svg.get("width") is None
    assert svg.findtext("title") == "SSIM ↑ against style gap"
    assert "a row" in (svg.findtext("desc") or "")
    assert not re.search(r"href|url\(|<script|<style", html)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        chart(Series("a", [0, 1], [0]))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_series_stand_out_from_the_page(dark: bool) -> None:
    ground = luminance(re.findall(r"--paper: (#\w{6})", CSS)[dark])
    colours = re.findall(r"--series-\d: (#\w{6})", CSS)
    assert len(set(colours)) == 20
    for colour in colours[10 * dark : 10 * dark + 10]:
        low, high = sorted((luminance(colour), ground))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.1, 1.4.11: graphical objects
