import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from underdrawing.losses.attention import (
    attention_statistics,
    collapse_warning,
    error_map,
    kl_to_uniform,
    mean_one,
    robust_weights,
)

F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5
SIZES = ((6, 6), (7, 9), (16, 16), (33, 20), (64, 64))
BUDGETS = (0.05, 0.5, 2.0)


def errors(h: int, w: int, batch: int = 2, dtype: torch.dtype = F64) -> Tensor:
    """Squared normal numbers: heavy-tailed, as feature errors are."""
    return torch.randn(batch, 1, h, w, dtype=dtype).square()


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


def assert_mean_one(a: Tensor, tolerance: float = 1e-6) -> None:
    assert (a >= 0).all()
    assert a.mean(dim=(1, 2, 3)).sub(1).abs().max() < tolerance


# --- robust weights -------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_robust_weights_spend_their_budget_at_every_size(
    size: tuple[int, int], budget: float
) -> None:
    a = robust_weights(errors(*size), budget)
    assert a.shape == (2, 1, *size)
    assert kl_to_uniform(a).sub(budget).abs().max() < 1e-6
    assert_mean_one(a, 1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_robust_weights_spend_their_budget_in_float32(size: tuple[int, int]) -> None:
    a = robust_weights(errors(*size, dtype=torch.float32), BUDGET)
    assert a.dtype == torch.float32
    assert kl_to_uniform(a).sub(BUDGET).abs().max() < 1e-4
    assert_mean_one(a, 1e-5)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_larger_error_never_weighs_less(budget: float) -> None:
    e = errors(1, 64)
    in_order = robust_weights(e, budget).gather(-1, e.argsort(-1))
    assert (in_order.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("budget", BUDGETS)
def test_no_other_weights_at_the_same_kl_find_more_error(budget: float) -> None:
    e = errors(1, 36, batch=1)
    a = robust_weights(e, budget)
    best = (a * e).mean()
    rivals = robust_weights(torch.randn(500, 1, 1, 36, dtype=F64), budget)
    permutations = torch.stack([a[0][..., torch.randperm(36)] for _ in range(500)])
    nudged = robust_weights(e + 0.1 * torch.randn(500, 1, 1, 36, dtype=F64), budget)
    for others in (rivals, permutations, nudged):
        assert kl_to_uniform(others).sub(budget).abs().max() < 1e-6
        assert ((others * e).mean(dim=(1, 2, 3)) <= best + 1e-9).all()


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, 0.0), (3.0, 2.0)])
def test_robust_weights_forget_scale_and_offset_of_the_error(scale: float, offset: float) -> None:
    e = errors(6, 6)
    torch.testing.assert_close(
        robust_weights(scale * e + offset, BUDGET), robust_weights(e, BUDGET), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 1e-8, 3.0, 1e8])
def test_a_flat_error_gives_ones(value: float) -> None:
    flat = torch.full((2, 1, 6, 6), value, dtype=F64)
    torch.testing.assert_close(robust_weights(flat, BUDGET), torch.ones_like(flat))


@pytest.mark.parametrize("budget", [math.log(36), 10.0])
def test_a_budget_beyond_one_position_puts_all_on_the_worst(budget: float) -> None:
    e = errors(6, 6)
    a = robust_weights(e, budget)
    assert a.isfinite().all()
    assert torch.equal(a.flatten(1).argmax(1), e.flatten(1).argmax(1))
    torch.testing.assert_close(kl_to_uniform(a), torch.full((2,), math.log(36), dtype=F64))


def test_equally_bad_positions_share_what_is_beyond_the_budget() -> None:
    e = torch.zeros(1, 1, 4, 4, dtype=F64)
    e[0, 0, :2, 0] = 1
    torch.testing.assert_close(robust_weights(e, 10.0), 8 * e)


def test_each_picture_gets_its_own_temperature() -> None:
    e = torch.cat([errors(6, 6, batch=1), 100 * errors(6, 6, batch=1)])
    alone = torch.cat([robust_weights(e[:1], BUDGET), robust_weights(e[1:], BUDGET)])
    torch.testing.assert_close(robust_weights(e, BUDGET), alone)


