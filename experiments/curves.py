"""How a chart draws its curves: bands, dashed lines, marks, and each series' own look."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, pairwise
from typing import NamedTuple

from .svg import MARKS, Axis, Place, mark

COLOURS = 10  # as many as the style sheet has: .series-0 … .series-9
DASHES = ("none", "7 3", "2 3", "10 3 2 3")  # with five marks, full or hollow: 20 ways
NEAR = 10  # no name fits between places this close to each other


class Sample(NamedTuple):
    """A finite point of a curve; half the 95 % interval of y is 0 where there is none."""

    x: float
    y: float
    half: float = 0


Curve = Sequence[Sequence[Sample]]  # its stretches: it is interrupted where a figure is missing


def bands(i: int, curve: Curve, x: Axis, y: Axis) -> str:
    """The 95 % intervals around the curve of series i."""
    drawn = []
    for stretch in curve:
        for wide, part in groupby(stretch, lambda sample: sample.half > 0):
            if wide:
                there = list(part)
                upper = [(x(s.x), y(s.y + s.half)) for s in there]
                lower = [(x(s.x), y(s.y - s.half)) for s in reversed(there)]
                drawn.append(f'<path class="band" d="{path(upper + lower)}Z"/>')
    return group(i, drawn)


def curve_line(i: int, name: str, curve: Curve, x: Axis, y: Axis) -> str:
    """The curve of series i and the marks of its points."""
    lines = [stroke(i, path(places(stretch, x, y))) for stretch in curve if len(stretch) > 1]
    marks = [series_mark(i, x(s.x), y(s.y), f"{name}: {spoken(s)}") for s in chain(*curve)]
    return group(i, [*lines, *marks])


def places(stretch: Sequence[Sample], x: Axis, y: Axis) -> list[Place]:
    """Where the points lie."""
    return [(x(s.x), y(s.y)) for s in stretch]


def along(curve: Curve, x: Axis, y: Axis) -> Iterator[Place]:
    """Places all along a curve, near each other."""
    for stretch in curve:
        for a, b in pairwise(places(stretch, x, y)):
            steps = 1 + int(math.dist(a, b) / NEAR)
            for k in range(steps + 1):
                yield a[0] + k / steps * (b[0] - a[0]), a[1] + k / steps * (b[1] - a[1])


def path(there: Sequence[Place]) -> str:
    """A path from place to place."""
    return "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in there)


def stroke(i: int, drawn: str) -> str:
    """The line of series i."""
    return f'<path class="curve" stroke-dasharray="{DASHES[i % len(DASHES)]}" d="{drawn}"/>'


def series_mark(i: int, px: float, py: float, words: str = "") -> str:
    """A mark of series i."""
    return mark(MARKS[i % len(MARKS)], px, py, words)


def group(i: int, parts: Sequence[str]) -> str:
    """Parts in the colour of series i."""
    return f'<g class="{kind(i)}">{"".join(parts)}</g>'


def kind(i: int) -> str:
    """The classes of series i: its colour, and whether its marks are hollow."""
    return f"series-{i % COLOURS}" + (" hollow" if i // len(MARKS) % 2 else "")


def spoken(sample: Sample) -> str:
    """A point in numbers."""
    said = f"{sample.x:.4g}, {sample.y:.4g}" + (f" ± {sample.half:.2g}" if sample.half else "")
    return said.replace("-", "−")
