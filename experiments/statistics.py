"""What may be said of figures: intervals over seeds, comparison at matched style, bootstrap."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
# Student's t, two-sided 95 %, by degrees of freedom; rows have at most a handful of seeds
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_and_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and half the 95 % interval (Student's t) over seeds; None where not to be had."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if len(numbers) < len(values) or not numbers:
        return None, None
    if len(numbers) == 1:
        return numbers[0], None
    t = T95[min(len(numbers) - 2, len(T95) - 1)]
    return mean(numbers), t * stdev(numbers) / math.sqrt(len(numbers))


def read_off(gaps: Array, figures: Array, at: float | Array) -> Array:
    """A content/style curve read at one style gap closed: comparison at matched style.

    Linear between the neighbouring strengths; where a curve passes ``at`` more than once, its
    first passing counts, that of the lowest strength. Never extrapolated.

    Args:
        gaps: (..., S) style gap closed at S rising strengths, the first of them 0.
        figures: (..., S) what is read off.
        at: the style gap to compare at, one for all or (...) each curve's own.

    Returns:
        (...) figures at ``at``; NaN for a curve that does not reach it, or starts beyond it.
    """
    reached = gaps >= np.asarray(at)[..., None]
    right = np.argmax(reached, axis=-1, keepdims=True)
    left = np.maximum(right - 1, 0)

    def pick(values: Array, index: NDArray[np.intp]) -> Array:
        return np.take_along_axis(values, index, axis=-1)[..., 0]

    low, high = pick(gaps, left), pick(gaps, right)
    share = np.where(high > low, (at - low) / np.where(high > low, high - low, 1), 1)
    value = (1 - share) * pick(figures, left) + share * pick(figures, right)
    within = reached.any(axis=-1) & (np.asarray(at) >= gaps[..., 0])
    return np.where(within, value, np.nan)


def resampled_means(per_pair: Array, seed: int = 0) -> Array:
    """Means over bootstrap samples of the pairs: (..., N) -> (..., RESAMPLES).

    The draws depend on N and the seed alone, so that two rows' resamples are of the same pairs
    (the bootstrap is paired). Pairs that are NaN are left out of a mean.
    """
    draws, counted = _draws(per_pair.shape[-1], seed), ~np.isnan(per_pair)
    totals = np.where(counted, per_pair, 0) @ draws
    return totals / np.maximum(counted.astype(float) @ draws, 1)


@lru_cache(maxsize=1)  # drawing takes longer than all that is done with the draws
def _draws(n: int, seed: int) -> Array:
    """How often each of N pairs is in each bootstrap sample, (N, RESAMPLES)."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return draws.T.astype(np.float64)


def percentile_interval(samples: Array) -> tuple[float, float] | None:
    """The middle 95 % of bootstrap samples; None if any is not to be had."""
    if np.isnan(samples).any():
        return None
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
