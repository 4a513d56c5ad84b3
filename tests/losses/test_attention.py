import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from underdrawing.losses.attention import (
    attention_statistics,
    collapse_warning,
    error_map,
    kl_to_uniform,
    mean_one,
    robust_weights,
    structural_dissimilarity,
)

F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5
SIZES = ((6, 6), (7, 9), (64, 64))
BUDGETS = (0.05, 0.5, 2.0)


def errors(h: int, w: int, batch: int = 2, dtype: torch.dtype = F64) -> Tensor:
    """Squared normal numbers: heavy-tailed, like feature errors."""
    return torch.randn(batch, 1, h, w, dtype=dtype).square()


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


def assert_mean_one(a: Tensor, tolerance: float = 1e-5) -> None:
    assert (a >= 0).all()
    assert a.mean(dim=(1, 2, 3)).sub(1).abs().max() < tolerance


# --- robust weights -------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_robust_weights_use_the_whole_budget(
    size: tuple[int, int], budget: float, dtype: torch.dtype
) -> None:
    a = robust_weights(errors(*size, dtype=dtype), budget)
    assert a.shape == (2, 1, *size)
    assert a.dtype == dtype
    assert kl_to_uniform(a).sub(budget).abs().max() < 1e-4
    assert_mean_one(a)


@pytest.mark.parametrize("budget", BUDGETS)
def test_robust_weights_increase_with_the_error(budget: float) -> None:
    e = errors(1, 64)
    in_order = robust_weights(e, budget).gather(-1, e.argsort(-1))
    assert (in_order.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("budget", BUDGETS)
def test_robust_weights_maximize_the_weighted_error_at_their_kl(budget: float) -> None:
    e = errors(1, 36, batch=1)
    a = robust_weights(e, budget)
    best = (a * e).mean()
    random = robust_weights(torch.randn(500, 1, 1, 36, dtype=F64), budget)
    permutations = torch.stack([a[0][..., torch.randperm(36)] for _ in range(500)])
    perturbed = robust_weights(e + 0.1 * torch.randn(500, 1, 1, 36, dtype=F64), budget)
    for others in (random, permutations, perturbed):
        assert kl_to_uniform(others).sub(budget).abs().max() < 1e-6
        assert ((others * e).mean(dim=(1, 2, 3)) <= best + 1e-9).all()


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, 0.0), (3.0, 2.0)])
def test_robust_weights_are_invariant_to_scale_and_offset(scale: float, offset: float) -> None:
    e = errors(6, 6)
    torch.testing.assert_close(
        robust_weights(scale * e + offset, BUDGET), robust_weights(e, BUDGET), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 1e-8, 1e8])
def test_robust_weights_of_a_flat_error_are_one(value: float) -> None:
    flat = torch.full((2, 1, 6, 6), value, dtype=F64)
    torch.testing.assert_close(robust_weights(flat, BUDGET), torch.ones_like(flat))


def test_an_unreachable_budget_puts_all_weight_on_the_largest_errors() -> None:
    e = errors(6, 6)
    a = robust_weights(e, 10.0)
    assert torch.equal(a.flatten(1).argmax(1), e.flatten(1).argmax(1))
    torch.testing.assert_close(kl_to_uniform(a), torch.full((2,), math.log(36), dtype=F64))
    tied = torch.zeros(1, 1, 4, 4, dtype=F64)
    tied[0, 0, :2, 0] = 1
    torch.testing.assert_close(robust_weights(tied, 10.0), 8 * tied)


def test_robust_weights_are_per_image_with_a_budget_each() -> None:
    e, budget = torch.cat([errors(6, 6, 1), 100 * errors(6, 6, 1)]), torch.tensor([0.2, 0.6])
    alone = [robust_weights(e[i : i + 1], budget[i].item()) for i in range(2)]
    torch.testing.assert_close(robust_weights(e, budget), torch.cat(alone))


def test_robust_weights_of_channels_have_mean_one_and_no_gradient() -> None:
    a = robust_weights(torch.rand(2, 12, dtype=F64, requires_grad=True), 0.1)
    torch.testing.assert_close(a.mean(1), torch.ones(2, dtype=F64))
    assert not a.requires_grad


# --- maps -----------------------------------------------------------------------------------


