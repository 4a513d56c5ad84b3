"""Estimates with their intervals, one below the other, as inline SVG: a forest plot."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .charts import NOTHING
from .svg import (
    DISC,
    LINE,
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

ROW = 50  # a row's height: its name and value, its whiskers below
EDGE = 24  # room on both sides, for half of a tick's number
SEEDS = "95 % interval over seeds"
PAIRS = "95 % interval over pairs (bootstrap)"
Span = tuple[float, float]


class Estimate(NamedTuple):
    """A figure, often a difference between two rows of the table, and how sure it is.

    ``half_interval`` is half the 95 % interval over seeds, ``span`` a second interval (low, high),
    say by bootstrap over pairs. A value that is None or NaN is printed as n/a.
    """

    name: str
    value: float | None
    half_interval: float | None = None
    span: Span | None = None


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
            a dot is full, and the number bold, only where there is an interval and none holds zero.
        title: over the chart, and what a screen reader says first.
        half_label: what the heavy whisker is, for the legend.
        span_label: what the light whisker is, for the legend.

    Returns:
        HTML, also well-formed XML: one ``div``, or a sentence if there is nothing to draw.
    """
    spans = [span for estimate in estimates for span in (heavy(estimate), light(estimate)) if span]
    values = [e.value for e in estimates if finite(e.value)]
    if not values:
        return NOTHING
    covered = [*values, *(end for span in spans for end in span), *([0.0] if zero else [])]
    x = Axis(round_ticks(covered), EDGE, WIDTH - EDGE)
    bottom = ROW * len(estimates) + 4
    body = [
        vertical_grid(x, 0, bottom, x_label),
        line(x.start, bottom, x.end, bottom, "axis"),
        *([line(x(0), 0, x(0), bottom, "zero")] if zero else []),
        *(row(estimate, ROW * i, x, zero) for i, estimate in enumerate(estimates)),
    ]
    said = "; ".join(f"{e.name} {in_numbers(e, x.digits + 1, zero)}" for e in estimates)
    svg = drawing(bottom + 2.9 * LINE, title or x_label, f"{x_label}: {said}.", body)
    return chart(title, svg, keys(estimates, zero, half_label, span_label))


def row(estimate: Estimate, top: float, x: Axis, zero: bool) -> str:
    """Name and value over dot and whiskers."""
    said = in_numbers(estimate, x.digits + 1, zero)
    sure = zero and settled(estimate)
    words = letters(0, top + LINE, estimate.name, "name")
    words += letters(WIDTH, top + LINE, said, "name settled" if sure else "name", "end")
    if not finite(estimate.value):
        return words
    y = top + 1.8 * LINE
    whiskers = whisker(light(estimate), x, y, "light") + whisker(heavy(estimate), x, y, "heavy")
    hollow = " hollow" if zero and not sure else ""
    dot = mark(DISC, x(estimate.value), y, f"{estimate.name}: {said}")
    return f'{words}<g class="estimate{hollow}">{whiskers}{dot}</g>'


def whisker(span: Span | None, x: Axis, y: float, weight: str) -> str:
    """An interval."""
    return line(x(span[0]), y, x(span[1]), y, weight) if span else ""


def heavy(estimate: Estimate) -> Span | None:
    """The interval over seeds."""
    value, half = estimate.value, estimate.half_interval
    return (value - half, value + half) if finite(value) and finite(half) else None


def light(estimate: Estimate) -> Span | None:
    """The second interval."""
    value, span = estimate.value, estimate.span
    return span if finite(value) and span and all(map(finite, span)) else None


def settled(estimate: Estimate) -> bool:
    """Whether there is an interval and none holds zero."""
    spans = [span for span in (heavy(estimate), light(estimate)) if span]
    return bool(spans) and not any(low <= 0 <= high for low, high in spans)


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
        yield key("estimate", line(0, 7, 32, 7, "light"), span_label)
    if zero:
        yield key("estimate", mark(DISC, 16, 7), "no interval holds zero")
        yield key("estimate hollow", mark(DISC, 16, 7), "an interval holds zero, or there is none")
