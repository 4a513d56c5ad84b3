"""Where names stand in a chart so that they cover neither curves nor each other."""

from collections.abc import Sequence
from typing import NamedTuple

from .svg import FOOT, LETTER, LINE, WIDTH, Axis, Place


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

    def covers(self, place: Place) -> bool:
        """Whether a place is under the name, or next to it."""
        across = self.left - 3 <= place[0] <= self.left + self.width + 3
        return across and self.base - 13 <= place[1] <= self.base + 4


def free_spots(
    names: Sequence[str], places: Sequence[Place], taken: Sequence[Place], x: Axis, y: Axis
) -> list[Spot]:
    """For each name a spot beside its place, the first of those with the least in the way.

    Args:
        names: what is to be written.
        places: what the names belong to.
        taken: where curves and the guide run; the places themselves count as taken too.
        x: the axis along the bottom.
        y: the axis upwards.
    """
    covered = [*taken, *places]
    spots = []
    for name, place in zip(names, places, strict=True):
        spot = min(beside(place, LETTER * len(name)), key=lambda s: in_the_way(s, covered, x, y))
        # a name is worse to write over than a curve
        covered += 3 * [(spot.left + i * LETTER, spot.base - 5) for i in range(len(name) + 1)]
        spots.append(spot)
    return spots


def beside(place: Place, width: float) -> list[Spot]:
    """Where a name may stand, the best spot first: right, left, above, below, the corners."""
    x, y = place
    right = [Spot(x + 9, y + down, width, "start") for down in (5, -8, 17)]
    left = [Spot(x - 9, y + down, width, "end") for down in (5, -8, 17)]
    middle = [Spot(x, y + down, width, "middle") for down in (-10, 21)]
    return [right[0], left[0], *middle, *right[1:], *left[1:]]


def in_the_way(spot: Spot, covered: Sequence[Place], x: Axis, y: Axis) -> float:
    """How much a name would cover; leaving the plot is worse, but for a line above and below."""
    inside = x.start <= spot.left and spot.left + spot.width <= WIDTH
    inside = inside and y.end - LINE <= spot.base - 10 and spot.base <= y.start + FOOT - 4
    return sum(map(spot.covers, covered)) + (0 if inside else 100)
