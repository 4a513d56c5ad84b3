from collections.abc import Sequence
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
QUIET = np.zeros(PAIRS)
NOISE = np.random.default_rng(0).normal(0, 0.05, PAIRS)


def make_scores(
    gap: float, ssim: float, pairs: Array = QUIET, kernel: float | None = 0.1
) -> Scores:
    """Pairs that differ from their mean by what is given, all figures alike."""
    away = pairs - pairs.mean()
    figures = {"ssim": ssim, "ssim_worst": ssim - 0.3, "lpips": 1 - ssim, "style_gap": gap}
    return Scores(
        **figures, frechet=None, kernel=kernel, frechet_photos=None, pairs=len(away), left_out=0,
        per_pair={key: list(value + away * (key != "style_gap")) for key, value in figures.items()},
        photo=list(range(len(away))), painting=list(range(len(away))),
    )  # fmt: skip


def make_curve(price: float, gaps: Sequence[float] = (0.3, 0.6), pairs: Array = QUIET) -> Curve:
    """A row that pays ``price`` in SSIM for every unit of style gap it closes."""
    strengths = np.linspace(0, 1, len(gaps) + 1).tolist()
    scores = [make_scores(gap, 1 - price * gap, pairs * gap) for gap in (0.0, *gaps)]
    return Curve(tuple(strengths), tuple(scores))


def test_a_curve_crosses_a_gap_at_a_known_strength() -> None:
    curve = make_curve(0.5, gaps=(0.2, 0.6))
    assert curve.strength_at(0.2) == pytest.approx(0.5)
    assert curve.strength_at(0.4) == pytest.approx(0.75)
    assert curve.at(0.4, "ssim") == pytest.approx(0.8)
    assert curve.at(0.4, "style_gap") == pytest.approx(0.4)
    assert curve.full.style_gap == 0.6


def test_a_gap_out_of_reach_and_a_figure_that_is_not_there_are_none() -> None:
    curve = make_curve(0.5)
    assert curve.strength_at(0.61) is None
    assert curve.at(0.61, "ssim") is None
    assert curve.at(0.5, "frechet") is None
    lacking = replace(curve, scores=(make_scores(0, 1, kernel=None), *curve.scores[1:]))
    assert lacking.at(0.2, "kernel") is None
    assert lacking.at(0.5, "kernel") == pytest.approx(0.1)


def test_resamples_are_each_matched_anew() -> None:
    """Where a pair's SSIM is 1 - its own gap, so is any sample's, at whatever gap it is read."""
    rng = np.random.default_rng(1)
    scores = []
    for gap in (0.0, 0.4, 0.8):
        gaps = gap * rng.uniform(0.5, 1.5, PAIRS)
        figures = {"style_gap": gaps, "ssim": 1 - gaps}
        means = {key: float(value.mean()) for key, value in figures.items()}
        per_pair = {key: value.tolist() for key, value in figures.items()}
        scores.append(replace(make_scores(0, 0), **means, per_pair=per_pair))  # type: ignore[arg-type]
    curve = Curve((0.0, 0.5, 1.0), tuple(scores))
    np.testing.assert_allclose(curve.resampled_at(0.5, "ssim"), 0.5)
    own = rng.uniform(0.1, 0.6, curve.resampled_at(0.5, "ssim").shape)
    np.testing.assert_allclose(curve.resampled_at(own, "ssim"), 1 - own)


def test_a_mere_change_of_weight_wins_nothing_at_matched_style() -> None:
    """Half the style weight: twice the strength for the same picture, along the same curve."""
    gaps = (0.15, 0.3, 0.45, 0.6)
    heavy = make_curve(0.5, gaps, NOISE)
    light = make_curve(0.5, [gap / 1.5 for gap in gaps], NOISE)
    assert light.full.ssim > heavy.full.ssim + 0.05
    rows = {"light": [light], "heavy": [heavy]}
    found = difference(rows, "light", "heavy", "ssim", 0.37)
    assert found.mean == pytest.approx(0, abs=1e-9)
    assert found.pairs_interval == pytest.approx((0, 0), abs=1e-9)
    assert not found.decided


