"""Comparison of table rows at matched style: content/style curves read at one common style gap.

Content metrics can be improved by stylizing less. So each row is a curve over the strength s, from
the photo (s = 0) to full stylization (s = 1), and rows are compared where their curves have closed
the same share of the style gap.
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


@dataclass(frozen=True)
class Curve:
    """Scores of one run at rising strengths; the first strength is 0, the photo itself."""

    strengths: tuple[float, ...]
    scores: tuple[Scores, ...]

    def __post_init__(self) -> None:
        assert self.strengths[0] == 0
        assert list(self.strengths) == sorted(self.strengths)
        assert len(self.strengths) == len(self.scores)

    @property
    def full(self) -> Scores:
        """Scores at the highest strength."""
        return self.scores[-1]

    def values(self, key: str) -> Array:
        """Return a metric, or ``strength``, over the strengths, (S,); NaN where not available."""
        if key == "strength":
            return np.array(self.strengths)
        values = [getattr(scores, key) for scores in self.scores]
        return np.array([math.nan if value is None else value for value in values])

    def at(self, gap: float, key: str) -> float | None:
        """Return a metric at a style gap; None if the curve does not reach it."""
        value = float(read_off(self.values("style_gap"), self.values(key), gap))
        return None if math.isnan(value) else value

    def reach(self) -> Array:
        """Return the maximum style gap on the data and on each bootstrap sample, (1+RESAMPLES,)."""
        samples = resampled(self.scores, "style_gap").max(axis=0)
        return np.append(self.values("style_gap").max(), samples)

    def resampled_at(self, gap: float | Array, key: str) -> Array:
        """Return ``at`` for bootstrap samples of the pairs, (RESAMPLES,), each matched by its own
        curve, at one style gap or (RESAMPLES,) one per sample.
        """
        gaps, values = (resampled(self.scores, name) for name in ("style_gap", key))
        return read_off(gaps.T, values.T, gap)


#: The curves of a row, one per seed.
Seeds = Sequence[Curve]


def resampled(scores: Sequence[Scores], key: str) -> Array:
    """Return means of a metric over bootstrap samples of the pairs, S scores -> (S,RESAMPLES)."""
    per_pair = np.array([s.per_pair[key] for s in scores], dtype=np.float64)
    return resampled_means(per_pair, scores[0].photo, scores[0].painting)


def common_gap(rows: Mapping[str, Seeds], minimum: float) -> float | None:
    """Return the largest style gap, in hundredths, to compare all rows at.

    Every seed of every row reaches it on 97.5 % of the bootstrap samples of the pairs: samples that
    fall short are left out of intervals over pairs, so they must be few. Rows whose mean style gap
    is below ``minimum`` are ignored. None if all are.
    """
    reached = [
        curve.reach()
        for seeds in rows.values()
        if np.mean([curve.full.style_gap for curve in seeds]) >= minimum
        for curve in seeds
    ]
    if not reached:
        return None
    return math.floor(100 * np.nanpercentile(np.min(reached, axis=0), 2.5)) / 100


@dataclass(frozen=True)
class Difference:
    """One row minus another in one metric at one style gap."""

    row: str
    against: str
    key: str
    mean: float | None
    half_interval: float | None  # 95 %, Student's t over the paired differences of the seeds
    pairs_interval: tuple[float, float] | None  # 95 %, bootstrap over the test pairs

    @property
    def significant(self) -> bool:
        """Whether the interval over seeds, and the one over pairs if the metric is per pair,
        exclude zero.
        """
        if self.mean is None or self.half_interval is None or abs(self.mean) <= self.half_interval:
            return False
        if self.key not in PER_PAIR:
            return True
        return self.pairs_interval is not None and math.prod(self.pairs_interval) > 0


def difference(
    rows: Mapping[str, Seeds], row: str, against: str, key: str, gap: float
) -> Difference:
    """Compare two rows at a style gap, seed by seed and pair by pair."""
    curves = list(zip(rows[row], rows[against], strict=True))
    gains = [_minus(a.at(gap, key), b.at(gap, key)) for a, b in curves]
    pairs = None
    if key in PER_PAIR and None not in gains:
        samples = [a.resampled_at(gap, key) - b.resampled_at(gap, key) for a, b in curves]
        pairs = percentile_interval(np.mean(samples, axis=0))
    return Difference(row, against, key, *mean_and_interval(gains), pairs)


def point_difference(
    points: Mapping[str, Scores], rows: Mapping[str, Seeds], point: str, row: str, key: str
) -> Difference:
    """Compare a method without a curve with a row, at the style gap of the method."""
    ours, theirs = points[point], rows[row]
    gains = [_minus(getattr(ours, key), curve.at(ours.style_gap, key)) for curve in theirs]
    pairs = None
    if key in PER_PAIR and None not in gains:
        (gaps,), (values,) = (resampled([ours], name) for name in ("style_gap", key))
        pairs = percentile_interval(
            values - np.mean([curve.resampled_at(gaps, key) for curve in theirs], axis=0)
        )
    return Difference(point, row, key, *mean_and_interval(gains), pairs)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
