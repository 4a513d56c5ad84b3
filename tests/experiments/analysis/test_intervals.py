import math

import numpy as np
import pytest
from scipy import stats
from underdrawing.experiments.analysis.intervals import (
    RESAMPLES,
    T95,
    mean_and_interval,
    percentile_interval,
    read_off,
    resampled_means,
)

GAPS = np.array([0.0, 0.2, 0.6])
SSIM = np.array([1.0, 0.8, 0.4])


# -- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 6, 10, 31])
def test_interval_is_students_t(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(0.8, 0.05, seeds)
    mean, half = mean_and_interval(values.tolist())
    low, high = stats.t.interval(0.95, seeds - 1, values.mean(), stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert mean is not None
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3)


def test_table_of_quantiles_is_exact_and_conservative_beyond() -> None:
    exact = stats.t.ppf(0.975, np.arange(1, len(T95) + 1))
    np.testing.assert_allclose(T95, exact, atol=5e-4)
    values = np.random.default_rng(0).normal(0.8, 0.05, 60)
    half = mean_and_interval(values.tolist())[1] or 0.0
    exact = stats.t.ppf(0.975, 59) * stats.sem(values)
    assert exact < half < 1.05 * exact


def test_one_seed_has_no_interval_and_equal_seeds_one_of_zero() -> None:
    assert mean_and_interval([0.25]) == (0.25, None)
    assert mean_and_interval([0.25, 0.25, 0.25]) == (0.25, 0.0)


@pytest.mark.parametrize("values", [[], [None], [None, 0.5], [0.5, 0.6, None], [math.nan, 0.5]])
def test_one_missing_seed_makes_mean_and_interval_missing(values: list[float | None]) -> None:
    assert mean_and_interval(values) == (None, None)


# -- interpolation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "value"), [(0.0, 1.0), (0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.6, 0.4)]
)
def test_read_off_interpolates_linearly(gap: float, value: float) -> None:
    assert read_off(GAPS, SSIM, gap) == pytest.approx(value)


@pytest.mark.parametrize("gap", [np.nextafter(0.6, 1), np.nextafter(0, -1), math.nan])
def test_read_off_never_extrapolates(gap: float) -> None:
    assert np.isnan(read_off(GAPS, SSIM, gap))


def test_read_off_takes_the_crossing_at_the_lowest_strength() -> None:
    gaps, ssim = np.array([0.0, 0.4, 0.2, 0.6]), np.array([1.0, 0.8, 0.7, 0.3])
    assert read_off(gaps, ssim, 0.3) == pytest.approx(0.85)
    assert read_off(gaps, ssim, 0.5) == pytest.approx(0.4)
    flat = np.array([0.0, 0.3, 0.3])
    assert read_off(flat, np.array([1.0, 0.7, 0.5]), 0.3) == pytest.approx(0.7)


def test_read_off_of_many_curves_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.zeros((4, 5, 1)), rng.normal(0.4, 0.3, (4, 5, 3))], axis=-1)
    values, own = rng.random((4, 5, 4)), rng.normal(0.4, 0.3, (4, 5))
    for at in (np.full((4, 5), 0.5), own):
        expected = [
            [float(read_off(gaps[i, j], values[i, j], at[i, j])) for j in range(5)]
            for i in range(4)
        ]
        assert 0 < np.isnan(expected).sum() < 20
        np.testing.assert_allclose(read_off(gaps, values, at), expected)
    np.testing.assert_array_equal(
        read_off(gaps, values, 0.5), read_off(gaps, values, np.full((4, 5), 0.5))
    )


# -- bootstrap ------------------------------------------------------------------------------------


def every_pair(photos: int, paintings: int) -> tuple[list[int], list[int]]:
    """Each photo with each painting."""
    return np.repeat(range(photos), paintings).tolist(), [*range(paintings)] * photos


@pytest.mark.parametrize("n", [2, 3, 5, 50])
def test_resampled_means_spread_by_the_standard_error(n: int) -> None:
    """n draws instead of n - 1 would lack a factor √(1 - 1/n): 0.71, 0.82, 0.89."""
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    samples, error = resampled_means(values), stats.sem(values)
    assert samples.shape == (RESAMPLES,)
    assert samples.mean() == pytest.approx(values.mean(), abs=4 * error / math.sqrt(RESAMPLES))
    assert samples.std() == pytest.approx(error, rel=0.05)