def test_a_difference_is_that_of_the_curves_seed_by_seed() -> None:
    seeds = [(0.5, 0.4), (0.6, 0.45), (0.55, 0.5)]
    rows = {"b": [make_curve(b) for _, b in seeds], "a": [make_curve(a) for a, _ in seeds]}
    found = difference(rows, "b", "a", "ssim", 0.4)
    gains = np.array([0.4 * (a - b) for a, b in seeds])
    assert found.mean == pytest.approx(gains.mean())
    assert found.half_interval == pytest.approx(4.303 * gains.std(ddof=1) / 3**0.5)


def test_a_row_that_one_seed_does_not_reach_has_no_difference() -> None:
    rows = {"b": [make_curve(0.4), make_curve(0.4, gaps=(0.1, 0.2))], "a": [make_curve(0.5)] * 2}
    found = difference(rows, "b", "a", "ssim", 0.4)
    assert (found.mean, found.half_interval, found.pairs_interval) == (None, None, None)
    assert not found.decided


def test_a_distance_between_sets_has_no_interval_over_pairs() -> None:
    rows = {"b": [make_curve(0.4)] * 2, "a": [make_curve(0.5)] * 2}
    assert difference(rows, "b", "a", "kernel", 0.4).pairs_interval is None
    assert difference(rows, "b", "a", "ssim", 0.4).pairs_interval is not None


@pytest.mark.parametrize(
    ("key", "half", "pairs", "decided"),
    [
        ("ssim", 0.01, (0.01, 0.03), True),
        ("ssim", 0.01, (-0.01, 0.03), False),
        ("ssim", 0.03, (0.01, 0.03), False),
        ("ssim", 0.01, None, False),
        ("ssim", None, (0.01, 0.03), False),
        ("style_gap_independent", 0.01, (-0.01, 0.03), False),
        ("style_gap_independent", 0.01, (0.01, 0.03), True),
        ("kernel", 0.01, None, True),
        ("kernel", 0.03, None, False),
    ],
)
def test_a_sign_is_beyond_doubt_when_all_intervals_say_so(
    key: str, half: float | None, pairs: tuple[float, float] | None, decided: bool
) -> None:
    assert Difference("b", "a", key, 0.02, half, pairs).decided == decided
    mirrored = (-pairs[1], -pairs[0]) if pairs else None
    assert Difference("a", "b", key, -0.02, half, mirrored).decided == decided


def test_the_common_gap_is_what_every_seed_of_every_row_that_stylized_reaches() -> None:
    rows = {
        "far": [make_curve(0.5, gaps=(0.3, 0.72)), make_curve(0.5, gaps=(0.3, 0.65))],
        "near": [make_curve(0.5, gaps=(0.3, 0.567)), make_curve(0.5, gaps=(0.585, 0.52))],
        "lazy": [make_curve(0.5, gaps=(0.1, 0.205)), make_curve(0.5, gaps=(0.1, 0.5))],
    }
    assert common_gap(rows, least=0.4) == 0.56
    assert common_gap({"near": rows["near"][1:]}, least=0.4) == 0.58  # on the way
    assert common_gap(rows, least=0.3) == 0.2
    assert common_gap(rows, least=0.9) is None
    assert common_gap({}, least=0.1) is None


def spread(curve: Curve, by_pair: Array) -> Curve:
    """Pairs that close so many times the mean style gap."""
    scores = [
        replace(s, per_pair=s.per_pair | {"style_gap": list(s.style_gap * by_pair)})
        for s in curve.scores
    ]
    return replace(curve, scores=tuple(scores))


def test_at_the_common_gap_there_is_an_interval_over_pairs() -> None:
    """Half of the samples of the row that limits the others fall short of its mean; and the seeds,
    whose pairs differ, do in other samples.
    """
    rng = np.random.default_rng(3)
    rows = {
        name: [spread(make_curve(price), 1 + 0.3 * rng.standard_normal(PAIRS)) for _ in range(3)]
        for name, price in (("b", 0.4), ("a", 0.5))
    }
    at = common_gap(rows, least=0.3)
    assert at is not None
    assert 0.4 < at < 0.6
    assert difference(rows, "b", "a", "ssim", at).pairs_interval is not None
    assert difference(rows, "b", "a", "ssim", 0.6).pairs_interval is None
    reached = np.mean([curve.reach() >= at for seeds in rows.values() for curve in seeds])
    assert 0.97 < reached < 1  # 0.975 at least, and not every last one


