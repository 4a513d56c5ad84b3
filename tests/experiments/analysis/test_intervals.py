import math

import numpy as np
import pytest
from scipy import stats
from underdrawing.experiments.analysis.intervals import (
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
    assert samples.std() == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_standard_error_of_a_handful_is_not_too_small(n: int) -> None:
    """n draws instead of n - 1 would lack a factor √(1 - 1/n): 0.71, 0.82, 0.89."""
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    assert resampled_means(values).std() == pytest.approx(stats.sem(values), rel=0.05)


def every_pair(photos: int, paintings: int) -> tuple[list[int], list[int]]:
    """Each photo with each painting."""
    return np.repeat(range(photos), paintings).tolist(), [*range(paintings)] * photos


def test_a_pair_counts_as_often_as_both_of_its_pictures() -> None:
    """So the mean of photo effects is resampled apart from that of painting effects."""
    photo, painting = every_pair(6, 5)
    rng = np.random.default_rng(0)
    of_photos, of_paintings = rng.random(6)[photo], rng.random(5)[painting]
    effects = [resampled_means(x, photo, painting) for x in (of_photos, of_paintings)]
    np.testing.assert_allclose(
        resampled_means(of_photos + of_paintings, photo, painting), sum(effects)
    )
    np.testing.assert_allclose(
        resampled_means(of_photos * of_paintings, photo, painting), effects[0] * effects[1]
    )
    assert abs(stats.pearsonr(*effects).statistic) < 0.08
    for values, samples in zip((of_photos, of_paintings), effects, strict=True):
        distinct = np.unique(values)
        assert samples.std() == pytest.approx(stats.sem(distinct), rel=0.06)


Effects = tuple[float, float, float]  # standard deviations over photos, paintings and pairs


def coverage(
    photo: list[int], painting: list[int], effects: Effects, *resampled: list[int]
) -> float:
    """How often the 95 % interval holds the true mean, 0, of pairs with effects of their photo, of
    their painting and of their own; photos and paintings are drawn anew each time.
    """
    rng, rounds, covered = np.random.default_rng(0), 300, 0
    for _ in range(rounds):
        parts = (np.array(photo), np.array(painting), np.arange(len(photo)))
        values = sum(
            scale * rng.standard_normal(part.max() + 1)[part]
            for scale, part in zip(effects, parts, strict=True)
        )
        interval = percentile_interval(resampled_means(np.asarray(values), *resampled))
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    return covered / rounds


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 1, 0.3), (0.3, 0.3, 1), (0, 0, 1)])
def test_the_interval_covers_the_truth_though_pairs_share_pictures(
    effects: Effects,
) -> None:
    photo, painting = every_pair(15, 12)
    assert coverage(photo, painting, effects, photo, painting) >= 0.9
    if effects[2] < 1:  # pictures matter: as if pairs were independent, it would fail
        assert coverage(photo, painting, effects) < 0.55


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 1, 0.3), (0.3, 0.3, 1)])
def test_photos_that_come_once_each_are_resampled_with_their_paintings(
    effects: Effects,
) -> None:
    """Conservative it need not be there: what a pair has of its own is resampled once."""
    photo, painting = list(range(60)), [*range(15)] * 4
    assert 0.88 <= coverage(photo, painting, effects, photo, painting) <= 0.97
    values = np.random.default_rng(0).random(60)
    clusters = values.reshape(4, 15).mean(axis=0)
    np.testing.assert_allclose(resampled_means(values, photo, painting), resampled_means(clusters))
    np.testing.assert_array_equal(
        resampled_means(values, painting, photo), resampled_means(values, photo, painting)
    )


def test_where_no_picture_comes_twice_pairs_are_resampled() -> None:
    values, pictures = np.random.default_rng(0).random(30), list(range(30))
    np.testing.assert_array_equal(
        resampled_means(values, pictures, pictures[::-1]), resampled_means(values)
    )


def test_a_picture_that_all_pairs_share_is_given() -> None:
    values, pictures = np.random.default_rng(0).random(30), list(range(30))
    np.testing.assert_array_equal(resampled_means(values, pictures, [0] * 30),
                                  resampled_means(values))  # fmt: skip


def test_one_pair_alone_has_no_interval() -> None:
    assert np.isnan(resampled_means(np.array([0.5]), [0], [0])).all()
    assert percentile_interval(resampled_means(np.array([0.5]), [0], [0])) is None


def test_a_sample_without_a_pair_has_no_mean() -> None:
    """Of two photos and two paintings one each is drawn: one time in four the pair that is not."""
    samples = resampled_means(np.array([1.0, 2.0, 3.0]), [0, 0, 1], [0, 1, 0])
    assert np.isnan(samples).mean() == pytest.approx(0.25, abs=0.05)
    assert set(samples[~np.isnan(samples)]) == {1.0, 2.0, 3.0}
    assert percentile_interval(samples) is None


def test_resamples_are_of_the_same_pairs_for_whatever_is_measured() -> None:
    (one, other), sides = np.random.default_rng(0).random((2, 30)), every_pair(6, 5)
    np.testing.assert_allclose(
        resampled_means(np.stack([one, other]), *sides),
        [resampled_means(one, *sides), resampled_means(other, *sides)],
        rtol=1e-12,
    )
    shifted = resampled_means(one + 0.25, *sides) - resampled_means(one, *sides)
    np.testing.assert_allclose(shifted, 0.25)  # paired: what all pairs share is no doubt
    assert resampled_means(one, *sides).std() > 0.01


def test_another_seed_draws_other_pictures() -> None:
    values, sides = np.random.default_rng(0).random(30), every_pair(6, 5)
    first = resampled_means(values, *sides)
    assert not np.array_equal(first, resampled_means(values, *sides, seed=1))
    np.testing.assert_array_equal(first, resampled_means(values, *sides, seed=0))


def test_a_pair_that_is_not_a_number_is_left_out() -> None:
    values = np.full(20, 0.5)
    values[3] = math.nan
    np.testing.assert_allclose(resampled_means(values), 0.5)


def test_the_percentile_interval_is_the_middle_of_the_samples() -> None:
    samples = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    assert percentile_interval(samples) == pytest.approx((0.025, 0.975))


def test_an_interval_leaves_out_a_twentieth_of_the_samples_and_no_more() -> None:
    samples = np.linspace(0, 1, 2000)
    samples[-100:] = math.nan
    left = samples[:-100]
    assert percentile_interval(samples) == pytest.approx((0.025 * left[-1], 0.975 * left[-1]))
    samples[0] = math.nan
    assert percentile_interval(samples) is None


def test_a_curve_is_not_extrapolated_below_its_start() -> None:
    gaps, figures = np.array([0.0, 0.5]), np.array([1.0, 0.6])
    assert math.isnan(float(read_off(gaps, figures, -0.1)))
    assert float(read_off(gaps, figures, 0.0)) == 1.0