def test_mean_one_scales_and_turns_zeros_into_ones() -> None:
    x = torch.stack([errors(4, 5, 1)[0], torch.zeros(1, 4, 5, dtype=F64)])
    torch.testing.assert_close(mean_one(x)[0], x[0] / x[0].mean())
    assert torch.equal(mean_one(x)[1], torch.ones(1, 4, 5, dtype=F64))


def test_kl_to_uniform_is_that_of_the_distributions() -> None:
    a = random_attention()
    uniform = Categorical(probs=torch.ones(2, 64, dtype=F64))
    expected = kl_divergence(Categorical(probs=a.flatten(1)), uniform)
    torch.testing.assert_close(kl_to_uniform(a), expected)
    peak = torch.zeros(1, 1, 4, 4)
    peak[..., 2, 1] = 16
    kl = kl_to_uniform(torch.cat([torch.ones(1, 1, 4, 4), peak]))
    torch.testing.assert_close(kl, torch.tensor([0.0, math.log(16)]))


def test_error_map_is_the_weighted_sum_of_layers_each_with_mean_one() -> None:
    e = {"conv3_2": errors(8, 8), "conv4_2": 1e5 * errors(8, 8)}
    expected = sum(w * e[k] / e[k].mean(dim=(2, 3), keepdim=True) for k, w in LAYERS.items())
    found = error_map({k: x.requires_grad_() for k, x in e.items()}, LAYERS, GRID)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("grid", [(5, 7), (11, 4), (32, 32)])
def test_error_map_has_about_mean_one_on_any_grid(grid: tuple[int, int]) -> None:
    found = error_map({"conv3_2": errors(32, 32), "conv4_2": errors(16, 16)}, LAYERS, grid)
    assert found.shape == (2, 1, *grid)
    assert_mean_one(found, 0.1)


# --- structural dissimilarity -----------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 8), (9, 13)])
def test_dissimilarity_peaks_where_the_structure_is_damaged(grid: tuple[int, int]) -> None:
    photo = torch.rand(2, 3, 65, 99)
    stylized = photo.clone()
    stylized[:, :, 33:, :49] = torch.rand(2, 3, 32, 49)
    q = structural_dissimilarity(stylized.requires_grad_(), photo, grid)
    assert q.shape == (2, 1, *grid)
    assert not q.requires_grad
    assert (F.adaptive_avg_pool2d(q, 2).flatten(1).argmax(1) == 2).all()


def test_dissimilarity_increases_with_the_damage() -> None:
    photo = 0.5 * torch.rand(2, 3, 64, 64)
    noise = 0.5 * torch.rand(2, 1, 64, 64) * torch.linspace(0.2, 1, 64)
    columns = structural_dissimilarity(photo + noise, photo, GRID).mean(dim=(0, 1, 2))
    assert columns[0] < columns[3] < columns[7]


@pytest.mark.parametrize("contrast", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_dissimilarity_of_an_unchanged_photo_is_flat(contrast: float, noise: float) -> None:
    photo = 0.5 + contrast * (torch.rand(2, 3, 64, 64) - 0.5)
    q = structural_dissimilarity(photo + noise * torch.randn_like(photo), photo, GRID)
    torch.testing.assert_close(q, torch.full_like(q, 1e-3), rtol=0.03, atol=0)


# --- statistics -----------------------------------------------------------------------------


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


def test_a_flat_map_has_correlation_zero() -> None:
    statistics = attention_statistics(torch.ones(1, 1, *GRID), errors(*GRID, 1, torch.float32))
    assert [x.item() for x in statistics] == [1, 0, 0]


@pytest.mark.parametrize(
    ("peak", "kl", "message"),
    [
        (1.2, 0.024, "attention is flat"),
        (3.0, 0.026, None),
        (32.0, 1.5, None),
        (33.0, 1.0, "attention has collapsed"),
        (20.0, 1.6, "attention has collapsed"),
    ],
)
def test_collapse_warning_thresholds(peak: float, kl: float, message: str | None) -> None:
    warning = collapse_warning(peak, kl, positions=64, budget=0.5)
    assert (warning is None) == (message is None)
    assert warning is None or (warning.startswith(message or "") and "0.5" in warning)
