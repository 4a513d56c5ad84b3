"""Scores and curves with known values."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from underdrawing.experiments.analysis.curves import Curve
from underdrawing.experiments.analysis.intervals import Array
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, Scores

PAIRS = np.zeros(40)


@pytest.fixture
def make_scores() -> Callable[..., Scores]:
    """Pairs that differ from the mean by ``pairs``, equally in all metrics."""

    def make(
        gap: float, ssim: float, pairs: Array = PAIRS, kernel: float | None = 0.1,
        frechet: float | None = None,
    ) -> Scores:  # fmt: skip
        away, n = pairs - pairs.mean(), len(pairs)
        values = {"ssim": ssim, "ssim_worst": ssim - 0.3, "lpips": 1 - ssim, "style_gap": gap}
        per_pair = {k: (value + away * (k != "style_gap")).tolist() for k, value in values.items()}
        return Scores(
            **values, frechet=frechet, kernel=kernel, pairs=n, outputs=n, left_out=0,
            per_pair=per_pair, photo=list(range(n)), painting=list(range(n)),
        )  # fmt: skip

    return make


@pytest.fixture
def make_curve(make_scores: Callable[..., Scores]) -> Callable[..., Curve]:
    """A row that loses ``price`` in SSIM for every unit of style gap it closes."""

    def make(price: float, gaps: Sequence[float] = (0.3, 0.6), pairs: Array = PAIRS) -> Curve:
        scores = [make_scores(gap, 1 - price * gap, pairs * gap) for gap in (0.0, *gaps)]
        return Curve(tuple(np.linspace(0, 1, len(scores)).tolist()), tuple(scores))

    return make


@pytest.fixture
def networks() -> MetricNetworks:
    """Networks that compute nothing, for the names of the columns."""
    network = FeatureExtractor(lambda images, _: {}, [], lambda f: f["none"], "toy", "")
    return MetricNetworks(network, network, network, "LPIPS", "Fréchet (toy)", "KID (toy)")
