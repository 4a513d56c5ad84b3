"""Estimates with their intervals, one below the other, as inline SVG: a forest plot."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import NamedTuple

from .svg import (
    DISC,
    LETTER,
    LINE,
    NOTHING,
    WIDTH,
    Axis,
    chart,
    drawing,
    finite,
    key,
    letters,
    line,
    mark,
    number,
    round_ticks,
    vertical_grid,
)

EDGE = 24  # room on both sides, for half of a tick's number
SEEDS = "95 % interval over seeds"
PAIRS = "95 % interval over pairs (bootstrap)"
Span = tuple[float, float]


class Estimate(NamedTuple):
    """A figure, often a difference between two rows of the table, and how sure it is.

    ``half_interval`` is half the 95 % interval over seeds, ``span`` a second interval (low, high),
    say by bootstrap over pairs; ``settled`` says whether they put a difference's sign beyond doubt.
    A value that is None or NaN is printed as n/a.
    """

    name: str
    value: float | None
    half_interval: float | None = None
    span: Span | None = None
    settled: bool = False


def interval_chart(
    estimates: Sequence[Estimate],
    x_label: str,
    zero: bool = True,
    title: str = "",
    half_label: str = SEEDS,
    span_label: str = PAIRS,
) -> str:
    """A row for each estimate: a dot, a heavy whisker (half_interval), a light one (span).

    Args:
        estimates: the rows, from top to bottom.
        x_label: what is estimated, with its unit.
        zero: the estimates are differences: a line stands at zero, numbers carry their sign, and
            a dot is full, and the number bold, only where the estimate is settled.
        title: over the chart, and what a screen reader says first.
        half_label: what the heavy whisker is, for the legend.
        span_label: what the light whisker is, for the legend.

    Returns:
        HTML, also well-formed XML: one ``div``, or a sentence if there is nothing to draw.
    """
    if not any(finite(estimate.value) for estimate in estimates):
        return NOTHING
    x = Axis(round_ticks(ends(estimates, zero)), EDGE, WIDTH - EDGE)
    rows = [Row(estimate, x, zero) for estimate in estimates]
    tops = list(accumulate((row.height for row in rows), initial=0.0))
    bottom = tops[-1] + 4
    body = [
        vertical_grid(x, 0, bottom, x_label),
        line(x.start, bottom, x.end, bottom, "axis"),
        *([line(x(0), 0, x(0), bottom, "zero")] if zero else []),
        *(row.drawn(top) for row, top in zip(rows, tops[:-1], strict=True)),
    ]
    said = "; ".join(f"{row.estimate.name} {row.said}" for row in rows)
    svg = drawing(bottom + 2.9 * LINE, title or x_label, f"{x_label}: {said}.", body)
    return chart(title, svg, keys(estimates, zero, half_label, span_label))


class Row:
    """Name and value over dot and whiskers; a name too long for a line takes more."""

    def __init__(self, estimate: Estimate, x: Axis, zero: bool) -> None:
        self.estimate, self.x, self.zero = estimate, x, zero
        self.said = in_numbers(estimate, x.digits + 1, zero)
        room = int(WIDTH / LETTER) - len(self.said) - 2
        self.lines = wrap(estimate.name, room, break_long_words=False)
        self.height = LINE * (len(self.lines) + 1.9)

    def drawn(self, top: float) -> str:
        """The row below ``top``."""
        sure = self.zero and self.estimate.settled
        lines = enumerate(self.lines, start=1)
        words = "".join(letters(0, top + LINE * i, part, "name") for i, part in lines)
        kind = "name settled" if sure else "name"
        words += letters(WIDTH, top + LINE, self.said, kind, "end")
        hollow = "" if sure or not self.zero else " hollow"
        dot = self.dot_and_whiskers(top + LINE * (len(self.lines) + 0.85))
        return f'{words}<g class="estimate{hollow}">{dot}</g>'

    def dot_and_whiskers(self, y: float) -> str:
        """What is drawn of the figure itself, at the height y."""
        if not finite(self.estimate.value):
            return ""
        parts = []
        if span := heavy(self.estimate):
            parts.append(line(self.x(span[0]), y, self.x(span[1]), y, "heavy"))
        if span := light(self.estimate):
            parts.append(light_whisker(self.x(span[0]), self.x(span[1]), y))
        words = f"{self.estimate.name}: {self.said}"
        return "".join([*parts, mark(DISC, self.x(self.estimate.value), y, words)])


def light_whisker(left: float, right: float, y: float) -> str:
    """A thin line with its ends marked, so that it shows within a heavy one."""
    ends = (line(end, y - 4.5, end, y + 4.5, "light") for end in (left, right))
    return line(left, y, right, y, "light") + "".join(ends)


def ends(estimates: Sequence[Estimate], zero: bool) -> Iterator[float]:
    """All figures that the axis has to cover."""
    yield from [0.0] if zero else []
    for estimate in estimates:
        yield from [estimate.value] if finite(estimate.value) else []
        yield from heavy(estimate) or ()
        yield from light(estimate) or ()


def heavy(estimate: Estimate) -> Span | None:
    """The interval over seeds."""
    value, half = estimate.value, estimate.half_interval
    return (value - half, value + half) if finite(value) and finite(half) else None


def light(estimate: Estimate) -> Span | None:
    """The second interval."""
    value, span = estimate.value, estimate.span
    return span if finite(value) and span and all(map(finite, span)) else None


def in_numbers(estimate: Estimate, digits: int, zero: bool) -> str:
    """A value with one of its intervals, that over seeds if it has one."""
    if not finite(estimate.value):
        return "n/a"
    sign = "+" if zero else "-"
    said = number(estimate.value, digits, sign)
    if heavy(estimate):
        return f"{said} ± {number(estimate.half_interval or 0, digits)}"
    if span := light(estimate):
        return f"{said} [{number(span[0], digits, sign)}, {number(span[1], digits, sign)}]"
    return said


def keys(
    estimates: Sequence[Estimate], zero: bool, half_label: str, span_label: str
) -> Iterator[str]:
    """The legend: only what is drawn."""
    if any(map(heavy, estimates)):
        yield key("estimate", line(0, 7, 32, 7, "heavy"), half_label)
    if any(map(light, estimates)):
        yield key("estimate", light_whisker(1, 31, 7), span_label)
    if zero:
        yield key("estimate", mark(DISC, 16, 7), "all intervals exclude zero")
        yield key("estimate hollow", mark(DISC, 16, 7), "an interval holds zero or is missing")
