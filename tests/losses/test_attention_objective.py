from collections.abc import Callable
from typing import Any

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
    mean_one,
    needs_branch,
    robust_weights,
    structural_dissimilarity,
)
from underdrawing.losses.content import ContentLoss, content_error

F64 = torch.float64
LAYERS = {"conv3_2": 0.3, "conv4_2": 0.7}
GRID = (8, 8)
BUDGET = 0.5


def random_attention(batch: int = 2) -> Tensor:
    return (torch.randn(batch, 64, dtype=F64).softmax(1) * 64).view(batch, 1, *GRID)


def features(batch: int = 2) -> dict[str, Tensor]:
    return {
        "conv3_2": torch.randn(batch, 4, 16, 16, dtype=F64),
        "conv4_2": torch.randn(batch, 6, 8, 8, dtype=F64),
    }


def make_batch(batch: int = 2) -> dict[str, Any]:
    """Arguments of ``AttentionObjective.forward``, without channel attention."""
    stylized, photo = torch.rand(2, batch, 3, 64, 64, dtype=F64)
    return {
        "attention": random_attention(batch),
        "channels": {},
        "squared": {layer: f.square() for layer, f in features(batch).items()},
        "content_features": features(batch),
        "stylized": stylized,
        "content": photo,
    }


def apply(objective: str, inputs: dict[str, Any], target: str = "structural") -> AttentionResult:
    return AttentionObjective(LAYERS, objective, target, BUDGET)(**inputs)


def target_of(inputs: dict[str, Any], target: str) -> Tensor:
    attention = apply("oracle", inputs, target).attention
    assert attention is not None
    return attention


# --- objectives -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_returns_its_map_and_gradients(objective: str) -> None:
    inputs = make_batch()
    inputs["attention"].requires_grad_()
    result = apply(objective, inputs)
    if objective in ("uniform", "observed"):
        assert result.attention is None
    else:
        assert result.attention is not None
        assert result.attention.shape == (2, 1, *GRID)
        assert result.attention.requires_grad == (objective == "joint")
        assert result.attention.mean(dim=(1, 2, 3)).sub(1).abs().max() < 1e-5
    learns = objective in ("observed", "learned", "shuffled")
    assert result.loss.shape == (2,)
    assert result.loss.requires_grad == learns
    assert bool((result.loss > 0).all()) == learns


def test_needs_branch_matches_objectives() -> None:
    assert {o for o in OBJECTIVES if not needs_branch(o)} == {"uniform", "oracle", "saliency"}


@pytest.mark.parametrize("objective", ["learned", "joint", "gate"])
def test_the_predicted_map_is_used_unchanged(objective: str) -> None:
    inputs = make_batch()
    used = apply(objective, inputs).attention
    assert used is not None
    assert torch.equal(used, inputs["attention"])


def test_joint_passes_the_content_losss_gradient_to_attention() -> None:
    inputs = make_batch()
    inputs["attention"].requires_grad_()
    loss = ContentLoss(list(LAYERS.items()))
    loss(inputs["squared"], apply("joint", inputs).attention).sum().backward()
    assert inputs["attention"].grad.abs().sum() > 0


def test_shuffled_uses_another_photos_map() -> None:
    inputs = make_batch(3)
    used = apply("shuffled", inputs).attention
    assert used is not None
    assert torch.equal(used, inputs["attention"][[2, 0, 1]])
    with pytest.raises(ValueError, match="at least two images"):
        apply("shuffled", make_batch(1))


@pytest.mark.parametrize("target", ["structural", "robust"])
def test_saliency_is_the_photos_energy_at_the_targets_kl(target: str) -> None:
    inputs = make_batch()
    saliency = apply("saliency", inputs, target).attention
    assert saliency is not None
    expected = kl_to_uniform(target_of(inputs, target))
    torch.testing.assert_close(kl_to_uniform(saliency), expected.float(), rtol=1e-4, atol=0)
    energy = {k: f.square().mean(1, keepdim=True) for k, f in inputs["content_features"].items()}
    energy_map = error_map(energy, LAYERS, GRID).float()
    assert (attention_statistics(saliency, energy_map).correlation > 0.7).all()


@pytest.mark.parametrize("objective", ["learned", "observed"])
def test_the_branch_learns_the_target_without_gradient_to_the_output(objective: str) -> None:
    inputs = make_batch()
    for x in (inputs["attention"], inputs["stylized"], *inputs["squared"].values()):
        x.requires_grad_()
    loss = apply(objective, inputs).loss
    torch.testing.assert_close(
        loss, branch_loss(inputs["attention"], target_of(inputs, "structural"))
    )
    loss.sum().backward()
    assert inputs["attention"].grad is not None
    assert inputs["stylized"].grad is None
    assert all(x.grad is None for x in inputs["squared"].values())


def test_channel_attention_learns_the_robust_weights_of_its_channels() -> None:
    predicted = (6 * torch.randn(2, 6, dtype=F64).softmax(1)).requires_grad_()
    inputs = make_batch() | {"channels": {"conv4_2": predicted}}
    result = AttentionObjective(LAYERS, "uniform", channel_budget=0.2)(**inputs)
    target = robust_weights(inputs["squared"]["conv4_2"].mean(dim=(2, 3)), 0.2)
    assert not result.channels["conv4_2"].requires_grad
    assert result.loss.requires_grad
    torch.testing.assert_close(result.loss, branch_loss(predicted, target))


