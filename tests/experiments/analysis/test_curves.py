from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from underdrawing.experiments.analysis.curves import (
    Curve,
    Difference,
    common_gap,
    difference,
    point_difference,
)
from underdrawing.experiments.analysis.intervals import Array
from underdrawing.metrics.scores import Scores

PAIRS = 40
NOISE = np.random.default_rng(0).normal(0, 0.05, PAIRS)
MakeCurve = Callable[..., Curve]
MakeScores = Callable[..., Scores]


def with_pairs(curve: Curve, **per_pair: Callable[[Scores], Array]) -> Curve:
    """Replace the values of the pairs in some metrics."""
    scores = [
        replace(s, per_pair=s.per_pair | {key: make(s).tolist() for key, make in per_pair.items()})
        for s in curve.scores
    ]
    return replace(curve, scores=tuple(scores))


def width(found: Difference) -> float:
    """Width of the interval over pairs."""
    assert found.pairs_interval is not None
    return found.pairs_interval[1] - found.pairs_interval[0]


# -- one curve ------------------------------------------------------------------------------------


def test_curve_is_read_at_a_style_gap_within_reach(
    make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    curve = make_curve(0.5, gaps=(0.2, 0.6))
    assert curve.at(0.2, "strength") == pytest.approx(0.5)
    assert curve.at(0.4, "strength") == pytest.approx(0.75)
    assert curve.at(0.4, "ssim") == pytest.approx(0.8)
    assert curve.at(0.4, "style_gap") == pytest.approx(0.4)
    assert curve.full.style_gap == 0.6
    assert curve.at(0.61, "strength") is curve.at(0.61, "ssim") is None
    assert curve.at(0.5, "frechet") is None
    partial = replace(curve, scores=(make_scores(0, 1, kernel=None), *curve.scores[1:]))
    assert partial.at(0.1, "kernel") is None
    assert partial.at(0.5, "kernel") == pytest.approx(0.1)


def test_each_bootstrap_sample_is_matched_by_its_own_curve(make_curve: MakeCurve) -> None:
    """If every pair's SSIM is 1 - its own gap, so is every sample's, at any gap."""
    rng = np.random.default_rng(1)
    spread = rng.uniform(0.5, 1.5, PAIRS)
    curve = with_pairs(
        make_curve(1.0, gaps=(0.4, 0.8)),
        style_gap=lambda s: s.style_gap * spread,
        ssim=lambda s: 1 - s.style_gap * spread,
    )
    np.testing.assert_allclose(curve.resampled_at(0.5, "ssim"), 0.5)
    own = rng.uniform(0.1, 0.6, curve.resampled_at(0.5, "ssim").shape)
    np.testing.assert_allclose(curve.resampled_at(own, "ssim"), 1 - own)


# -- the common gap -------------------------------------------------------------------------------


def test_common_gap_is_reached_by_every_seed_of_every_row_that_stylizes(
    make_curve: MakeCurve,
) -> None:
    rows = {
        "far": [make_curve(0.5, gaps=(0.3, 0.72)), make_curve(0.5, gaps=(0.3, 0.65))],
        "near": [make_curve(0.5, gaps=(0.3, 0.567)), make_curve(0.5, gaps=(0.585, 0.52))],
        "weak": [make_curve(0.5, gaps=(0.1, 0.205)), make_curve(0.5, gaps=(0.1, 0.5))],
    }
    assert common_gap(rows, minimum=0.4) == 0.56
    assert common_gap({"near": rows["near"][1:]}, minimum=0.4) == 0.58  # not the last strength
    assert common_gap(rows, minimum=0.3) == 0.2
    assert common_gap(rows, minimum=0.9) is None
    assert common_gap({}, minimum=0.1) is None


def test_intervals_over_pairs_exist_at_the_common_gap(make_curve: MakeCurve) -> None:
    """At the mean gap of the row that limits the others, half of its samples fall short; seeds
    with other pairs do so in other samples.
    """
    rng = np.random.default_rng(3)

    def spread(price: float) -> Curve:
        factors = 1 + 0.3 * rng.standard_normal(PAIRS)
        return with_pairs(make_curve(price), style_gap=lambda s: s.style_gap * factors)

    rows = {name: [spread(price) for _ in range(3)] for name, price in (("b", 0.4), ("a", 0.5))}
    gap = common_gap(rows, minimum=0.3) or 0.0
    assert 0.4 < gap < 0.6
    assert difference(rows, "b", "a", "ssim", gap).pairs_interval is not None
    assert difference(rows, "b", "a", "ssim", 0.6).pairs_interval is None
    reached = np.mean([curve.reach() >= gap for seeds in rows.values() for curve in seeds])
    assert 0.97 < reached < 1


# -- differences ----------------------------------------------------------------------------------


def test_changing_only_a_loss_weight_gains_nothing_at_matched_style(make_curve: MakeCurve) -> None:
    """Half the style weight: the same image needs 1.5 times the strength, on the same curve."""
    gaps = (0.15, 0.3, 0.45, 0.6)
    heavy = make_curve(0.5, gaps, NOISE)
    light = make_curve(0.5, [gap / 1.5 for gap in gaps], NOISE)
    assert light.full.ssim > heavy.full.ssim + 0.05
    found = difference({"light": [light], "heavy": [heavy]}, "light", "heavy", "ssim", 0.37)
    assert found.mean == pytest.approx(0, abs=1e-9)
    assert found.pairs_interval == pytest.approx((0, 0), abs=1e-9)
    assert not found.significant


def test_difference_is_paired_by_seed(make_curve: MakeCurve) -> None:
    seeds = [(0.5, 0.4), (0.6, 0.45), (0.55, 0.5)]
    rows = {"b": [make_curve(b) for _, b in seeds], "a": [make_curve(a) for a, _ in seeds]}
    found = difference(rows, "b", "a", "ssim", 0.4)
    gains = np.array([0.4 * (a - b) for a, b in seeds])
    assert found.mean == pytest.approx(gains.mean())
    assert found.half_interval == pytest.approx(4.303 * gains.std(ddof=1) / 3**0.5)
    assert found.pairs_interval is not None
    assert difference(rows, "b", "a", "kernel", 0.4).pairs_interval is None  # not per pair
    short = rows | {"b": [make_curve(0.4, gaps=(0.1, 0.2)), *rows["b"][1:]]}  # one seed is enough
    found = difference(short, "b", "a", "ssim", 0.4)
    assert found == Difference("b", "a", "ssim", None, None, None)
    assert not found.significant


@pytest.mark.parametrize(
    ("key", "half", "pairs", "significant"),
    [
        ("ssim", 0.01, (0.01, 0.03), True),
        ("ssim", 0.01, (-0.01, 0.03), False),
        ("ssim", 0.03, (0.01, 0.03), False),
        ("ssim", 0.01, None, False),
        ("ssim", None, (0.01, 0.03), False),
        ("style_gap_independent", 0.01, (-0.01, 0.03), False),
        ("kernel", 0.01, None, True),
        ("kernel", 0.03, None, False),
    ],
)
def test_difference_is_significant_if_all_intervals_exclude_zero(
    key: str, half: float | None, pairs: tuple[float, float] | None, significant: bool
) -> None:
    assert Difference("b", "a", key, 0.02, half, pairs).significant == significant
    mirrored = (-pairs[1], -pairs[0]) if pairs else None
    assert Difference("a", "b", key, -0.02, half, mirrored).significant == significant


@pytest.mark.parametrize("known", [PAIRS, 10])
def test_pairs_without_a_value_are_left_out_of_a_difference(
    known: int, make_curve: MakeCurve
) -> None:
    """The rows differ by 0.1 in each pair with a value, and by noise in addition."""
    missing = np.where(np.arange(PAIRS) < known, 0.0, np.nan)
    noise = NOISE - NOISE[:known].mean()

    def row(shift: float, spread: float = 0.0) -> list[Curve]:
        def values(scores: Scores) -> Array:
            return 1 - scores.style_gap * (shift + spread * noise) + missing

        curve = with_pairs(make_curve(0.5), boundaries=values)
        means = [float(np.nanmean(s.per_pair["boundaries"])) for s in curve.scores]
        scores = [replace(s, boundaries=x) for s, x in zip(curve.scores, means, strict=True)]
        return [replace(curve, scores=tuple(scores))]

    rows = {"a": row(0.5), "b": row(0.25), "noisy": row(0.25, 1)}
    exact = difference(rows, "b", "a", "boundaries", 0.4)
    assert exact.mean == pytest.approx(0.1)
    assert exact.pairs_interval == pytest.approx((0.1, 0.1))
    noisy = difference(rows, "noisy", "a", "boundaries", 0.4)
    assert noisy.mean == pytest.approx(0.1)
    expected = 2 * 1.96 * 0.4 * noise[:known].std() / known**0.5
    assert width(noisy) == pytest.approx(expected, rel=0.15)
    point = point_difference({"p": rows["noisy"][0].scores[1]}, rows, "p", "b", "boundaries")
    assert point.mean == pytest.approx(0.0, abs=1e-9)


def test_pairs_that_share_paintings_give_wider_intervals(make_curve: MakeCurve) -> None:
    """Four paintings, each with ten equal pairs: the interval is over 4 paintings, not 40 pairs."""
    painting = np.arange(PAIRS) % 4
    by_painting = np.array([0.0, 0.08, 0.02, 0.06])[painting]
    apart = {"b": make_curve(0.4, pairs=by_painting), "a": make_curve(0.5)}
    shared = {
        name: replace(c, scores=tuple(replace(s, painting=painting.tolist()) for s in c.scores))
        for name, c in apart.items()
    }
    wide, narrow = (
        difference({name: [curve] for name, curve in curves.items()}, "b", "a", "ssim", 0.4)
        for curves in (shared, apart)
    )
    assert wide.mean == pytest.approx(0.04)
    assert narrow.mean == pytest.approx(0.04)
    assert width(wide) > 2.5 * width(narrow)


def test_point_is_compared_at_its_own_style_gap(
    make_curve: MakeCurve, make_scores: MakeScores
) -> None:
    points = {"theirs": make_scores(0.4, 0.75, NOISE), "far": make_scores(0.61, 0.5)}
    rows = {"ours": [make_curve(0.5, pairs=NOISE)]}
    found = point_difference(points, rows, "theirs", "ours", "ssim")
    assert (found.row, found.against) == ("theirs", "ours")
    assert found.mean == pytest.approx(0.75 - 0.8)
    assert found.half_interval is None  # one run each
    assert found.pairs_interval is not None
    low, high = found.pairs_interval
    assert low < -0.05 < high < low + 0.03
    assert point_difference(points, rows, "theirs", "ours", "kernel").pairs_interval is None
    assert point_difference(points, rows, "far", "ours", "ssim").mean is None