def test_robust_weights_of_channels_have_mean_one() -> None:
    a = robust_weights(torch.rand(2, 12, dtype=F64), 0.1)
    torch.testing.assert_close(a.mean(1), torch.ones(2, dtype=F64))


def test_robust_weights_carry_no_gradient() -> None:
    assert not robust_weights(errors(6, 6).requires_grad_(), BUDGET).requires_grad


# --- maps -----------------------------------------------------------------------------------


def test_mean_one_scales_and_turns_nothing_into_ones() -> None:
    x = torch.stack([errors(4, 5, 1)[0], torch.zeros(1, 4, 5, dtype=F64)])
    torch.testing.assert_close(mean_one(x)[0], x[0] / x[0].mean())
    assert torch.equal(mean_one(x)[1], torch.ones(1, 4, 5, dtype=F64))


def test_kl_is_zero_when_flat_and_log_n_when_on_one_position() -> None:
    one = torch.zeros(1, 1, 4, 4)
    one[..., 2, 1] = 16
    kl = kl_to_uniform(torch.cat([torch.ones(1, 1, 4, 4), one]))
    torch.testing.assert_close(kl, torch.tensor([0.0, math.log(16)]))


def test_kl_is_that_of_the_distributions() -> None:
    a = random_attention()
    ours = Categorical(probs=a.flatten(1))
    uniform = Categorical(probs=torch.ones(2, 64, dtype=F64))
    torch.testing.assert_close(kl_to_uniform(a), kl_divergence(ours, uniform))


def test_error_map_is_the_weighted_sum_of_layers_each_with_mean_one() -> None:
    e = {"conv3_2": errors(8, 8), "conv4_2": 1e5 * errors(8, 8)}
    expected = sum(w * e[k] / e[k].mean(dim=(2, 3), keepdim=True) for k, w in LAYERS.items())
    measured = error_map(e, LAYERS, GRID)
    torch.testing.assert_close(measured, expected)
    assert_mean_one(measured)


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (11, 4), (32, 32)])
def test_error_map_keeps_about_mean_one_on_any_grid(grid: tuple[int, int]) -> None:
    measured = error_map({"conv3_2": errors(32, 32), "conv4_2": errors(16, 16)}, LAYERS, grid)
    assert measured.shape == (2, 1, *grid)
    assert_mean_one(measured, 0.1)


def test_error_map_carries_no_gradient() -> None:
    e = {layer: errors(8, 8).requires_grad_() for layer in LAYERS}
    assert not error_map(e, LAYERS, GRID).requires_grad


# --- figures --------------------------------------------------------------------------------


def test_statistics_are_peak_kl_and_pearson_correlation() -> None:
    a, e = random_attention(), errors(*GRID)
    peak, kl, correlation = attention_statistics(a, e)
    pearson = [
        torch.corrcoef(torch.stack([x, y]))[0, 1]
        for x, y in zip(a.flatten(1), e.flatten(1), strict=True)
    ]
    torch.testing.assert_close(peak, a.flatten(1).max(1).values)
    torch.testing.assert_close(kl, kl_to_uniform(a))
    torch.testing.assert_close(correlation, torch.stack(pearson))


def test_a_flat_map_correlates_with_nothing() -> None:
    statistics = attention_statistics(torch.ones(1, 1, *GRID), errors(*GRID, 1, torch.float32))
    assert [x.item() for x in statistics] == [1, 0, 0]


@pytest.mark.parametrize(
    ("peak", "kl", "said"),
    [
        (1.0, 0.0, "attention is flat"),
        (1.2, 0.024, "attention is flat"),
        (3.0, 0.026, None),
        (5.0, 0.5, None),
        (32.0, 1.5, None),
        (33.0, 1.0, "attention has collapsed"),
        (20.0, 1.6, "attention has collapsed"),
    ],
)
def test_a_collapse_is_said_in_words(peak: float, kl: float, said: str | None) -> None:
    sentence = collapse_warning(peak, kl, positions=64, budget=0.5)
    assert (sentence or "").startswith(said or "")
    assert (sentence is None) == (said is None)
    assert sentence is None or "0.5" in sentence