def test_the_common_gap_leaves_out_the_lowest_samples() -> None:
    rows = {"a": [spread(make_curve(0.5), 1 + 5 * NOISE)]}
    at = common_gap(rows, least=0.3)
    assert at == pytest.approx(np.percentile(rows["a"][0].reach(), 2.5), abs=0.01)
    assert at is not None
    assert at > rows["a"][0].reach().min() + 0.02


def test_one_pair_alone_is_compared_where_it_lies() -> None:
    rows = {"b": [make_curve(0.4, pairs=QUIET[:1])], "a": [make_curve(0.5, pairs=QUIET[:1])]}
    assert common_gap(rows, least=0.3) == 0.6
    found = difference(rows, "b", "a", "ssim", 0.4)
    assert found.mean == pytest.approx(0.04)
    assert found.pairs_interval is None


def test_pairs_that_share_pictures_decide_less() -> None:
    """Four paintings, each as good as its ten pairs: the interval is over four, not forty."""
    by_painting = np.array([0.0, 0.08, 0.02, 0.06])[np.arange(PAIRS) % 4]
    apart = {"b": [make_curve(0.4, pairs=by_painting)], "a": [make_curve(0.5)]}
    shared = {
        name: [
            replace(c, scores=tuple(
                replace(s, painting=(np.arange(PAIRS) % 4).tolist()) for s in c.scores
            ))
            for c in seeds
        ]
        for name, seeds in apart.items()
    }  # fmt: skip
    wide, narrow = (difference(rows, "b", "a", "ssim", 0.4) for rows in (shared, apart))
    assert wide.mean == narrow.mean
    assert wide.pairs_interval is not None
    assert narrow.pairs_interval is not None
    widths = [high - low for low, high in (wide.pairs_interval, narrow.pairs_interval)]
    assert widths[0] > 2.5 * widths[1]


def test_the_bootstraps_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Rows whose true difference at a gap of 0.4 is 0.02, on pairs drawn anew each time."""
    rng, covered, rounds = np.random.default_rng(2), 0, 60
    for _ in range(rounds):
        ours, theirs = 1 + 0.3 * rng.standard_normal((2, PAIRS))
        rows = {"b": [_drawn(0.45, ours)], "a": [_drawn(0.5, theirs)]}
        interval = difference(rows, "b", "a", "ssim", 0.4).pairs_interval
        assert interval is not None
        covered += interval[0] <= 0.02 <= interval[1]
    assert 0.87 * rounds <= covered < rounds


def _drawn(price: float, by_pair: Array) -> Curve:
    """A row each of whose pairs pays its own multiple of the price."""
    scores = []
    for gap in (0.0, 0.3, 0.6):
        ssim = 1 - price * gap * by_pair
        base = make_scores(gap, float(ssim.mean()))
        scores.append(replace(base, per_pair=base.per_pair | {"ssim": ssim.tolist()}))
    return Curve((0.0, 0.5, 1.0), tuple(scores))


def test_a_point_is_compared_where_it_lies() -> None:
    points = {"theirs": make_scores(0.4, 0.75, NOISE)}
    rows = {"ours": [make_curve(0.5, pairs=NOISE)]}
    found = point_difference(points, rows, "theirs", "ours", "ssim")
    assert (found.row, found.against) == ("theirs", "ours")
    assert found.mean == pytest.approx(0.75 - 0.8)
    assert found.half_interval is None  # one of each
    assert found.pairs_interval is not None
    low, high = found.pairs_interval
    assert low < -0.05 < high
    assert high - low < 0.03
    assert point_difference(points, rows, "theirs", "ours", "kernel").pairs_interval is None


def test_a_point_on_the_curve_is_no_better_and_no_worse() -> None:
    curve = make_curve(0.5, pairs=NOISE)
    found = point_difference({"x": curve.scores[1]}, {"ours": [curve]}, "x", "ours", "lpips")
    assert found.mean == pytest.approx(0, abs=1e-9)
    assert found.pairs_interval == pytest.approx((0, 0), abs=1e-9)


def test_a_point_beyond_the_curve_is_not_compared() -> None:
    points, rows = {"x": make_scores(0.61, 0.5)}, {"ours": [make_curve(0.5)]}
    assert point_difference(points, rows, "x", "ours", "ssim").mean is None
