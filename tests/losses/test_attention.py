from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from underdrawing.losses.attention import (
    OBJECTIVES,
    attention_statistics,
    error_map,
    kl_to_uniform,
    learns_error,
    log_energy,
    log_structural_error,
    mean_one,
    needs_branch,
    prediction_loss,
    weighting_error,
)

F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)


def errors(h: int, w: int, batch: int = 2, dtype: torch.dtype = F64) -> Tensor:
    """Squared normal numbers: heavy-tailed, like feature errors."""
    return torch.randn(batch, 1, h, w, dtype=dtype).square()


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


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
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.ones(2, dtype=F64), rtol=0, atol=0.1)


# --- log errors -------------------------------------------------------------------------------


def test_log_structural_error_peaks_where_the_structure_is_damaged() -> None:
    photo = torch.rand(2, 3, 65, 99)  # the grid is no divisor of it
    stylized = photo.clone()
    stylized[:, :, 33:, :49] = torch.rand(2, 3, 32, 49)
    q = log_structural_error(stylized.requires_grad_(), photo, (9, 13))
    assert not q.requires_grad
    assert (F.adaptive_avg_pool2d(q, 2).flatten(1).argmax(1) == 2).all()


def test_log_structural_error_is_that_of_the_formula_and_standardized() -> None:
    photo = torch.rand(2, 3, 64, 64)
    damage = torch.nn.Upsample(scale_factor=8)(torch.rand(2, 1, *GRID))
    stylized = photo + damage * torch.rand(2, 3, 64, 64)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    similarity = ssim(*((luma * x).sum(1, keepdim=True) for x in (photo, stylized)), 7)
    log = (F.avg_pool2d((1 - similarity) / 2, 8) + 1e-3).log()
    variance, mean = torch.var_mean(log, dim=(2, 3), correction=0, keepdim=True)
    expected = (log - mean) / (variance + 0.01).sqrt()
    q = log_structural_error(stylized, photo, GRID)
    torch.testing.assert_close(q, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contrast", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_an_unchanged_photo_has_a_flat_error(contrast: float, noise: float) -> None:
    photo = 0.5 + contrast * (torch.rand(2, 3, 64, 64) - 0.5)
    q = log_structural_error(photo + noise * torch.randn_like(photo), photo, GRID)
    assert q.abs().max() < 0.5


def test_log_energy_is_high_where_the_features_are_large() -> None:
    features = {
        name: torch.rand(2, 4, *size) for name, size in (("conv3_2", (16, 16)), ("conv4_2", GRID))
    }
    features["conv3_2"][..., :8, 8:] *= 5
    features["conv4_2"][..., :4, 4:] *= 5
    energy = log_energy(features, LAYERS, GRID)
    torch.testing.assert_close(energy.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert (F.adaptive_avg_pool2d(energy, 2).flatten(1).argmax(1) == 1).all()


def test_prediction_loss_is_the_mean_squared_error_without_gradient_to_the_target() -> None:
    g, q = torch.randn(2, 2, 1, *GRID).requires_grad_()
    loss = prediction_loss(g, q)
    torch.testing.assert_close(loss, (g - q).square().mean(dim=(1, 2, 3)))
    (g_grad,) = torch.autograd.grad(loss.sum(), g)
    torch.testing.assert_close(g_grad, 2 * (g - q) / 64)


# --- objectives -----------------------------------------------------------------------------


def inputs(batch: int = 2) -> dict[str, Any]:
    """Arguments of ``weighting_error`` after the objective."""
    stylized, photo = torch.rand(2, batch, 3, 64, 64)
    return {
        "predicted": torch.randn(batch, 1, *GRID, requires_grad=True),
        "stylized": stylized,
        "content": photo,
        "features": {
            "conv3_2": torch.randn(batch, 4, 16, 16),
            "conv4_2": torch.randn(batch, 6, *GRID),
        },
        "layers": LAYERS,
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_joint_sends_a_gradient_to_the_prediction(objective: str) -> None:
    error = weighting_error(objective, **inputs())
    assert (error is None) == (objective in ("uniform", "observed"))
    if error is not None:
        assert error.shape == (2, 1, *GRID)
        assert error.requires_grad == (objective == "joint")


def test_each_objective_uses_its_error() -> None:
    x = inputs(3)
    expected = {
        "learned": x["predicted"],
        "gate": x["predicted"],
        "shuffled": x["predicted"][[2, 0, 1]],
        "oracle": log_structural_error(x["stylized"], x["content"], GRID),
        "saliency": log_energy(x["features"], LAYERS, GRID),
    }
    for objective, error in expected.items():
        found = weighting_error(objective, **x)
        assert found is not None
        assert torch.equal(found, error)


def test_objectives_with_a_branch_and_those_that_learn_the_error() -> None:
    assert {o for o in OBJECTIVES if not needs_branch(o)} == {"uniform", "oracle", "saliency"}
    assert {o for o in OBJECTIVES if learns_error(o)} == {"observed", "learned", "shuffled"}


# --- statistics -----------------------------------------------------------------------------


def test_statistics_are_peak_kl_and_pearson_correlation() -> None:
    a, e = random_attention(), errors(*GRID)
    peak, kl, correlation = attention_statistics(a, e).values()
    pearson = [
        torch.corrcoef(torch.stack([x, y]))[0, 1]
        for x, y in zip(a.flatten(1), e.flatten(1), strict=True)
    ]
    torch.testing.assert_close(peak, a.flatten(1).max(1).values)
    torch.testing.assert_close(kl, kl_to_uniform(a))
    torch.testing.assert_close(correlation, torch.stack(pearson))
    flat = attention_statistics(torch.ones(1, 1, *GRID), errors(*GRID, 1, torch.float32))
    assert [x.item() for x in flat.values()] == [1, 0, 0]
