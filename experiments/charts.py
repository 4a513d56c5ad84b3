"""Curves with their bands as inline SVG, for the report: no script and nothing to fetch."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain, groupby, pairwise
from typing import NamedTuple

from .svg import (
    CROSS,
    LETTER,
    LINE,
    MARKS,
    WIDTH,
    Axis,
    chart,
    drawing,
    finite,
    key,
    letters,
    line,
    mark,
    round_ticks,
    vertical_grid,
)

COLOURS = 10  # as many as the style sheet has: .series-0 … .series-9
DASHES = (
    "none",
    "7 3",
    "2 3",
    "10 3 2 3",
)  # with five marks, full or hollow: 20 ways
PLOT_HEIGHT = 250
EDGE = 18  # room right of the last tick, for half of its number
NOTHING = '<p class="hint">There is no figure to draw here.</p>'
Place = tuple[float, float]  # in the units of the drawing


class Series(NamedTuple):
    """A labelled curve, in the order in which its points are joined.

    ``half`` is half the 95 % interval of y at each point, None where there is none; empty: none has
    one. A point whose x or y is NaN is left out and the curve is interrupted there.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    half: Sequence[float | None] = ()


class Point(NamedTuple):
    """A labelled single mark, such as a control."""

    name: str
    x: float | None
    y: float | None


class Sample(NamedTuple):
    """A finite point of a curve; half is 0 where there is no interval."""

    x: float
    y: float
    half: float


class Spot(NamedTuple):
    """Where a name may stand: its anchor, the line it stands on, how wide it is."""

    x: float
    base: float
    width: float
    anchor: str

    @property
    def left(self) -> float:
        """Where it begins."""
        return self.x - {"start": 0, "middle": 0.5, "end": 1}[self.anchor] * self.width


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    points: Sequence[Point] = (),
    title: str = "",
    at: float | None = None,
    at_label: str = "",
) -> str:
    """Curves, controls and a guide in one plot, its legend below.

    A series' colour, mark and dash go by its place in ``series``; colours repeat after ten.

    Args:
        series: the curves; one without a finite point is named so in the legend.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        points: single marks with their names beside them; those that are not finite are left out.
        title: over the plot, and what a screen reader says first.
        at: where a vertical guide stands, say the style gap at which rows are compared.
        at_label: what stands over the guide.

    Returns:
        HTML, also well-formed XML: one ``div``, or a sentence if there is nothing to draw.
    """
    curves = [list(runs(one)) for one in series]
    samples = [sample for curve in curves for run in curve for sample in run]
    points = [point for point in points if finite(point.x) and finite(point.y)]
    if not samples and not points:
        return NOTHING
    guide = [at] if at is not None and math.isfinite(at) else []
    top = LINE * (2.6 if guide or points else 1.6)
    x, y = axes(samples, points, guide, top)
    body = [
        *frame(x, y, x_label, y_label),
        *(guide_line(x, y, place, at_label) for place in guide),
        *(bands(i, curve, x, y) for i, curve in enumerate(curves)),
        *(curve_line(i, series[i].name, curve, x, y) for i, curve in enumerate(curves)),
        *controls(points, curves, x, y),
    ]
    svg = drawing(
        y.start + 2.9 * LINE,
        title or f"{y_label} against {x_label}",
        description(series, points, x_label, y_label),
        body,
    )
    return chart(title, svg, (series_key(i, one, curves[i]) for i, one in enumerate(series)))


def figure(drawn: str, caption: str) -> str:
    """A chart with its caption."""
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def runs(series: Series) -> Iterator[list[Sample]]:
    """The stretches of neighbouring finite points."""
    halves = series.half or [None] * len(series.x)
    rows = zip(series.x, series.y, halves, strict=True)
    for drawn, run in groupby(rows, lambda row: finite(row[0]) and finite(row[1])):
        if drawn:
            yield [Sample(x, y, half if finite(half) else 0) for x, y, half in run]  # type: ignore


def axes(
    samples: Sequence[Sample], points: Sequence[Point], guide: Sequence[float], top: float
) -> tuple[Axis, Axis]:
    """The two axes: they cover points, bands and the guide."""
    ends = ((s.y - s.half, s.y + s.half) for s in samples)
    y = Axis(round_ticks([*chain(*ends), *(p.y for p in points)]), top + PLOT_HEIGHT, top)
    left = LETTER * max(map(len, y.labels())) + 12
    xs = [*(s.x for s in samples), *(p.x for p in points), *guide]
    return Axis(round_ticks(xs), left, WIDTH - EDGE), y


# -- what is drawn, from back to front ------------------------------------------------------------


def frame(x: Axis, y: Axis, x_label: str, y_label: str) -> Iterator[str]:
    """Grid, ticks and the axes' labels; that of y lies flat, over its numbers."""
    for tick, name in zip(y.ticks, y.labels(), strict=True):
        yield line(x.start, y(tick), x.end, y(tick), "grid")
        yield letters(x.start - 8, y(tick) + 4.5, name, "tick", "end")
    yield vertical_grid(x, y.end, y.start, x_label)
    yield line(x.start, y.start, x.end, y.start, "axis")
    yield letters(0, 0.75 * LINE, y_label)


