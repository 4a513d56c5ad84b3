"""Rows compared as they should be: whole content/style curves, read at one common style gap.

Content scores can be bought with style. So a row is its curve over the strength s, from the photo
itself (s = 0) to the full style (s = 1), and rows are compared where their curves have closed the
same share of the style gap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...metrics.scores import PER_PAIR, Scores
from .intervals import (
    Array,
    mean_and_interval,
    percentile_interval,
    read_off,
    resampled_means,
)


def check_rising(strengths: Sequence[float]) -> None:
    """Refuse strengths that make no curve.

    Raises:
        ValueError: there is none, or they do not rise, over 0 and up to 1.
    """
    rising = sorted({*strengths, 0.0})[1:] == list(strengths)
    if not (rising and strengths and strengths[-1] <= 1):
        raise ValueError(f"strengths are {strengths}; they must rise, over 0 and up to 1")


@dataclass(frozen=True)
class Curve:
    """One run's scores at rising strengths; the first is 0, the photo itself."""

    strengths: tuple[float, ...]
    scores: tuple[Scores, ...]

    def __post_init__(self) -> None:
        assert self.strengths[0] == 0
        assert list(self.strengths) == sorted(self.strengths)
        assert len(self.strengths) == len(self.scores)

    @property
    def full(self) -> Scores:
        """At the highest strength."""
        return self.scores[-1]

    def figure(self, key: str) -> Array:
        """A figure over the strengths, (S,); NaN where it is n/a."""
        values = [getattr(scores, key) for scores in self.scores]
        return np.array([math.nan if value is None else value for value in values])

    def at(self, gap: float, key: str) -> float | None:
        """A figure where the curve has closed this style gap; None if it never does, or n/a."""
        value = float(read_off(self.figure("style_gap"), self.figure(key), gap))
        return None if math.isnan(value) else value

    def strength_at(self, gap: float) -> float | None:
        """The strength at which it has."""
        value = float(read_off(self.figure("style_gap"), np.array(self.strengths), gap))
        return None if math.isnan(value) else value

    def reach(self) -> Array:
        """The largest style gap closed: by the pairs scored, and by bootstrap samples of them,
        (1+RESAMPLES,).
        """
        samples = resampled(self.scores, "style_gap").max(axis=0)
        return np.append(self.figure("style_gap").max(), samples)

    def resampled_at(self, gap: float | Array, key: str) -> Array:
        """``at`` for bootstrap samples of the pairs, (RESAMPLES,): each is matched anew, at one
        style gap or (RESAMPLES,) its own.
        """
        gaps, figures = (resampled(self.scores, name) for name in ("style_gap", key))
        return read_off(gaps.T, figures.T, gap)


def resampled(scores: Sequence[Scores], key: str) -> Array:
    """Means of a figure over bootstrap samples of the pairs, S scores -> (S,RESAMPLES)."""
    per_pair = np.array([s.per_pair[key] for s in scores], dtype=np.float64)
    return resampled_means(per_pair, scores[0].photo, scores[0].painting)


#: The seeds of a row.
Seeds = Sequence[Curve]


def common_gap(rows: Mapping[str, Seeds], least: float) -> float | None:
    """The largest style gap, in hundredths, that every seed of every row reaches on 97.5 % of the
    bootstrap samples of the pairs: samples that fall short are left out of intervals over pairs,
    and must be few.

    Rows whose mean stays under ``least`` did not stylize; they don't hold the others back, and at
    the common gap they are "not reached". None if no row stylized.
    """
    reached = [
        curve.reach()
        for seeds in rows.values()
        if np.mean([curve.full.style_gap for curve in seeds]) >= least
        for curve in seeds
    ]
    if not reached:
        return None
    return math.floor(100 * np.nanpercentile(np.min(reached, axis=0), 2.5)) / 100


@dataclass(frozen=True)
class Difference:
    """One row less another at one style gap, by one figure."""

    row: str
    against: str
    key: str
    mean: float | None
    half_interval: float | None  # 95 %, Student's t over the seeds' own differences
    pairs_interval: tuple[float, float] | None  # 95 %, bootstrap over the test pairs

    @property
    def decided(self) -> bool:
        """Whether the sign is beyond doubt: over seeds, and over pairs where there is such an
        interval.
        """
        if self.mean is None or self.half_interval is None or abs(self.mean) <= self.half_interval:
            return False
        if self.key not in PER_PAIR:
            return True
        return self.pairs_interval is not None and math.prod(self.pairs_interval) > 0


def difference(
    rows: Mapping[str, Seeds], row: str, against: str, key: str, at: float
) -> Difference:
    """Compare two rows, seed by seed and pair by pair."""
    ours, theirs = rows[row], rows[against]
    both = [(a.at(at, key), b.at(at, key)) for a, b in zip(ours, theirs, strict=True)]
    gains = [None if a is None or b is None else a - b for a, b in both]
    pairs = None
    if key in PER_PAIR and None not in gains:
        samples = [
            a.resampled_at(at, key) - b.resampled_at(at, key)
            for a, b in zip(ours, theirs, strict=True)
        ]
        pairs = percentile_interval(np.mean(samples, axis=0))
    return Difference(row, against, key, *mean_and_interval(gains), pairs)


def point_difference(
    points: Mapping[str, Scores], rows: Mapping[str, Seeds], point: str, row: str, key: str
) -> Difference:
    """Compare a system that has no curve with a row, at the system's own style gap."""
    ours, theirs = points[point], rows[row]
    value, kept = getattr(ours, key), [curve.at(ours.style_gap, key) for curve in theirs]
    gains = [None if value is None or other is None else value - other for other in kept]
    pairs = None
    if key in PER_PAIR and None not in gains:
        (gaps,), (figures,) = (resampled([ours], name) for name in ("style_gap", key))
        pairs = percentile_interval(
            figures - np.mean([curve.resampled_at(gaps, key) for curve in theirs], axis=0)
        )
    return Difference(point, row, key, *mean_and_interval(gains), pairs)