def test_weight_of_a_pair_is_the_product_of_its_images_counts() -> None:
    photo, painting = every_pair(6, 5)
    rng = np.random.default_rng(0)
    of_photos, of_paintings = rng.random(6)[photo], rng.random(5)[painting]
    effects = [resampled_means(x, photo, painting) for x in (of_photos, of_paintings)]
    for combine in (np.add, np.multiply):
        np.testing.assert_allclose(
            resampled_means(combine(of_photos, of_paintings), photo, painting), combine(*effects)
        )
    assert abs(stats.pearsonr(*effects).statistic) < 0.08
    for values, samples in zip((of_photos, of_paintings), effects, strict=True):
        assert samples.std() == pytest.approx(stats.sem(np.unique(values)), rel=0.06)


Effects = tuple[float, float, float]  # standard deviations over photos, paintings and pairs


def coverage(photo: list[int], painting: list[int], effects: Effects, *images: list[int]) -> float:
    """How often the 95 % interval contains the true mean, 0, over newly drawn effects."""
    rng, rounds, covered = np.random.default_rng(0), 300, 0
    parts = (np.array(photo), np.array(painting), np.arange(len(photo)))
    for _ in range(rounds):
        values = sum(
            scale * rng.standard_normal(part.max() + 1)[part]
            for scale, part in zip(effects, parts, strict=True)
        )
        interval = percentile_interval(resampled_means(np.asarray(values), *images))
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    return covered / rounds


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 1, 0.3), (0.3, 0.3, 1), (0, 0, 1)])
def test_interval_covers_the_truth_although_pairs_share_images(effects: Effects) -> None:
    photo, painting = every_pair(15, 12)
    assert coverage(photo, painting, effects, photo, painting) >= 0.9
    if effects[2] < 1:  # resampling pairs as if they were independent would fail
        assert coverage(photo, painting, effects) < 0.55


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 1, 0.3), (0.3, 0.3, 1)])
def test_photos_that_occur_once_are_resampled_with_their_paintings(effects: Effects) -> None:
    photo, painting = list(range(60)), [*range(15)] * 4
    assert 0.88 <= coverage(photo, painting, effects, photo, painting) <= 0.97
    values = np.random.default_rng(0).random(60)
    clusters = values.reshape(4, 15).mean(axis=0)
    samples = resampled_means(values, photo, painting)
    np.testing.assert_allclose(samples, resampled_means(clusters))
    np.testing.assert_array_equal(samples, resampled_means(values, painting, photo))


def test_pairs_are_resampled_without_repeated_or_with_one_shared_image() -> None:
    values, distinct = np.random.default_rng(0).random(30), list(range(30))
    for sides in ((distinct, distinct[::-1]), (distinct, [0] * 30)):
        np.testing.assert_array_equal(resampled_means(values, *sides), resampled_means(values))


def test_one_pair_has_no_interval() -> None:
    samples = resampled_means(np.array([0.5]), [0], [0])
    assert np.isnan(samples).all()
    assert percentile_interval(samples) is None


def test_nan_pairs_are_left_out_and_a_sample_without_pairs_is_nan() -> None:
    """One of two photos and one of two paintings are drawn: 1 in 4 times the missing pair."""
    samples = resampled_means(np.array([1.0, 2.0, 3.0]), [0, 0, 1], [0, 1, 0])
    assert np.isnan(samples).mean() == pytest.approx(0.25, abs=0.05)
    assert set(samples[~np.isnan(samples)]) == {1.0, 2.0, 3.0}
    assert percentile_interval(samples) is None
    np.testing.assert_allclose(resampled_means(np.array([0.5] * 19 + [math.nan])), 0.5)


def test_samples_are_paired_between_metrics_and_depend_on_the_seed() -> None:
    (one, other), sides = np.random.default_rng(0).random((2, 30)), every_pair(6, 5)
    first = resampled_means(one, *sides)
    np.testing.assert_allclose(
        resampled_means(np.stack([one, other]), *sides),
        [first, resampled_means(other, *sides)],
        rtol=1e-12,
    )
    np.testing.assert_allclose(resampled_means(one + 0.25, *sides) - first, 0.25)
    assert first.std() > 0.01
    assert not np.array_equal(first, resampled_means(one, *sides, seed=1))
    np.testing.assert_array_equal(first, resampled_means(one, *sides, seed=0))


def test_percentile_interval_is_the_central_95_percent_without_up_to_5_percent_nan() -> None:
    samples = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    assert percentile_interval(samples) == pytest.approx((0.025, 0.975))
    samples = np.linspace(0, 1, 2000)
    samples[-100:] = math.nan
    end = samples[1899]
    assert percentile_interval(samples) == pytest.approx((0.025 * end, 0.975 * end))
    samples[0] = math.nan
    assert percentile_interval(samples) is None
