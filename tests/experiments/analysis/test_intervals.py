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

# -- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [*range(2, 32), 60])
def test_interval_is_students_t_and_conservative_beyond_its_table(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(0.8, 0.05, seeds)
    mean, half = mean_and_interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    ratio = (half or 0) / (stats.t.ppf(0.975, seeds - 1) * stats.sem(values))
    assert ratio == pytest.approx(1, rel=5e-4) if seeds < 32 else 1 < ratio < 1.05


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25], (0.25, None)), ([0.25, 0.25, 0.25], (0.25, 0.0)), ([], (None, None)),
        ([None, 0.5], (None, None)), ([0.5, 0.6, None], (None, None)),
        ([math.nan, 0.5], (None, None)),
    ],
)  # fmt: skip
def test_one_seed_has_no_interval_and_a_missing_one_leaves_no_mean(
    values: list[float | None], expected: tuple[float | None, float | None]
) -> None:
    assert mean_and_interval(values) == expected


# -- interpolation --------------------------------------------------------------------------------


LINE = [0.0, 0.2, 0.6], [1.0, 0.8, 0.4]
BACK = [0.0, 0.4, 0.2, 0.6], [1.0, 0.8, 0.7, 0.3]  # read at the crossing of the lowest strength
FLAT = [0.0, 0.3, 0.3], [1.0, 0.7, 0.5]


@pytest.mark.parametrize(
    ("curve", "gap", "value"),
    [
        (LINE, 0.0, 1.0), (LINE, 0.1, 0.9), (LINE, 0.2, 0.8), (LINE, 0.3, 0.7), (LINE, 0.6, 0.4),
        (BACK, 0.3, 0.85), (BACK, 0.5, 0.4), (FLAT, 0.3, 0.7), (LINE, np.nextafter(0.6, 1), None),
        (LINE, np.nextafter(0, -1), None), (LINE, math.nan, None),
    ],
)  # fmt: skip
def test_curve_is_interpolated_linearly_and_never_extrapolated(
    curve: tuple[list[float], list[float]], gap: float, value: float | None
) -> None:
    gaps, ssim = map(np.array, curve)
    found = read_off(gaps, ssim, gap)
    assert np.isnan(found) if value is None else found == pytest.approx(value)


def test_read_off_of_many_curves_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.zeros((20, 1)), rng.normal(0.4, 0.3, (20, 3))], axis=-1)
    values, own = rng.random((20, 4)), rng.normal(0.4, 0.3, 20)
    for at in (np.full(20, 0.5), own):
        expected = [read_off(*curve) for curve in zip(gaps, values, at, strict=True)]
        assert 0 < np.isnan(expected).sum() < 20
        found = read_off(gaps.reshape(4, 5, 4), values.reshape(4, 5, 4), at.reshape(4, 5))
        np.testing.assert_allclose(found.flatten(), expected)
    repeated = read_off(gaps, values, np.full(20, 0.5))
    np.testing.assert_array_equal(read_off(gaps, values, 0.5), repeated)


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


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 0.3, 1), (0, 0, 1)])
def test_interval_covers_the_truth_although_pairs_share_images(effects: Effects) -> None:
    photo, painting = every_pair(15, 12)
    assert coverage(photo, painting, effects, photo, painting) >= 0.9
    if effects[2] < 1:  # resampling pairs as if they were independent would fail
        assert coverage(photo, painting, effects) < 0.55


@pytest.mark.parametrize("effects", [(1, 1, 0.3), (0.3, 0.3, 1)])
def test_photos_that_occur_once_are_resampled_with_their_paintings(effects: Effects) -> None:
    photo, painting = list(range(60)), [*range(15)] * 4
    assert 0.88 <= coverage(photo, painting, effects, photo, painting) <= 0.97
    values = np.random.default_rng(0).random(60)
    samples = resampled_means(values, photo, painting)
    np.testing.assert_allclose(samples, resampled_means(values.reshape(4, 15).mean(axis=0)))
    np.testing.assert_array_equal(samples, resampled_means(values, painting, photo))


def test_pairs_are_resampled_without_repeated_or_with_one_shared_image() -> None:
    values, distinct = np.random.default_rng(0).random(30), list(range(30))
    for sides in ((distinct, distinct[::-1]), (distinct, [0] * 30)):
        np.testing.assert_array_equal(resampled_means(values, *sides), resampled_means(values))


def test_nan_pairs_are_left_out_and_a_sample_without_pairs_is_nan() -> None:
    """One of two photos and one of two paintings are drawn: 1 in 4 times the missing pair."""
    samples = resampled_means(np.array([1.0, 2.0, 3.0]), [0, 0, 1], [0, 1, 0])
    assert np.isnan(samples).mean() == pytest.approx(0.25, abs=0.05)
    assert set(samples[~np.isnan(samples)]) == {1.0, 2.0, 3.0}
    assert percentile_interval(samples) is None
    assert percentile_interval(resampled_means(np.array([0.5]), [0], [0])) is None
    np.testing.assert_allclose(resampled_means(np.array([0.5] * 19 + [math.nan])), 0.5)


def test_samples_are_paired_between_metrics_and_depend_on_the_seed() -> None:
    (one, other), sides = np.random.default_rng(0).random((2, 30)), every_pair(6, 5)
    first, second = (resampled_means(values, *sides) for values in (one, other))
    both = resampled_means(np.stack([one, other]), *sides)
    np.testing.assert_allclose(both, [first, second], rtol=1e-12)
    np.testing.assert_allclose(resampled_means(one + 0.25, *sides) - first, 0.25)
    assert first.std() > 0.01
    assert not np.array_equal(first, resampled_means(one, *sides, seed=1))
    np.testing.assert_array_equal(first, resampled_means(one, *sides, seed=0))


def test_percentile_interval_is_the_central_95_percent_without_up_to_5_percent_nan() -> None:
    samples = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    assert percentile_interval(samples) == pytest.approx((0.025, 0.975))
    samples = np.append(samples[samples < 0.95], [math.nan] * 50)
    assert percentile_interval(samples) == pytest.approx((0.025 * 0.949, 0.975 * 0.949))
    samples[0] = math.nan
    assert percentile_interval(samples) is None
