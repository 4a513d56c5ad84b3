import pytest
import torch
from torch import Tensor, nn
from underdrawing.models.attention import (
    ChannelAttention,
    SpatialAttention,
    attention_map,
    attention_to_strength,
    luminance_statistics,
)

CHANNELS = {"conv3_2": 7, "conv4_2": 12}


def kl(a: Tensor) -> Tensor:
    return torch.special.xlogy(a, a).flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 9), (1, 32, 20), (12,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_nonnegative_with_mean_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a = attention_map(5 * torch.randn(2, *shape).to(dtype), 0.5)
    assert a.shape == (2, *shape)
    assert a.dtype == torch.float32
    assert (a >= 0).all()
    torch.testing.assert_close(a.flatten(1).mean(1), torch.ones(2))


def test_a_map_is_a_softmax_of_the_error() -> None:
    g = torch.randn(2, 1, 6, 7)
    log_a = attention_map(g, 0.8).log().flatten(1)
    x, y = g.flatten(1), log_a
    slope = ((x - x.mean(1, True)) * (y - y.mean(1, True))).sum(1) / x.var(1) / 41
    expected = 42 * (slope[:, None] * x).softmax(1)
    torch.testing.assert_close(log_a.exp(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("scale", "offset"), [(0.2, 0.0), (1.0, -3.0), (1e3, 1e3)])
@pytest.mark.parametrize("power", [1, 3])  # Gaussian and heavy-tailed
def test_the_kl_of_a_map_is_its_budget(
    budget: float, scale: float, offset: float, power: int
) -> None:
    g = torch.cat([torch.randn(2, 1, 20, 30) ** power, torch.randn(1, 1, 20, 30).abs() ** power])
    a = attention_map(scale * g + offset, budget)
    torch.testing.assert_close(kl(a), torch.full((3,), budget), rtol=0.05, atol=0)


def test_a_constant_or_very_small_prediction_gives_a_flat_map() -> None:
    a = attention_map(torch.full((1, 1, 8, 8), 7.0), 0.5)
    torch.testing.assert_close(a, torch.ones_like(a))
    small = attention_map(1e-3 * torch.randn(1, 1, 64, 64), 0.5)
    assert kl(small) < 1e-3


def test_an_extreme_prediction_is_finite() -> None:
    a = attention_map(torch.tensor([1e4, -1e4, 0.0, 0.0]).view(1, 1, 2, 2), 50.0)
    torch.testing.assert_close(a.flatten(), torch.tensor([4.0, 0.0, 0.0, 0.0]))


def inputs(width: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """A photo whose sides are not multiples of 8, and trunk features."""
    photo = torch.rand(2, 3, 8 * h - 3, 8 * w - 5)
    return photo, torch.randn(2, width // 2, 2 * h, 2 * w), torch.randn(2, width, h, w)


def test_spatial_attention_starts_at_zero_and_its_first_step_changes_it() -> None:
    branch = SpatialAttention(8)
    g = branch(*inputs(8, 6, 9))
    torch.testing.assert_close(attention_map(g, 0.5), torch.ones(2, 1, 6, 9))
    (g * torch.randn_like(g)).sum().backward()
    assert branch.head.weight.grad is not None
    assert branch.head.weight.grad.abs().sum() > 0


def test_channel_attention_starts_at_zero_and_differs_by_photo_after_instance_norm() -> None:
    branch = ChannelAttention(8, CHANNELS)
    features = nn.functional.instance_norm(torch.randn(2, 8, 6, 6) ** 3)
    assert not any(prediction.any() for prediction in branch(features).values())
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    predictions = branch(features)
    for layer, c in CHANNELS.items():
        assert predictions[layer].shape == (2, c)
        assert (predictions[layer][0] - predictions[layer][1]).abs().max() > 1e-3


def test_attention_to_strength_is_the_inverse_above_the_mean() -> None:
    attention = torch.tensor([[[[0.0, 0.5], [1.0, 2.5]]]])
    strength = attention_to_strength(attention, (16, 16))
    corners = strength[..., ::15, ::15]
    torch.testing.assert_close(corners, torch.tensor([[[[1.0, 1.0], [1.0, 0.4]]]]))
    cut = attention_to_strength(attention, (9, 13))  # not stretched: the photo was padded
    assert torch.equal(cut, strength[..., :9, :13])


def test_luminance_statistics_are_those_of_windows() -> None:
    photo = torch.rand(1, 3, 20, 33)
    mean, variance, fine = luminance_statistics(photo)[0]
    y = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * photo[0]).sum(0)
    assert mean.shape == (3, 5)
    y = torch.nn.functional.pad(y[None, None], (0, 7, 0, 4), mode="reflect")[0, 0]
    for i, j in ((0, 0), (1, 2), (2, 4)):
        window = y[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        torch.testing.assert_close(mean[i, j], window.mean())
        expected = (window.var(correction=0) + 1e-5).log() / 4
        torch.testing.assert_close(variance[i, j], expected, rtol=1e-3, atol=1e-4)
    flat = luminance_statistics(photo.mean() * torch.ones_like(photo))[0, 2]
    assert (fine > flat).all()
