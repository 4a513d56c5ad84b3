from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from underdrawing.losses.attention import (
    OBJECTIVES,
    TARGETS,
    AttentionObjective,
    AttentionResult,
    attention_statistics,
    branch_loss,
    collapse_warning,
    error_map,
    kl_to_uniform,
    needs_branch,
    robust_weights,
)
from underdrawing.losses.content import ContentLoss

Damage = Callable[[Tensor, int, int], Tensor]
F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5
DETACHED = ("learned", "oracle", "shuffled", "saliency", "gate")


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


def features(batch: int = 2) -> dict[str, Tensor]:
    return {
        "conv3_2": torch.randn(batch, 4, 16, 16, dtype=F64),
        "conv4_2": torch.randn(batch, 6, 8, 8, dtype=F64),
    }


def squares(batch: int = 2) -> dict[str, Tensor]:
    return {layer: f.square() for layer, f in features(batch).items()}


def decide(
    objective: str, target: str = "structural", attention: Tensor | None = None, batch: int = 2
) -> AttentionResult:
    stylized, photo = torch.rand(2, batch, 3, 64, 64, dtype=F64)
    predicted = random_attention(batch) if attention is None else attention
    return AttentionObjective(LAYERS, objective, target, BUDGET)(
        predicted, {}, squares(batch), features(batch), stylized, photo
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o not in ("uniform", "observed")])
def test_every_objective_weights_with_mean_one(objective: str, target: str) -> None:
    decided = decide(objective, target)
    assert decided.attention is not None
    assert decided.attention.shape == (2, 1, *GRID)
    assert decided.loss.shape == (2,)
    assert (decided.attention >= 0).all()
    assert decided.attention.mean(dim=(1, 2, 3)).sub(1).abs().max() < 1e-5


def test_uniform_has_no_map_and_nothing_to_learn() -> None:
    decided = decide("uniform")
    assert decided.attention is None
    assert torch.equal(decided.loss, torch.zeros(2, dtype=F64))


def test_an_observed_map_is_taught_but_weights_nothing() -> None:
    torch.manual_seed(0)
    attention = random_attention().requires_grad_()
    decided = decide("observed", attention=attention)
    assert decided.attention is None
    torch.manual_seed(0)
    random_attention()
    learned = decide("learned", attention=attention)
    torch.testing.assert_close(decided.loss, learned.loss)
    assert decided.loss.requires_grad


@pytest.mark.parametrize("objective", DETACHED)
def test_attention_is_a_constant_of_the_content_loss(objective: str) -> None:
    attention = random_attention().requires_grad_()
    decided = decide(objective, attention=attention)
    assert decided.attention is not None
    assert not decided.attention.requires_grad


def test_joint_hands_attention_the_content_losss_gradient() -> None:
    attention = random_attention().requires_grad_()
    decided = decide("joint", attention=attention)
    squared = squares()
    ContentLoss(list(LAYERS.items()))(squared, decided.attention).sum().backward()
    assert attention.grad is not None
    assert attention.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_branch_is_taught_a_target_only_when_it_learns_one(objective: str) -> None:
    attention = random_attention().requires_grad_()
    loss = decide(objective, attention=attention).loss
    taught = objective in ("observed", "learned", "shuffled")
    assert loss.requires_grad == taught
    assert bool((loss > 0).all()) == taught


def test_the_branch_is_there_where_its_map_is_wanted() -> None:
    without = {"uniform", "oracle", "saliency"}
    assert {o for o in OBJECTIVES if not needs_branch(o)} == without


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


@pytest.mark.parametrize("target", ["structural", "robust"])
def test_saliency_is_the_photos_energy_as_far_from_uniform_as_the_target(target: str) -> None:
    photo_features, (stylized, photo) = features(), torch.rand(2, 2, 3, 64, 64, dtype=F64)
    args = random_attention(), {}, squares(), photo_features, stylized, photo
    decided = AttentionObjective(LAYERS, "saliency", target, BUDGET)(*args)
    goal = AttentionObjective(LAYERS, "oracle", target, BUDGET)(*args)
    assert goal.attention is not None
    energy = {k: f.square().mean(1, keepdim=True) for k, f in photo_features.items()}
    assert decided.attention is not None
    kl = kl_to_uniform(decided.attention)
    expected = kl_to_uniform(goal.attention.double())
    torch.testing.assert_close(kl.double(), expected, rtol=1e-4, atol=0)
    correlation = attention_statistics(
        decided.attention.double(), error_map(energy, LAYERS, GRID).double()
    ).correlation
    assert (correlation > 0.7).all()


def test_the_oracle_is_the_target_itself_and_the_learner_is_taught_it() -> None:
    args = (squares(), features(), torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    attention = random_attention()
    goal = AttentionObjective(LAYERS, "oracle")(attention, {}, *args).attention
    train_step = AttentionObjective(LAYERS, "learned")(attention, {}, *args)
    assert goal is not None
    torch.testing.assert_close(train_step.loss, branch_loss(attention, goal))


def test_the_branchs_loss_never_reaches_the_generators_output() -> None:
    photo, stylized = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64, requires_grad=True)
    squared = {k: v.requires_grad_() for k, v in squares().items()}
    attention = random_attention().requires_grad_()
    decided = AttentionObjective(LAYERS)(attention, {}, squared, features(), stylized, photo)
    decided.loss.sum().backward()
    assert attention.grad is not None
    assert stylized.grad is None
    assert all(v.grad is None for v in squared.values())


def test_channel_attention_is_taught_the_robust_weights_of_its_channels() -> None:
    squared, photo = squares(), torch.rand(2, 3, 64, 64)
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
    target = robust_weights(random_attention(), 10.0)
    predicted = random_attention().requires_grad_()
    loss = branch_loss(predicted, target)
    loss.sum().backward()
    assert predicted.grad is not None
    assert loss.isfinite().all()
    assert predicted.grad.isfinite().all()


def test_branch_loss_has_the_gradient_it_should(assert_gradient: Callable[..., None]) -> None:
    target = robust_weights(torch.rand(2, 1, 3, 3, dtype=F64), BUDGET)
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
    error = torch.randn(1, 1, *GRID, dtype=F64).square()
    a = learn("learned", "robust", error, photo, photo)
    assert attention_statistics(a, error).correlation > 0.8
    assert (a * error).mean() > 1.5 * error.mean()
    assert abs(kl_to_uniform(a).item() - BUDGET) < 0.02
    assert warning(a, error) is None


@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0)])
def test_the_structural_learner_finds_the_broken_drawing(
    row: int, column: int, damaged: Damage
) -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = torch.randn(
        1, 1, *GRID, dtype=F64
    ).square()  # its feature error says nothing about where
    a = learn("learned", "structural", error, damaged(photo, row, column), photo)
    quadrants = F.adaptive_avg_pool2d(a, 2)[0, 0]
    assert quadrants[row, column] > 2
    assert quadrants.argmax() == 2 * row + column
    assert warning(a, error) is None
