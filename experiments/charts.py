"""Curves with their bands as inline SVG, for the report: no script and nothing to fetch."""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from .curves import Curve, Sample, along, bands, curve_line, kind, series_mark, spoken, stroke
from .placement import free_spots
from .svg import (
    CROSS,
    FOOT,
    LETTER,
    LINE,
    NOTHING,
    WIDTH,
    Axis,
    Place,
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

PLOT_HEIGHT = 250
EDGE = 18  # room right of the last tick, for half of its number


class Series(NamedTuple):
    """A labelled curve, in the order in which its points are joined.

    ``half`` is half the 95 % interval of y at each point, None where there is none; empty: none has
    one. A point whose x or y is None or not finite is left out and interrupts the curve.
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
    curves = [list(stretches(one)) for one in series]
    controls = {p.name: Sample(p.x, p.y) for p in points if finite(p.x) and finite(p.y)}
    samples = [*(s for curve in curves for s in chain(*curve)), *controls.values()]
    if not samples:
        return NOTHING
    guide = [at] if finite(at) else []
    x, y = axes(samples, guide, top=LINE * (2.6 if guide or controls else 1.6))
    bottom = y.start + (FOOT if controls else 0)
    taken = [spot for place in guide for spot in guide_places(x, y, place, at_label)]
    body = [
        *frame(x, y, bottom, x_label, y_label),
        *(guide_line(x, y, bottom, place, at_label) for place in guide),
        *(bands(i, curve, x, y) for i, curve in enumerate(curves)),
        *(curve_line(i, series[i].name, curve, x, y) for i, curve in enumerate(curves)),
        *named_marks(controls, [*taken, *chain(*(along(c, x, y) for c in curves))], x, y),
    ]
    names = "; ".join([*(one.name for one in series), *controls])
    svg = drawing(
        bottom + 2.9 * LINE,
        title or f"{y_label} against {x_label}",
        f"Horizontally {x_label}, vertically {y_label}. Shown: {names}.",
        body,
    )
    return chart(title, svg, (series_key(i, series[i].name, c) for i, c in enumerate(curves)))


def stretches(series: Series) -> Iterator[list[Sample]]:
    """The stretches of neighbouring finite points."""
    halves = series.half or [None] * len(series.x)
    samples = (
        Sample(x, y, half if finite(half) else 0) if finite(x) and finite(y) else None
        for x, y, half in zip(series.x, series.y, halves, strict=True)
    )
    for there, stretch in groupby(samples, lambda sample: sample is not None):
        if there:
            yield [sample for sample in stretch if sample]


def axes(samples: Sequence[Sample], guide: Sequence[float], top: float) -> tuple[Axis, Axis]:
    """The two axes: they cover all points with their intervals, and the guide."""
    ends = chain(*((s.y - s.half, s.y + s.half) for s in samples))
    y = Axis(round_ticks(ends), top + PLOT_HEIGHT, top)
    left = LETTER * max(map(len, y.labels())) + 12
    return Axis(round_ticks([*(s.x for s in samples), *guide]), left, WIDTH - EDGE), y


def frame(x: Axis, y: Axis, bottom: float, x_label: str, y_label: str) -> Iterator[str]:
    """Grid, ticks and the axes' labels; that of y lies flat, over its numbers."""
    for tick, name in zip(y.ticks, y.labels(), strict=True):
        yield line(x.start, y(tick), x.end, y(tick), "grid")
        yield letters(x.start - 8, y(tick) + 4.5, name, "tick", "end")
    yield vertical_grid(x, y.end, bottom, x_label)
    yield line(x.start, bottom, x.end, bottom, "axis")
    yield letters(0, 0.75 * LINE, y_label)


def guide_line(x: Axis, y: Axis, bottom: float, at: float, label: str) -> str:
    """The guide, and its label over the plot: over its middle where there is room."""
    half = LETTER * len(label) / 2
    left, right = x(at) - half < x.start, x(at) + half > WIDTH
    anchor = "start" if left else "end" if right else "middle"
    words = letters(x(at), y.end - 0.5 * LINE, label, "tick", anchor)
    return line(x(at), y.end - 0.3 * LINE, x(at), bottom, "guide") + words


def guide_places(x: Axis, y: Axis, at: float, label: str) -> Iterator[Place]:
    """Where names would cross the guide or its label."""
    reach = int(LETTER * len(label) / 2)
    yield from ((x(at) + across, y.end - 0.75 * LINE) for across in range(-reach, reach + 1, 8))
    yield from ((x(at), y.end + down) for down in range(0, PLOT_HEIGHT, 8))


def named_marks(
    controls: dict[str, Sample], taken: Sequence[Place], x: Axis, y: Axis
) -> Iterator[str]:
    """Crosses with their names beside them, where the least is in the way."""
    places = [(x(s.x), y(s.y)) for s in controls.values()]
    spots = free_spots(list(controls), places, taken, x, y)
    for (name, sample), place, spot in zip(controls.items(), places, spots, strict=True):
        yield f'<g class="control">{mark(CROSS, *place, f"{name}: {spoken(sample)}")}</g>'
        yield letters(spot.x, spot.base, name, "name", spot.anchor)


def series_key(i: int, name: str, curve: Curve) -> str:
    """Series i in the legend."""
    sample = stroke(i, "M0,7L32,7") + series_mark(i, 16, 7)
    return key(kind(i), sample, name if curve else f"{name} (no figures)")
