import pytest
import torch
from underdrawing.models.attention import (
    ChannelAttention,
    SpatialAttention,
    attention_to_strength,
    spatial_softmax,
)

CHANNELS = {"conv3_2": 7, "conv4_2": 12}


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9), (32, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spatial_softmax_has_mean_one(size: tuple[int, int], dtype: torch.dtype) -> None:
    a = spatial_softmax(5 * torch.randn(2, 1, *size).to(dtype))
    assert a.shape == (2, 1, *size)
    assert a.dtype == torch.float32
    assert (a >= 0).all()
    torch.testing.assert_close(a.mean(dim=(1, 2, 3)), torch.ones(2))


def test_spatial_softmax_is_the_softmax_over_positions_times_their_number() -> None:
    logits = torch.randn(2, 1, 3, 4)
    e = logits.exp()
    torch.testing.assert_close(spatial_softmax(logits), 12 * e / e.sum(dim=(2, 3), keepdim=True))


def test_extreme_logits_stay_finite() -> None:
    a = spatial_softmax(torch.tensor([1e4, -1e4, 0.0, 0.0]).view(1, 1, 2, 2))
    assert torch.equal(a.flatten(), torch.tensor([4.0, 0.0, 0.0, 0.0]))


def test_training_starts_from_attention_of_one_everywhere() -> None:
    a = SpatialAttention(8)(torch.randn(2, 8, 12, 16))
    torch.testing.assert_close(a, torch.ones(2, 1, 6, 8))


def test_the_first_step_can_move_the_map() -> None:
    branch = SpatialAttention(8)
    a = branch(torch.randn(2, 8, 8, 8))
    (a * torch.randn_like(a)).sum().backward()
    assert branch.logits.weight.grad is not None
    assert branch.logits.weight.grad.abs().sum() > 0


def test_the_map_sees_about_150_pixels_of_the_photo() -> None:
    branch = SpatialAttention(4).double()
    torch.nn.init.normal_(branch.logits.weight)
    for layer in branch.body:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 0.1)  # all alive: the widest reach
    trunk = torch.rand(1, 4, 64, 64, dtype=torch.float64, requires_grad=True)
    branch.logits(branch.body(trunk))[0, 0, 16, 16].backward()
    assert trunk.grad is not None
    seen = trunk.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    stride_of_trunk = 4
    side = int(seen[-1] - seen[0] + 1) * stride_of_trunk
    assert 100 <= side <= 160


def test_channel_attention_starts_at_one_for_every_channel() -> None:
    weights = ChannelAttention(8, CHANNELS)(torch.randn(2, 8, 4, 4))
    for layer, c in CHANNELS.items():
        torch.testing.assert_close(weights[layer], torch.ones(2, c))


def test_channel_attention_has_mean_one() -> None:
    branch = ChannelAttention(8, CHANNELS)
    for head in branch.heads.values():
        torch.nn.init.normal_(head.get_parameter("weight"))
    weights = branch(torch.randn(2, 8, 4, 4))
    for layer, c in CHANNELS.items():
        assert weights[layer].shape == (2, c)
        assert (weights[layer] >= 0).all()
        torch.testing.assert_close(weights[layer].mean(1), torch.ones(2))


def test_channel_attention_tells_photos_apart_even_after_instance_norm() -> None:
    branch = ChannelAttention(8, CHANNELS)
    for head in branch.heads.values():
        torch.nn.init.normal_(head.get_parameter("weight"))
    trunk = torch.nn.functional.instance_norm(torch.randn(2, 8, 6, 6) ** 3)
    first, second = branch(trunk)["conv3_2"]
    assert (first - second).abs().max() > 1e-3


def test_what_attention_marks_is_spared() -> None:
    attention = torch.tensor([[[[0.0, 0.5], [1.0, 2.5]]]])
    strength = attention_to_strength(attention, (2, 2))
    torch.testing.assert_close(strength, torch.tensor([[[[1.0, 1.0], [1.0, 0.4]]]]))
    assert attention_to_strength(attention, (9, 13)).shape == (1, 1, 9, 13)
