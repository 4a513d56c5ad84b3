import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from underdrawing.losses.attention import (
    OBJECTIVES,
    TARGETS,
    AttentionObjective,
    Situation,
    Weighting,
    attention_statistics,
    branch_loss,
    collapse_warning,
    error_map,
    kl_to_uniform,
    mean_one,
    needs_branch,
    robust_weights,
    structural_error,
)
from underdrawing.losses.content import ContentLoss

F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5
SIZES = ((6, 6), (7, 9), (16, 16), (33, 20), (64, 64))
BUDGETS = (0.05, 0.5, 2.0)
DETACHED = ("learned", "oracle", "shuffled", "saliency", "gate")


def errors(h: int, w: int, batch: int = 2, dtype: torch.dtype = F64) -> Tensor:
    """Squared normal numbers: heavy-tailed, as feature errors are."""
    return torch.randn(batch, 1, h, w, dtype=dtype).square()


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


def features(batch: int = 2) -> dict[str, Tensor]:
    return {
        "conv3_2": torch.randn(batch, 4, 16, 16, dtype=F64),
        "conv4_2": torch.randn(batch, 6, 8, 8, dtype=F64),
    }


def squares(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {layer: f.square() for layer, f in features.items()}


def damaged(photo: Tensor, row: int, column: int) -> Tensor:
    """The photo with one quadrant repainted."""
    h, w = photo.shape[-2] // 2, photo.shape[-1] // 2
    box = (..., slice(row * h, (row + 1) * h), slice(column * w, (column + 1) * w))
    stylized = photo.clone()
    stylized[box] = torch.rand_like(stylized[box])
    return stylized


def quadrants(a: Tensor) -> Tensor:
    """Mean of each quadrant, (B,2,2)."""
    return nn.functional.adaptive_avg_pool2d(a, 2)[:, 0]


def decide(
    objective: str, target: str = "structural", attention: Tensor | None = None, batch: int = 2
) -> Weighting:
    photo = torch.rand(batch, 3, 64, 64, dtype=F64)
    return AttentionObjective(LAYERS, objective, target, BUDGET)(
        random_attention(batch) if attention is None else attention,
        {},
        squares(features(batch)),
        features(batch),
        damaged(photo, 0, 1),
        photo,
    )


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


@pytest.mark.parametrize(("row", "column"), list(itertools.product((0, 1), repeat=2)))
def test_structural_error_points_at_the_damaged_quadrant(row: int, column: int) -> None:
    photo = torch.rand(2, 3, 64, 64)
    q = structural_error(damaged(photo, row, column), photo, GRID)
    assert_mean_one(q, 1e-5)
    assert (quadrants(q).flatten(1).argmax(1) == 2 * row + column).all()


def test_structural_error_is_mean_dissimilarity_clipped_to_a_fiftyfold_range() -> None:
    photo = torch.rand(1, 3, 64, 64)
    stylized = photo.clone()
    stylized[..., :8, :8] = 1 - photo[..., :8, :8]
    q = structural_error(stylized, photo, GRID)
    assert_mean_one(q, 1e-5)
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


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (5, 5)])
def test_structural_error_has_mean_one_on_any_grid(grid: tuple[int, int]) -> None:
    photo = torch.rand(2, 3, 65, 99)
    q = structural_error(torch.rand_like(photo), photo, grid)
    assert q.shape == (2, 1, *grid)
    assert_mean_one(q, 1e-5)


def test_no_gradient_passes_through_ssim() -> None:
    photo = torch.rand(1, 3, 32, 32)
    assert not structural_error(
        torch.rand_like(photo).requires_grad_(), photo, (4, 4)
    ).requires_grad


# --- targets --------------------------------------------------------------------------------


def situation(errors: dict[str, Tensor], energy: dict[str, Tensor]) -> Situation:
    photo = torch.rand(2, 3, 64, 64, dtype=F64)
    return Situation(errors, energy, damaged(photo, 1, 0), photo, LAYERS, GRID, BUDGET)


def layer_maps() -> dict[str, Tensor]:
    return {"conv3_2": errors(16, 16), "conv4_2": errors(8, 8)}


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_a_map_with_mean_one(target: str) -> None:
    a = TARGETS[target](situation(layer_maps(), layer_maps()))
    assert a.shape == (2, 1, *GRID)
    assert_mean_one(a, 1e-5)


@pytest.mark.parametrize("target", ["robust", "robust_local"])
def test_robust_targets_spend_the_budget(target: str) -> None:
    a = TARGETS[target](situation(layer_maps(), layer_maps()))
    assert kl_to_uniform(a).sub(BUDGET).abs().max() < 1e-5


def test_robust_target_is_the_robust_weights_of_the_error_map() -> None:
    e = layer_maps()
    expected = robust_weights(error_map(e, LAYERS, GRID), BUDGET)
    torch.testing.assert_close(TARGETS["robust"](situation(e, layer_maps())), expected)