def guide_line(x: Axis, y: Axis, at: float, label: str) -> str:
    """The guide, and its label over the plot, kept inside the plot's width."""
    half = LETTER * len(label) / 2
    middle = min(max(x(at), x.start + half), x.end - half)
    words = letters(middle, y.end - 0.5 * LINE, label, "tick", "middle")
    return line(x(at), y.end - 0.3 * LINE, x(at), y.start, "guide") + words


def bands(i: int, curve: Sequence[Sequence[Sample]], x: Axis, y: Axis) -> str:
    """The 95 % intervals around a curve."""
    drawn = []
    for run in curve:
        for wide, part in groupby(run, lambda sample: sample.half > 0):
            if wide:
                there = list(part)
                upper = [(x(s.x), y(s.y + s.half)) for s in there]
                lower = [(x(s.x), y(s.y - s.half)) for s in reversed(there)]
                drawn.append(f'<path class="band" d="{path(upper + lower)}Z"/>')
    return group(i, drawn)


def curve_line(i: int, name: str, curve: Sequence[Sequence[Sample]], x: Axis, y: Axis) -> str:
    """A curve and the marks of its points."""
    lines = [stroke(i, path([(x(s.x), y(s.y)) for s in run])) for run in curve if len(run) > 1]
    marks = [
        mark(MARKS[i % len(MARKS)], x(s.x), y(s.y), f"{name}: {spoken(s)}") for s in chain(*curve)
    ]
    return group(i, lines + marks)


def controls(
    points: Sequence[Point], curves: Sequence[Sequence[Sequence[Sample]]], x: Axis, y: Axis
) -> Iterator[str]:
    """Marks with their names beside them, where the least is in the way."""
    places = [(x(p.x), y(p.y)) for p in points]  # type: ignore[arg-type]
    taken = [*places, *(place for curve in curves for run in curve for place in along(run, x, y))]
    for point, (px, py) in zip(points, places, strict=True):
        said = f"{point.name}: {spoken(Sample(point.x, point.y, 0))}"  # type: ignore[arg-type]
        spot = min(beside(px, py, point.name), key=lambda spot: in_the_way(spot, taken, x, y))
        taken += [(spot.left + i * LETTER, spot.base - 5) for i in range(len(point.name) + 1)] * 3
        yield f'<g class="control">{mark(CROSS, px, py, said)}</g>'
        yield letters(spot.x, spot.base, point.name, "name", spot.anchor)


# -- small parts ----------------------------------------------------------------------------------


def beside(x: float, y: float, name: str) -> list[Spot]:
    """Where a name may stand, the best place first: right, left, above, below, the corners."""
    width = LETTER * len(name)
    right = [Spot(x + 9, y + down, width, "start") for down in (5, -8, 18)]
    left = [Spot(x - 9, y + down, width, "end") for down in (5, -8, 18)]
    middle = [Spot(x, y + down, width, "middle") for down in (-10, 21)]
    return [right[0], left[0], *middle, *right[1:], *left[1:]]


def in_the_way(spot: Spot, taken: Sequence[Place], x: Axis, y: Axis) -> float:
    """How much a name would cover; leaving the plot is worse, but for the line above it."""
    left, right, top, bottom = (
        spot.left - 3,
        spot.left + spot.width + 3,
        spot.base - 13,
        spot.base + 4,
    )
    covered = sum(left <= px <= right and top <= py <= bottom for px, py in taken)
    outside = left < x.start or right > x.end + EDGE or top < y.end - LINE - 3 or bottom > y.start
    return covered + 100 * outside


def along(run: Sequence[Sample], x: Axis, y: Axis) -> Iterator[Place]:
    """Places along a curve, close enough to each other that no name fits between them."""
    for a, b in pairwise([(x(s.x), y(s.y)) for s in run]):
        steps = 1 + int(math.dist(a, b) / 10)
        for k in range(steps + 1):
            yield a[0] + k / steps * (b[0] - a[0]), a[1] + k / steps * (b[1] - a[1])


def path(places: Sequence[Place]) -> str:
    """A path from place to place."""
    return "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in places)


def stroke(i: int, drawn: str) -> str:
    """A series' line."""
    return f'<path class="curve" stroke-dasharray="{DASHES[i % len(DASHES)]}" d="{drawn}"/>'


def group(i: int, parts: Sequence[str]) -> str:
    """Parts in a series' colour."""
    return f'<g class="{kind(i)}">{"".join(parts)}</g>'


def kind(i: int) -> str:
    """A series' classes: its colour, and whether its marks are hollow."""
    return f"series-{i % COLOURS}" + (" hollow" if i // len(MARKS) % 2 else "")


def series_key(i: int, series: Series, curve: Sequence[object]) -> str:
    """A series in the legend."""
    sample = stroke(i, "M0,7L32,7") + mark(MARKS[i % len(MARKS)], 16, 7)
    return key(kind(i), sample, series.name if curve else f"{series.name} (no figures)")


def spoken(sample: Sample) -> str:
    """A point's numbers."""
    said = f"{sample.x:.4g}, {sample.y:.4g}" + (f" ± {sample.half:.2g}" if sample.half else "")
    return said.replace("-", "−")


def description(
    series: Sequence[Series], points: Sequence[Point], x_label: str, y_label: str
) -> str:
    """What a screen reader says after the title."""
    names = "; ".join([*(one.name for one in series), *(point.name for point in points)])
    return f"Horizontally {x_label}, vertically {y_label}. Shown: {names}."
