from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.metrics.style_gap import (
    ACTIVATION_STD,
    LITE0_ACTIVATION_STD,
    MIN_DISTANCE,
    style_distance,
    style_gap_closed,
    style_vector,
)

Features = dict[str, Tensor]


def random_features(seed: int, scales: Mapping[str, float] = ACTIVATION_STD) -> Features:
    generator = torch.Generator().manual_seed(seed)
    factors = 0.5 + torch.rand(3, 4, 1, 1, generator=generator)
    return {
        layer: k * factors * torch.rand(3, 4, 6, 6, generator=generator)
        for layer, k in scales.items()
    }


def gap_closed(*features: Features) -> Tensor:
    return style_gap_closed(*map(style_vector, features))


def distance_formula(a: Features, b: Features, scales: Mapping[str, float]) -> list[float]:
    totals = np.zeros(3)
    for layer, k in scales.items():
        for i, c in np.ndindex(3, 4):
            x, y = (f[layer][i, c].double().numpy() for f in (a, b))
            totals[i] += ((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2) / (4 * k**2)
    return np.sqrt(totals).tolist()


def interpolate(a: Features, b: Features, share: float) -> Features:
    return {layer: torch.lerp(a[layer], b[layer], share) for layer in a}


@pytest.mark.parametrize("scales", [ACTIVATION_STD, LITE0_ACTIVATION_STD])
def test_distance_equals_the_formula(scales: dict[str, float]) -> None:
    a, b = random_features(0, scales), random_features(1, scales)
    x, y = style_vector(a, scales), style_vector(b, scales)
    assert style_distance(x, y).tolist() == pytest.approx(distance_formula(a, b, scales), rel=1e-5)
    assert torch.equal(style_distance(x, x), torch.zeros(3))


def test_gap_closed_is_zero_for_the_photo_one_for_the_painting_negative_beyond_the_photo() -> None:
    content, style = random_features(0), random_features(1)
    assert torch.equal(gap_closed(content, content, style), torch.zeros(3))
    assert torch.equal(gap_closed(style, content, style), torch.ones(3))
    assert (gap_closed(interpolate(content, style, -2.0), content, style) < 0).all()


def test_gap_closed_is_nan_for_pairs_below_the_minimum_distance_only() -> None:
    content = random_features(0)
    shifts = torch.tensor([0.9, 1.1, 3.0]) * MIN_DISTANCE
    layer, k = "relu2_1", ACTIVATION_STD["relu2_1"]
    style = content | {layer: content[layer] + k * shifts[:, None, None, None]}
    closed = gap_closed(interpolate(content, style, 0.25), content, style)
    assert closed.isnan().tolist() == [True, False, False]
    torch.testing.assert_close(closed[1:], torch.full((2,), 0.25), rtol=0, atol=1e-3)
