"""Interpolation at matched style, and confidence intervals over seeds and over test pairs."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
MAX_MISSING = 0.05  # largest share of NaN bootstrap samples that an interval may leave out
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean_and_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return the mean over seeds and half its 95 % interval (Student's t).

    Both are None if any value is missing; the interval is None for a single seed.
    """
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if len(numbers) < len(values) or not numbers:
        return None, None
    if len(numbers) == 1:
        return numbers[0], None
    t = T95[min(len(numbers) - 1, len(T95)) - 1]
    return mean(numbers), t * stdev(numbers) / math.sqrt(len(numbers))


def read_off(gaps: Array, values: Array, gap: float | Array) -> Array:
    """Interpolate content/style curves at a style gap closed: comparison at matched style.

    Linear between neighboring strengths. Where a curve crosses ``gap`` more than once, the
    crossing at the lowest strength counts. Never extrapolated.

    Args:
        gaps: (..., S) style gap closed at S rising strengths, the first of them 0.
        values: (..., S) the metric to interpolate.
        gap: the style gap to compare at, one for all curves or (...) one per curve.

    Returns:
        (...) values at ``gap``; NaN for a curve that does not reach it or starts above it.
    """
    reached = gaps >= np.asarray(gap)[..., None]
    right = np.argmax(reached, axis=-1, keepdims=True)
    left = np.maximum(right - 1, 0)

    def pick(array: Array, index: NDArray[np.intp]) -> Array:
        return np.take_along_axis(array, index, axis=-1)[..., 0]

    low, high = pick(gaps, left), pick(gaps, right)
    share = np.where(high > low, (gap - low) / np.where(high > low, high - low, 1), 1)
    value = (1 - share) * pick(values, left) + share * pick(values, right)
    return np.where(reached.any(axis=-1) & (np.asarray(gap) >= gaps[..., 0]), value, np.nan)


def resampled_means(per_pair: Array, *images: Sequence[int], seed: int = 0) -> Array:
    """Return means over bootstrap samples of pairs, (..., N) -> (..., RESAMPLES).

    Pairs that share an image are dependent. So photos and paintings are resampled separately, and
    a pair's weight is the product of its images' counts: the pigeonhole bootstrap (Owen 2007,
    Annals of Applied Statistics 1). It is valid for any photo and painting effects, and
    conservative: the variance of pair effects is overestimated up to threefold. With three to six
    images per side it is still too narrow (coverage 82 to 92 % in a simulation of strong effects).

    Sides whose images all occur once, or are all the same, are not resampled; without any other
    side, pairs are. The draws depend only on images and seed, so all rows share them (a paired
    bootstrap). NaN pairs are left out of a mean; a sample without pairs is NaN.

    Args:
        per_pair: values (..., N).
        images: indices (N,) of each pair's photo, and of its painting; none: independent pairs.
        seed: of the draws.
    """
    n = per_pair.shape[-1]
    repeated = tuple(tuple(side) for side in images if 1 < len(set(side)) < n)
    draws, valid = _draws(repeated or (tuple(range(n)),), seed), ~np.isnan(per_pair)
    totals, counts = np.where(valid, per_pair, 0) @ draws, valid.astype(float) @ draws
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


@lru_cache(maxsize=1)  # drawing takes longer than everything done with the draws
def _draws(sides: tuple[tuple[int, ...], ...], seed: int) -> Array:
    """Return how often each of N pairs occurs in each bootstrap sample, (N, RESAMPLES)."""
    rng, draws = np.random.default_rng(seed), np.ones((len(sides[0]), RESAMPLES))
    for side in sides:
        n = max(side) + 1
        # n - 1 draws of n images: n draws underestimate the variance by 1/n (Rao and Wu 1988),
        # which matters with a handful of images.
        drawn = rng.multinomial(n - 1, np.full(n, 1 / n), size=RESAMPLES)
        draws *= drawn.T[np.array(side)]
    return draws


def percentile_interval(samples: Array) -> tuple[float, float] | None:
    """Return the central 95 % of bootstrap samples without NaN; None if over 5 % are NaN."""
    missing = np.isnan(samples)
    if missing.mean() > MAX_MISSING:
        return None
    low, high = np.percentile(samples[~missing], [2.5, 97.5])
    return float(low), float(high)
