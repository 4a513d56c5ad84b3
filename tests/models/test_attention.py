import pytest
import torch
from torch import nn
from underdrawing.models.attention import (
    ChannelAttention,
    SpatialAttention,
    attention_to_strength,
    spatial_softmax,
)

CHANNELS = {"conv3_2": 7, "conv4_2": 12}


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (32, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spatial_softmax_is_nonnegative_float32_with_mean_one(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    a = spatial_softmax(5 * torch.randn(2, 1, *size).to(dtype))
    assert a.shape == (2, 1, *size)
    assert a.dtype == torch.float32
    assert (a >= 0).all()
    torch.testing.assert_close(a.mean(dim=(1, 2, 3)), torch.ones(2))


def test_spatial_softmax_equals_softmax_over_positions_times_their_number() -> None:
    logits = torch.randn(2, 1, 3, 4)
    e = logits.exp()
    torch.testing.assert_close(spatial_softmax(logits), 12 * e / e.sum(dim=(2, 3), keepdim=True))


def test_spatial_softmax_of_extreme_logits_is_finite() -> None:
    a = spatial_softmax(torch.tensor([1e4, -1e4, 0.0, 0.0]).view(1, 1, 2, 2))
    assert torch.equal(a.flatten(), torch.tensor([4.0, 0.0, 0.0, 0.0]))


def test_spatial_attention_starts_at_one_and_its_first_step_changes_it() -> None:
    branch = SpatialAttention(8)
    a = branch(torch.randn(2, 8, 6, 9))
    torch.testing.assert_close(a, torch.ones(2, 1, 6, 9))
    (a * torch.randn_like(a)).sum().backward()
    assert branch.logits.weight.grad is not None
    assert branch.logits.weight.grad.abs().sum() > 0


def test_receptive_field_is_15_trunk_positions() -> None:
    branch = SpatialAttention(4).double()
    for layer in [*branch.body, branch.logits]:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)  # no ReLU blocks the gradient
    trunk = torch.rand(1, 4, 32, 32, dtype=torch.float64, requires_grad=True)
    branch.logits(branch.body(trunk))[0, 0, 16, 16].backward()
    assert trunk.grad is not None
    rows = trunk.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 15


def test_channel_attention_starts_at_one() -> None:
    weights = ChannelAttention(8, CHANNELS)(torch.randn(2, 8, 4, 4))
    for layer, c in CHANNELS.items():
        torch.testing.assert_close(weights[layer], torch.ones(2, c))


def test_channel_attention_has_mean_one_and_differs_by_photo_after_instance_norm() -> None:
    branch = ChannelAttention(8, CHANNELS)
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    weights = branch(nn.functional.instance_norm(torch.randn(2, 8, 6, 6) ** 3))
    for layer, c in CHANNELS.items():
        assert weights[layer].shape == (2, c)
        assert (weights[layer] >= 0).all()
        torch.testing.assert_close(weights[layer].mean(1), torch.ones(2))
        assert (weights[layer][0] - weights[layer][1]).abs().max() > 1e-3


def test_attention_to_strength_is_the_inverse_above_the_mean() -> None:
    attention = torch.tensor([[[[0.0, 0.5], [1.0, 2.5]]]])
    strength = attention_to_strength(attention, (2, 2))
    torch.testing.assert_close(strength, torch.tensor([[[[1.0, 1.0], [1.0, 0.4]]]]))
    assert attention_to_strength(attention, (9, 13)).shape == (1, 1, 9, 13)
