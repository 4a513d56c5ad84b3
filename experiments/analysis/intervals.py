"""What may be said of figures: intervals over seeds, comparison at matched style, bootstrap."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
MAX_MISSING = 0.05  # share of samples without the figure that an interval may leave out
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

    Linear between the neighboring strengths; where a curve passes ``at`` more than once, its
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


def resampled_means(per_pair: Array, *pictures: Sequence[int], seed: int = 0) -> Array:
    """Means over bootstrap samples of pairs: (..., N) -> (..., RESAMPLES).

    Pairs that share a picture are not independent of each other. So pictures are resampled, photos
    and paintings apart, and a pair counts as often as its photo times as often as its painting was
    drawn: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1). It is valid for
    whatever effects photos and paintings have, and conservative: what is a pair's own gets up to
    three times its variance. Pictures that come once each are resampled with those that they are
    paired with, not once more; where no picture comes twice, that is resampling pairs. A picture
    that all pairs share is taken as given.

    With fewer than about ten pictures a side, intervals are still too narrow: three to six photos
    and as many paintings cover 82 to 92 % in a simulation of strong effects.

    The draws depend on the pairs' pictures and the seed alone, so that two rows' resamples are of
    the same pairs (the bootstrap is paired). Pairs that are NaN are left out of a mean; the mean
    of a sample without any pair is NaN.

    Args:
        per_pair: figures (..., N).
        pictures: numbers (N,) from 0 on, of each pair's photo, and of its painting; without any,
            each pair is by itself.
        seed: of the draws.
    """
    n = per_pair.shape[-1]
    shared = tuple(tuple(side) for side in pictures if 1 < len(set(side)) < n)
    draws, identity_settings = _draws(shared or (tuple(range(n)),), seed), ~np.isnan(per_pair)
    totals, counts = (
        np.where(identity_settings, per_pair, 0) @ draws,
        identity_settings.astype(float) @ draws,
    )
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


@lru_cache(maxsize=1)  # drawing takes longer than all that is done with the draws
def _draws(sides: tuple[tuple[int, ...], ...], seed: int) -> Array:
    """How often each of N pairs is in each bootstrap sample, (N, RESAMPLES)."""
    rng, draws = np.random.default_rng(seed), np.ones((len(sides[0]), RESAMPLES))
    for side in sides:
        n = max(side) + 1
        # One draw fewer than there are pictures: else the variance is too small by 1/n (Rao and
        # Wu 1988), which with a handful of pictures is much.
        drawn = rng.multinomial(n - 1, np.full(n, 1 / n), size=RESAMPLES)
        draws *= drawn.T[np.array(side)]
    return draws


def percentile_interval(samples: Array) -> tuple[float, float] | None:
    """The middle 95 % of bootstrap samples, those that are NaN left out; None if over 5 % are."""
    missing = np.isnan(samples)
    if missing.mean() > MAX_MISSING:
        return None
    low, high = np.percentile(samples[~missing], [2.5, 97.5])
    return float(low), float(high)