def test_local_target_forgives_error_where_the_photo_itself_is_strong() -> None:
    busy = torch.ones(2, 1, 8, 8, dtype=F64)
    busy[..., :4] = 20.0
    e = dict.fromkeys(LAYERS, busy + 1)  # the sky's error is small, but so is its energy
    s = situation(e, dict.fromkeys(LAYERS, busy.square()))
    assert TARGETS["robust"](s)[..., :4].mean() > 1
    assert TARGETS["robust_local"](s)[..., :4].mean() < 1


def test_calibrated_target_makes_the_weighted_error_follow_the_structural_one() -> None:
    s = situation(layer_maps(), layer_maps())
    e = error_map(s.errors, LAYERS, GRID)
    q = structural_error(s.stylized, s.content, GRID)
    floored = TARGETS["calibrated"](s) * (e + 0.1 * e.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(mean_one(floored).float(), q.float(), rtol=1e-4, atol=1e-4)


# --- objectives -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_every_objective_weights_with_mean_one(objective: str, target: str) -> None:
    decided = decide(objective, target)
    assert decided.attention is not None
    assert decided.attention.shape == (2, 1, *GRID)
    assert decided.loss.shape == (2,)
    assert_mean_one(decided.attention, 1e-5)


def test_uniform_has_no_map_and_nothing_to_learn() -> None:
    decided = decide("uniform")
    assert decided.attention is None
    assert torch.equal(decided.loss, torch.zeros(2, dtype=F64))


@pytest.mark.parametrize("objective", DETACHED)
def test_attention_is_a_constant_of_the_content_loss(objective: str) -> None:
    attention = random_attention().requires_grad_()
    decided = decide(objective, attention=attention)
    assert decided.attention is not None
    assert not decided.attention.requires_grad


def test_joint_hands_attention_the_content_losss_gradient() -> None:
    attention = random_attention().requires_grad_()
    decided = decide("joint", attention=attention)
    squared = squares(features())
    ContentLoss(list(LAYERS.items()))(squared, decided.attention).sum().backward()
    assert attention.grad is not None
    assert attention.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_branch_is_taught_a_target_only_when_it_learns_one(objective: str) -> None:
    attention = random_attention().requires_grad_()
    loss = decide(objective, attention=attention).loss
    taught = objective in ("learned", "shuffled")
    assert loss.requires_grad == taught
    assert bool((loss > 0).all()) == taught


def test_the_branch_is_there_where_its_map_is_used() -> None:
    assert [o for o in OBJECTIVES if needs_branch(o)] == ["learned", "shuffled", "joint", "gate"]


@pytest.mark.parametrize("objective", ["learned", "joint", "gate"])
def test_the_predicted_map_is_used_as_it_is(objective: str) -> None:
    attention = random_attention()
    decided = decide(objective, attention=attention)
    assert decided.attention is not None
    assert torch.equal(decided.attention, attention)


def test_shuffled_uses_another_photos_map() -> None:
    attention = random_attention(3)
    decided = decide("shuffled", attention=attention, batch=3)
    assert decided.attention is not None
    assert torch.equal(decided.attention, attention[[2, 0, 1]])


def test_shuffled_refuses_a_single_picture() -> None:
    with pytest.raises(ValueError, match="at least two pictures"):
        decide("shuffled", batch=1)


def test_saliency_follows_the_photos_energy_at_a_matched_kl() -> None:
    photo_features, photo = features(), torch.rand(2, 3, 64, 64, dtype=F64)
    decided = AttentionObjective(LAYERS, "saliency", budget=BUDGET)(
        random_attention(), {}, squares(features()), photo_features, damaged(photo, 0, 0), photo
    )
    energy = {k: f.square().mean(1, keepdim=True) for k, f in photo_features.items()}
    assert decided.attention is not None
    kl = kl_to_uniform(decided.attention)
    torch.testing.assert_close(kl.double(), torch.full((2,), BUDGET, dtype=F64), rtol=1e-4, atol=0)
    correlation = attention_statistics(
        decided.attention.double(), error_map(energy, LAYERS, GRID).double()
    ).correlation
    assert (correlation > 0.7).all()


def test_the_oracle_is_the_target_itself_and_the_learner_is_taught_it() -> None:
    args = (squares(features()), features(), torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    attention = random_attention()
    goal = AttentionObjective(LAYERS, "oracle")(attention, {}, *args).attention
    learner = AttentionObjective(LAYERS, "learned")(attention, {}, *args)
    assert goal is not None
    torch.testing.assert_close(learner.loss, branch_loss(attention, goal))


def test_the_branchs_loss_never_reaches_the_generators_output() -> None:
    photo = torch.rand(2, 3, 64, 64)
    stylized = damaged(photo, 0, 0).requires_grad_()
    squared = {k: v.requires_grad_() for k, v in squares(features()).items()}
    attention = random_attention().requires_grad_()
    decided = AttentionObjective(LAYERS)(attention, {}, squared, features(), stylized, photo)
    decided.loss.sum().backward()
    assert attention.grad is not None
    assert stylized.grad is None
    assert all(v.grad is None for v in squared.values())


def test_channel_attention_is_taught_the_robust_weights_of_its_channels() -> None:
    squared, photo = squares(features()), torch.rand(2, 3, 64, 64)
    predicted = (6 * torch.randn(2, 6, dtype=F64).softmax(1)).requires_grad_()
    channels = {"conv4_2": predicted}
    decided = AttentionObjective(LAYERS, "uniform", channel_budget=0.2)(
        random_attention(), channels, squared, features(), photo, photo
    )
    goal = robust_weights(squared["conv4_2"].mean(dim=(2, 3)), 0.2)
    assert not decided.channels["conv4_2"].requires_grad
    assert decided.loss.requires_grad
    torch.testing.assert_close(decided.loss, branch_loss(predicted, goal))


# --- the branch's loss ----------------------------------------------------------------------


def test_branch_loss_is_the_kl_from_target_to_prediction() -> None:
    predicted, target = random_attention(), random_attention()
    expected = kl_divergence(
        Categorical(probs=target.flatten(1)), Categorical(probs=predicted.flatten(1))
    )
    assert branch_loss(predicted, target).shape == (2,)
    torch.testing.assert_close(branch_loss(predicted, target), expected)


def test_branch_loss_is_zero_only_when_it_is_right() -> None:
    a = random_attention()
    assert branch_loss(a, a).abs().max() == 0
    assert (branch_loss(random_attention(), a) > 0.01).all()


def test_branch_loss_against_a_target_with_holes_is_finite() -> None:
    target = robust_weights(errors(8, 8), 10.0)
    predicted = random_attention().requires_grad_()
    loss = branch_loss(predicted, target)
    loss.sum().backward()
    assert predicted.grad is not None
    assert loss.isfinite().all()
    assert predicted.grad.isfinite().all()


def test_branch_loss_has_the_gradient_it_should(assert_gradient: Callable[..., None]) -> None:
    target = robust_weights(errors(3, 3), BUDGET)
    assert_gradient(
        lambda logits: branch_loss((9 * logits.softmax(1)).view(2, 1, 3, 3), target),
        torch.randn(2, 9),
    )


# --- what the branch learns: 64 positions, from flat ------------------------------------------


def difficulty() -> Tensor:
    """(1,1,8,8): hard everywhere but in an easy corner of four positions."""
    e = 1 + 0.1 * torch.rand(1, 1, *GRID, dtype=F64)
    e[..., :2, :2] = 0.1
    return e


def learn(objective: str, target: str, error: Tensor, stylized: Tensor, photo: Tensor) -> Tensor:
    """The map after 200 steps on content loss and branch loss together."""
    layers, squared = {"conv4_2": 1.0}, {"conv4_2": error}
    decides = AttentionObjective(layers, objective, target, BUDGET)
    content = ContentLoss(list(layers.items()))
    logits = torch.zeros(1, 64, dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        a = (64 * logits.softmax(1)).view(1, 1, *GRID)
        decided = decides(a, {}, squared, squared, stylized, photo)
        optimizer.zero_grad()
        (content(squared, decided.attention) + decided.loss).sum().backward()
        optimizer.step()
    return a.detach()


def warning(a: Tensor, error: Tensor) -> str | None:
    peak, kl, _ = (x.item() for x in attention_statistics(a, error))
    return collapse_warning(peak, kl, 64, BUDGET)


def test_the_naive_objective_hides_the_error_and_collapses() -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = difficulty()
    a = learn("joint", "robust", error, photo, photo)
    assert attention_statistics(a, error).correlation < -0.9
    assert (a * error).mean() < 0.2 * error.mean()
    assert "collapsed" in (warning(a, error) or "")


def test_the_robust_learner_finds_the_error_within_its_budget() -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = errors(*GRID, batch=1)
    a = learn("learned", "robust", error, photo, photo)
    assert attention_statistics(a, error).correlation > 0.8
    assert (a * error).mean() > 1.5 * error.mean()
    assert abs(kl_to_uniform(a).item() - BUDGET) < 0.02
    assert warning(a, error) is None


@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0)])
def test_the_structural_learner_finds_the_broken_drawing(row: int, column: int) -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = errors(*GRID, batch=1)  # its feature error says nothing about where
    a = learn("learned", "structural", error, damaged(photo, row, column), photo)
    assert quadrants(a)[0, row, column] > 2
    assert quadrants(a).flatten().argmax() == 2 * row + column
    assert warning(a, error) is None


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
