import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from underdrawing.losses.attention import (
    TARGETS,
    TargetInputs,
    error_map,
    kl_to_uniform,
    mean_one,
    robust_weights,
    structural_error,
)
from underdrawing.losses.content import content_error

Damage = Callable[[Tensor, int, int], Tensor]
F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5


def features(channels: int = 3) -> dict[str, Tensor]:
    return {
        "conv3_2": torch.randn(2, channels, 16, 16, dtype=F64),
        "conv4_2": torch.randn(2, channels, 8, 8, dtype=F64),
    }


def squares() -> dict[str, Tensor]:
    return {layer: f.square() for layer, f in features().items()}


def situation(squared: dict[str, Tensor], photo_features: dict[str, Tensor]) -> TargetInputs:
    """A painted photo without channel attention."""
    photo, stylized = torch.rand(2, 2, 3, 64, 64, dtype=F64)
    return TargetInputs(squared, {}, photo_features, stylized, photo, LAYERS, GRID, BUDGET, 5.0)


def assert_mean_one(a: Tensor) -> None:
    assert (a >= 0).all()
    assert a.mean(dim=(1, 2, 3)).sub(1).abs().max() < 1e-5


# --- structural error -------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), list(itertools.product((0, 1), repeat=2)))
def test_structural_error_points_at_the_damaged_quadrant(
    row: int, column: int, damaged: Damage
) -> None:
    photo = torch.rand(2, 3, 64, 64)
    q = structural_error(damaged(photo, row, column), photo, GRID)
    assert_mean_one(q)
    assert (F.adaptive_avg_pool2d(q, 2).flatten(1).argmax(1) == 2 * row + column).all()


def test_structural_error_is_mean_dissimilarity_clipped_to_a_fiftyfold_range() -> None:
    photo = torch.rand(1, 3, 64, 64)
    stylized = photo.clone()
    stylized[..., :8, :8] = 1 - photo[..., :8, :8]
    q = structural_error(stylized, photo, GRID)
    assert_mean_one(q)
    torch.testing.assert_close(q.max() / q.min(), torch.tensor(50.0))


def test_structural_error_is_local_ssim_turned_round() -> None:
    photo = 0.5 * torch.rand(2, 3, 64, 64)
    light = photo + 0.5 * torch.rand(2, 1, 64, 64) * torch.linspace(0.2, 1, 64)
    q = structural_error(light, photo, GRID)
    columns = q.mean(dim=(0, 1, 2))
    assert columns[0] < columns[3] < columns[7]


@pytest.mark.parametrize("contrast", [0.0, 0.01, 1.0])
def test_structural_error_of_an_untouched_photo_is_flat(contrast: float) -> None:
    photo = 0.5 + contrast * (torch.rand(2, 3, 64, 64) - 0.5)
    assert torch.equal(structural_error(photo, photo, GRID), torch.ones(2, 1, *GRID))


def test_what_rounding_leaves_of_an_untouched_photo_points_nowhere() -> None:
    photo = torch.rand(2, 3, 64, 64)
    q = structural_error((photo + 1e-6 * torch.randn_like(photo)).clamp(0, 1), photo, GRID)
    assert (q - 1).abs().max() < 0.01


def test_a_wider_clip_lets_the_structural_error_point_more_sharply() -> None:
    photo = torch.rand(1, 3, 64, 64)
    stylized = photo.clone()
    stylized[..., :8, :8] = 1 - photo[..., :8, :8]
    ratios = [
        (q.max() / q.min()).item()
        for q in (structural_error(stylized, photo, GRID, clip) for clip in (1, 2, 5))
    ]
    assert ratios == pytest.approx([2.0, 8.0, 50.0], rel=1e-3)


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (5, 5)])
def test_structural_error_has_mean_one_on_any_grid(grid: tuple[int, int]) -> None:
    photo = torch.rand(2, 3, 65, 99)
    q = structural_error(torch.rand_like(photo), photo, grid)
    assert q.shape == (2, 1, *grid)
    assert_mean_one(q)


def test_no_gradient_passes_through_ssim() -> None:
    photo = torch.rand(1, 3, 32, 32)
    assert not structural_error(
        torch.rand_like(photo).requires_grad_(), photo, (4, 4)
    ).requires_grad


# --- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_a_map_with_mean_one(target: str) -> None:
    a = TARGETS[target](situation(squares(), features()))
    assert a.shape == (2, 1, *GRID)
    assert_mean_one(a)


@pytest.mark.parametrize("target", ["robust", "robust_local", "robust_structural"])
def test_robust_targets_spend_the_budget(target: str) -> None:
    a = TARGETS[target](situation(squares(), features()))
    assert kl_to_uniform(a).sub(BUDGET).abs().max() < 1e-5


def test_robust_target_is_the_robust_weights_of_the_error_map() -> None:
    squared = squares()
    errors = {layer: x.mean(1, keepdim=True) for layer, x in squared.items()}
    expected = robust_weights(error_map(errors, LAYERS, GRID), BUDGET)
    torch.testing.assert_close(TARGETS["robust"](situation(squared, features())), expected)


def test_local_target_forgives_error_where_the_photo_itself_is_strong() -> None:
    busy = torch.ones(2, 1, 8, 8, dtype=F64)
    busy[..., :4] = 20.0
    squared = dict.fromkeys(LAYERS, busy + 1)  # the sky's error is small, but so is its energy
    s = situation(squared, dict.fromkeys(LAYERS, busy))
    assert TARGETS["robust"](s)[..., :4].mean() > 1
    assert TARGETS["robust_local"](s)[..., :4].mean() < 1


def test_calibrated_target_makes_the_weighted_error_follow_the_structural_one() -> None:
    s = situation(squares(), features())
    e = error_map(s.errors(), LAYERS, GRID)
    q = structural_error(s.stylized, s.content, GRID)
    floored = TARGETS["calibrated"](s) * (e + 0.1 * e.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(mean_one(floored).float(), q.float(), rtol=1e-4, atol=1e-4)


# --- what a target looks at -------------------------------------------------------------------


def test_errors_are_those_of_the_channels_as_they_are_weighted() -> None:
    squared, weights = squares(), {"conv4_2": 3 * torch.rand(2, 3, dtype=F64).softmax(1)}
    errors = situation(squared, features())._replace(channels=weights).errors()
    weighted = content_error(squared["conv4_2"], weights["conv4_2"])
    torch.testing.assert_close(errors["conv4_2"], weighted)
    torch.testing.assert_close(errors["conv3_2"], squared["conv3_2"].mean(1, keepdim=True))


def test_energy_is_the_mean_square_over_channels_in_float32() -> None:
    rounded = {layer: f.bfloat16() for layer, f in features(512).items()}
    energy = situation({}, rounded).energy()
    for layer, f in rounded.items():
        expected = f.double().square().mean(1, keepdim=True)
        torch.testing.assert_close(energy[layer].double(), expected, rtol=1e-5, atol=0)


def test_energy_is_that_of_the_losss_layers_alone() -> None:
    energy = situation({}, features() | {"relu1_1": torch.rand(2, 3, 32, 32)}).energy()
    assert list(energy) == list(LAYERS)


def test_the_structural_target_looks_at_pictures_alone() -> None:
    s = situation({}, {})
    assert torch.equal(TARGETS["structural"](s), structural_error(s.stylized, s.content, GRID))


def test_robust_target_needs_no_features_of_the_photo() -> None:
    squared = squares()
    with_features = TARGETS["robust"](situation(squared, features()))
    assert torch.equal(TARGETS["robust"](situation(squared, {})), with_features)