# --- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_targets_have_mean_one_and_robust_ones_use_the_budget(target: str) -> None:
    a = target_of(make_batch(), target)
    assert (a >= 0).all()
    assert a.mean(dim=(1, 2, 3)).sub(1).abs().max() < 1e-5
    if target != "structural":
        assert kl_to_uniform(a).sub(BUDGET).abs().max() < 1e-5


def test_structural_target_is_dissimilarity_clipped_to_a_fiftyfold_range() -> None:
    inputs = make_batch()
    q = structural_dissimilarity(inputs["stylized"], inputs["content"], GRID)
    torch.testing.assert_close(target_of(inputs, "structural"), mean_one(q))  # not clipped
    stylized = inputs["content"].clone()
    stylized[..., :8, :8] = 1 - stylized[..., :8, :8]
    a = target_of(inputs | {"stylized": stylized}, "structural")
    torch.testing.assert_close(
        a.amax(dim=(1, 2, 3)) / a.amin(dim=(1, 2, 3)), torch.full((2,), 50.0)
    )


def test_robust_targets_are_robust_weights_of_their_errors() -> None:
    channels = {"conv4_2": 3 * torch.rand(2, 6, dtype=F64).softmax(1)}
    inputs = make_batch() | {"channels": channels}
    q = structural_dissimilarity(inputs["stylized"], inputs["content"], GRID)
    assert torch.equal(target_of(inputs, "robust_structural"), robust_weights(q, BUDGET))
    errors = {k: content_error(x, channels.get(k)) for k, x in inputs["squared"].items()}
    expected = robust_weights(error_map(errors, LAYERS, GRID), BUDGET)
    assert torch.equal(target_of(inputs, "robust"), expected)


# --- loss of the branch -----------------------------------------------------------------------


def test_branch_loss_is_the_kl_from_target_to_prediction() -> None:
    predicted, target = random_attention(), random_attention()
    expected = kl_divergence(
        Categorical(probs=target.flatten(1)), Categorical(probs=predicted.flatten(1))
    )
    torch.testing.assert_close(branch_loss(predicted, target), expected)
    assert branch_loss(predicted, predicted).abs().max() == 0


def test_branch_loss_is_finite_for_a_target_with_zeros() -> None:
    target = robust_weights(random_attention(), 10.0)
    predicted = random_attention().requires_grad_()
    loss = branch_loss(predicted, target)
    loss.sum().backward()
    assert predicted.grad is not None
    assert loss.isfinite().all()
    assert predicted.grad.isfinite().all()


def test_gradient_of_branch_loss(assert_gradient: Callable[..., None]) -> None:
    target = robust_weights(torch.rand(2, 1, 3, 3, dtype=F64), BUDGET)
    assert_gradient(
        lambda logits: branch_loss((9 * logits.softmax(1)).view(2, 1, 3, 3), target),
        torch.randn(2, 9),
    )


# --- what a map learns from each objective, over 64 positions, from flat ------------------------


def learn(objective: str, target: str, error: Tensor, stylized: Tensor, photo: Tensor) -> Tensor:
    """Return the map after 200 steps on content loss and branch loss together."""
    layers, squared = {"conv4_2": 1.0}, {"conv4_2": error}
    attention_objective = AttentionObjective(layers, objective, target, BUDGET)
    content = ContentLoss(list(layers.items()))
    logits = torch.zeros(1, 64, dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        a = (64 * logits.softmax(1)).view(1, 1, *GRID)
        result = attention_objective(a, {}, squared, squared, stylized, photo)
        optimizer.zero_grad()
        (content(squared, result.attention) + result.loss).sum().backward()
        optimizer.step()
    return a.detach()


def warning(a: Tensor, error: Tensor) -> str | None:
    peak, kl, _ = (x.item() for x in attention_statistics(a, error))
    return collapse_warning(peak, kl, 64, BUDGET)


def test_joint_hides_the_error_and_collapses() -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = 1 + 0.1 * torch.rand(1, 1, *GRID, dtype=F64)
    error[..., :2, :2] = 0.1  # four easy positions
    a = learn("joint", "robust", error, photo, photo)
    assert attention_statistics(a, error).correlation < -0.9
    assert (a * error).mean() < 0.2 * error.mean()
    assert "collapsed" in (warning(a, error) or "")


def test_learned_robust_attention_finds_the_error_within_its_budget() -> None:
    photo = torch.rand(1, 3, 64, 64)
    error = torch.randn(1, 1, *GRID, dtype=F64).square()
    a = learn("learned", "robust", error, photo, photo)
    assert attention_statistics(a, error).correlation > 0.8
    assert (a * error).mean() > 1.5 * error.mean()
    assert abs(kl_to_uniform(a).item() - BUDGET) < 0.02
    assert warning(a, error) is None


def test_learned_structural_attention_finds_the_damaged_structure() -> None:
    photo = torch.rand(1, 3, 64, 64)
    stylized = photo.clone()
    stylized[..., :32, 32:] = torch.rand(1, 3, 32, 32)
    error = torch.randn(1, 1, *GRID, dtype=F64).square()  # unrelated to the damage
    a = learn("learned", "structural", error, stylized, photo)
    quadrants = F.adaptive_avg_pool2d(a, 2)[0, 0]
    assert quadrants.argmax() == 1
    assert quadrants[0, 1] > 2
    assert warning(a, error) is None
