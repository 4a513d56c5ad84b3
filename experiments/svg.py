"""What the report's charts are drawn with: axes with round ticks, letters, marks, and a frame.

Units are those of a drawing ``WIDTH`` wide, y downwards. Colours and sizes of letters are the style
sheet's (`report_style`), so that a chart is light or dark as its page is.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple, TypeGuard

WIDTH = 480
LETTER = 8.5  # width to keep for a letter, at the size that a phone gets
LINE = 18  # from one line of letters to the next
FOOT = 1.2 * LINE  # room for a control's name between the lowest tick and the x axis
MOST_TICKS = 6
STEPS = (1, 2, 2.5, 5, 10)

MARKS = (
    "M-3.6,0a3.6,3.6 0 1 0 7.2,0a3.6,3.6 0 1 0 -7.2,0Z",
    "M-3.2,-3.2H3.2V3.2H-3.2Z",
    "M0,-4.6L4.3,3.2H-4.3Z",
    "M0,-4.6L4.6,0L0,4.6L-4.6,0Z",
    "M0,4.6L4.3,-3.2H-4.3Z",
)
DISC = MARKS[0]
CROSS = "M-4,-4L4,4M-4,4L4,-4"

NOTHING = '<p class="hint">There is no figure to draw here.</p>'
Place = tuple[float, float]


class Axis(NamedTuple):
    """Round ticks and where the first and the last of them lie."""

    ticks: list[float]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.ticks[0], self.ticks[-1]
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def digits(self) -> int:
        """How many decimals tell the ticks apart."""
        step = self.ticks[1] - self.ticks[0]
        enough = (d for d in range(15) if abs(round(step, d) - step) < step / 1000)
        return next(enough, 15)

    def labels(self) -> list[str]:
        """The ticks in words, all with the same number of decimals."""
        return [number(tick, self.digits) for tick in self.ticks]


def round_ticks(values: Iterable[float]) -> list[float]:
    """At least two ticks at round numbers that cover all (finite) values, one value or more."""
    values = list(values)
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 10 or 1
        low, high = low - room, high + room
    rough = (high - low) / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in STEPS if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float, digits: int, sign: str = "-") -> str:
    """A number with a true minus sign, never a minus zero."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a figure at all."""
    return value is not None and math.isfinite(value)


def letters(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of letters."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<path class="{kind}" d="M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}"/>'


def mark(shape: str, x: float, y: float, words: str = "") -> str:
    """A mark; words appear where the pointer rests on it."""
    title = f"<title>{escape(words)}</title>" if words else ""
    return f'<path class="mark" d="{shape}" transform="translate({x:.1f} {y:.1f})">{title}</path>'


def vertical_grid(axis: Axis, top: float, bottom: float, label: str) -> str:
    """The x axis: a line at each tick, its number below, what is measured below those."""
    lines = (line(axis(tick), top, axis(tick), bottom, "grid") for tick in axis.ticks)
    names = (
        letters(axis(tick), bottom + 1.1 * LINE, name, "tick", "middle")
        for tick, name in zip(axis.ticks, axis.labels(), strict=True)
    )
    middle = (axis.start + axis.end) / 2
    return "".join([*lines, *names, letters(middle, bottom + 2.4 * LINE, label, "", "middle")])


def drawing(height: float, title: str, description: str, body: Sequence[str]) -> str:
    """The frame: it takes the width it is given, and says what it shows to those who cannot see."""
    inside = "\n".join(body)
    return f"""<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">
<title>{escape(title)}</title>
<desc>{escape(description)}</desc>
{inside}
</svg>"""


def key(kind: str, sample: str, name: str) -> str:
    """An entry of a legend."""
    shown = f'<svg class="key" viewBox="0 0 32 14" aria-hidden="true">{sample}</svg>'
    return f'<li class="{kind}">{shown}<span>{escape(name)}</span></li>'


def chart(title: str, svg: str, keys: Iterable[str]) -> str:
    """A drawing between its title and its legend; the legend is a list, so that it wraps."""
    heading = f'<p class="chart-title">{escape(title)}</p>' if title else ""
    legend = "\n".join(keys)
    return f'<div class="chart">{heading}\n{svg}\n<ul class="legend">\n{legend}\n</ul></div>'
