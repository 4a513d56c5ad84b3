import math

import numpy as np
import pytest
from scipy import stats
from underdrawing.experiments.statistics import (
    RESAMPLES,
    mean_and_interval,
    percentile_interval,
    read_off,
    resampled_means,
)

GAPS = np.array([0.0, 0.2, 0.6])
SSIM = np.array([1.0, 0.8, 0.4])


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6, 10])
def test_the_interval_is_students(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(0.8, 0.05, seeds)
    mean, half = mean_and_interval(values.tolist())
    low, high = stats.t.interval(0.95, seeds - 1, values.mean(), stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert mean is not None
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3)


def test_with_many_seeds_the_interval_is_rather_too_wide() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.05, 30)
    half = mean_and_interval(values.tolist())[1] or 0.0
    exact = stats.t.ppf(0.975, 29) * stats.sem(values)
    assert exact < half < 1.15 * exact


def test_one_seed_has_no_interval_and_equal_seeds_a_narrow_one() -> None:
    assert mean_and_interval([0.25]) == (0.25, None)
    assert mean_and_interval([0.25, 0.25, 0.25]) == (0.25, 0.0)


@pytest.mark.parametrize("values", [[], [None], [None, 0.5], [0.5, 0.6, None], [math.nan, 0.5]])
def test_a_seed_without_the_figure_makes_it_not_available(values: list[float | None]) -> None:
    assert mean_and_interval(values) == (None, None)


@pytest.mark.parametrize(
    ("at", "figure"), [(0.0, 1.0), (0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.6, 0.4)]
)
def test_a_curve_is_read_off_between_its_strengths(at: float, figure: float) -> None:
    assert read_off(GAPS, SSIM, at) == pytest.approx(figure)


def test_what_a_curve_does_not_reach_is_never_extrapolated() -> None:
    assert np.isnan(read_off(GAPS, SSIM, np.nextafter(0.6, 1)))
    assert np.isnan(read_off(GAPS, SSIM, math.nan))


def test_the_first_passing_counts() -> None:
    gaps, ssim = np.array([0.0, 0.4, 0.2, 0.6]), np.array([1.0, 0.8, 0.7, 0.3])
    assert read_off(gaps, ssim, 0.3) == pytest.approx(0.85)
    assert read_off(gaps, ssim, 0.5) == pytest.approx(0.4)  # the only one, on the last stretch


def test_where_a_curve_rests_its_lowest_strength_counts() -> None:
    gaps, ssim = np.array([0.0, 0.3, 0.3]), np.array([1.0, 0.7, 0.5])
    assert read_off(gaps, ssim, 0.3) == pytest.approx(0.7)


def test_many_curves_at_once_are_read_as_one_by_one_at_one_gap_or_each_at_its_own() -> None:
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.zeros((4, 5, 1)), rng.normal(0.4, 0.3, (4, 5, 3))], axis=-1)
    figures, own = rng.random((4, 5, 4)), rng.normal(0.4, 0.3, (4, 5))
    for at in (np.full((4, 5), 0.5), own):
        expected = [
            [float(read_off(gaps[i, j], figures[i, j], at[i, j])) for j in range(5)]
            for i in range(4)
        ]
        assert np.isnan(expected).any()
        assert not np.isnan(expected).all()
        np.testing.assert_allclose(read_off(gaps, figures, at), expected)
    np.testing.assert_array_equal(
        read_off(gaps, figures, 0.5), read_off(gaps, figures, np.full((4, 5), 0.5))
    )


def test_resampled_means_lie_about_the_mean_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 50)
    samples = resampled_means(values)
    assert samples.shape == (RESAMPLES,)
    error = stats.sem(values)
    assert samples.mean() == pytest.approx(values.mean(), abs=4 * error / math.sqrt(RESAMPLES))
    assert samples.std() == pytest.approx(values.std() / math.sqrt(50), rel=0.1)


def test_resamples_are_of_the_same_pairs_for_whatever_is_measured() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 30))
    np.testing.assert_allclose(
        resampled_means(np.stack([one, other])),
        [resampled_means(one), resampled_means(other)],
        rtol=1e-12,
    )
    shifted = resampled_means(one + 0.25) - resampled_means(one)
    np.testing.assert_allclose(shifted, 0.25)  # paired: what all pairs share is no doubt
    assert resampled_means(one).std() > 0.01


def test_another_seed_draws_other_pairs() -> None:
    values = np.random.default_rng(0).random(30)
    assert not np.array_equal(resampled_means(values), resampled_means(values, seed=1))
    np.testing.assert_array_equal(resampled_means(values), resampled_means(values, seed=0))


def test_a_pair_that_is_not_a_number_is_left_out() -> None:
    values = np.full(20, 0.5)
    values[3] = math.nan
    np.testing.assert_allclose(resampled_means(values), 0.5)


def test_the_percentile_interval_is_the_middle_of_the_samples() -> None:
    samples = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    assert percentile_interval(samples) == pytest.approx((0.025, 0.975))
    samples[0] = math.nan
    assert percentile_interval(samples) is None


def test_a_curve_is_not_extrapolated_below_its_start() -> None:
    gaps, figures = np.array([0.0, 0.5]), np.array([1.0, 0.6])
    assert math.isnan(float(read_off(gaps, figures, -0.1)))
    assert float(read_off(gaps, figures, 0.0)) == 1.0
