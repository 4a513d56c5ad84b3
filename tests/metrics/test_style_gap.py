import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.metrics.style_gap import (
    ACTIVATION_STD,
    LITE0_ACTIVATION_STD,
    MIN_DISTANCE,
    style_vector,
)
from underdrawing.metrics.style_gap import style_distance as distance
from underdrawing.metrics.style_gap import style_gap_closed as gap_closed

Features = dict[str, Tensor]


def features(seed: int, batch: int = 3, side: int = 6) -> Features:
    generator = torch.Generator().manual_seed(seed)
    scales = 0.5 + torch.rand(batch, 4, 1, 1, generator=generator)
    return {
        layer: k * scales * torch.rand(batch, 4, side, side, generator=generator)
        for layer, k in ACTIVATION_STD.items()
    }


def style_distance(a: Features, b: Features) -> Tensor:
    return distance(style_vector(a), style_vector(b))


def style_gap_closed(*features: Features) -> Tensor:
    return gap_closed(*map(style_vector, features))


def by_hand(a: Features, b: Features) -> list[float]:
    totals = np.zeros(len(a["relu1_1"]))
    for layer, k in ACTIVATION_STD.items():
        for i in range(len(totals)):
            for c in range(4):
                x, y = (f[layer][i, c].double().numpy() for f in (a, b))
                totals[i] += ((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2) / (4 * k**2)
    return np.sqrt(totals).tolist()


def between(a: Features, b: Features, share: float) -> Features:
    return {layer: torch.lerp(a[layer], b[layer], share) for layer in a}


def test_the_distance_is_the_formula() -> None:
    a, b = features(0), features(1)
    assert style_distance(a, b).tolist() == pytest.approx(by_hand(a, b), rel=1e-5)
    torch.testing.assert_close(style_distance(a, b), style_distance(b, a))
    assert torch.equal(style_distance(a, a), torch.zeros(3))


def test_the_distance_does_not_see_places_or_sizes() -> None:
    a, b = features(0), features(1)
    mirrored = {layer: f.flip(-1) for layer, f in a.items()}
    tiled = {layer: f.tile(1, 1, 2, 3) for layer, f in a.items()}
    for other in (mirrored, tiled):
        torch.testing.assert_close(style_distance(other, b), style_distance(a, b))


def test_layers_count_alike() -> None:
    base = features(0)
    for layer, k in ACTIVATION_STD.items():
        moved = base | {layer: base[layer] + 0.3 * k}
        torch.testing.assert_close(style_distance(moved, base), torch.full((3,), 0.3))


def test_layers_of_another_network_count_alike_by_its_own_scales() -> None:
    """Moved by 0.3 k at one layer it is 0.3 away, by 0.3 k and 0.4 k at two 0.5."""
    base = {layer: torch.rand(2, 5, 4, 4) for layer in LITE0_ACTIVATION_STD}

    def away(**shifts: float) -> Tensor:
        moved = {
            layer: f + shifts.get(layer, 0) * LITE0_ACTIVATION_STD[layer]
            for layer, f in base.items()
        }
        return distance(*(style_vector(f, LITE0_ACTIVATION_STD) for f in (moved, base)))

    for layer in LITE0_ACTIVATION_STD:
        torch.testing.assert_close(away(**{layer: 0.3}), torch.full((2,), 0.3))
    torch.testing.assert_close(away(stage1=0.3, stage5=-0.4), torch.full((2,), 0.5))


def test_other_layers_are_not_looked_at() -> None:
    a, b = features(0), features(1)
    more = a | {"relu5_1": torch.rand(3, 4, 2, 2)}
    assert torch.equal(style_distance(more, b), style_distance(a, b))


def test_the_gap_is_the_formula() -> None:
    stylized, content, style = features(0), features(1), features(2)
    ratio = np.divide(by_hand(stylized, style), by_hand(content, style))
    assert style_gap_closed(stylized, content, style).tolist() == pytest.approx(1 - ratio, rel=1e-4)


def test_nothing_happened_is_zero_and_matched_is_one() -> None:
    content, style = features(0), features(1)
    assert torch.equal(style_gap_closed(content, content, style), torch.zeros(3))
    assert torch.equal(style_gap_closed(style, content, style), torch.ones(3))


def test_going_the_wrong_way_is_negative() -> None:
    content, style = features(0), features(1)
    away = between(content, style, -2.0)
    assert (style_gap_closed(away, content, style) < 0).all()


def test_pairs_that_start_near_are_nan_and_the_others_are_not() -> None:
    content = features(0)
    shifts = torch.tensor([0.9, 1.1, 3.0]) * MIN_DISTANCE
    layer, k = "relu2_1", ACTIVATION_STD["relu2_1"]
    style = content | {layer: content[layer] + k * shifts[:, None, None, None]}
    closed = style_gap_closed(between(content, style, 0.25), content, style)
    assert closed.isnan().tolist() == [True, False, False]
    torch.testing.assert_close(closed[1:], torch.full((2,), 0.25), rtol=0, atol=1e-3)
    assert style_gap_closed(content, content, content).isnan().all()
