from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from underdrawing.losses.content import (
    ContentLoss,
    Features,
    attention_at,
    content_error,
    pixel_loss,
    weighted,
)
from underdrawing.losses.normalization import NORMALIZATIONS

PAPER_LAYERS = (("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3))
SIZES = {"conv3_2": (4, 12, 14), "conv4_2": (5, 6, 7), "conv5_2": (6, 3, 4)}


def features(dtype: torch.dtype = torch.float64, batch: int = 2) -> Features:
    return {layer: torch.randn(batch, *size, dtype=dtype) for layer, size in SIZES.items()}


def random_attention(h: int, w: int, batch: int = 2) -> Tensor:
    flat = torch.randn(batch, h * w, dtype=torch.float64).softmax(1) * (h * w)
    return flat.view(batch, 1, h, w)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def test_pixel_loss_is_the_mean_squared_difference(dtype: torch.dtype) -> None:
    x, y = torch.rand(2, 2, 3, 5, 4, dtype=dtype)
    expected = ((x - y) ** 2).sum(dim=(1, 2, 3)) / (3 * 5 * 4)
    assert pixel_loss(x, y).shape == (2,)
    assert pixel_loss(x, y).dtype == dtype
    close(pixel_loss(x, y), expected)


def test_pixel_loss_has_the_gradient_it_should(assert_gradient: Callable[..., None]) -> None:
    assert_gradient(pixel_loss, torch.rand(2, 3, 4, 3), torch.rand(2, 3, 4, 3))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_one_layer_is_the_mean_squared_difference_of_normalized_features(
    normalization: str, dtype: torch.dtype
) -> None:
    normalize = NORMALIZATIONS[normalization]
    f, p = features(dtype), features(dtype)
    loss = ContentLoss([("conv4_2", 1.0)], normalization)
    measured = loss(loss.squared_errors(f, p))
    expected = (normalize(f["conv4_2"]) - normalize(p["conv4_2"])).square().mean(dim=(1, 2, 3))
    assert measured.shape == (2,)
    close(measured, expected)


def test_papers_half_sum_is_ours_times_half_the_number_of_entries() -> None:
    f, p = features(), features()
    loss = ContentLoss([("conv4_2", 1.0)], "none")
    c, h, w = SIZES["conv4_2"]
    papers = 0.5 * (f["conv4_2"] - p["conv4_2"]).square().sum(dim=(1, 2, 3))
    close(papers, loss(loss.squared_errors(f, p)) * c * h * w / 2)


def test_l2_normalized_mean_is_the_papers_sum_over_unit_features() -> None:
    f, p = features(), features()
    loss = ContentLoss([("conv4_2", 1.0)], "l2")

    def unit(x: Tensor) -> Tensor:
        return x / x.flatten(1).norm(dim=1)[:, None, None, None]

    papers = (unit(f["conv4_2"]) - unit(p["conv4_2"])).square().sum(dim=(1, 2, 3))
    close(papers, loss(loss.squared_errors(f, p)))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_several_layers_add_up_with_their_lambdas(normalization: str) -> None:
    f, p = features(), features()
    together = ContentLoss(PAPER_LAYERS, normalization)
    expected = torch.zeros(2, dtype=torch.float64)
    for layer, weight in PAPER_LAYERS:
        alone = ContentLoss([(layer, 1.0)], normalization)
        expected += weight * alone(alone.squared_errors(f, p)).double()
    close(together(together.squared_errors(f, p)), expected)


def test_attention_weighted_loss_is_the_mean_of_a_times_e() -> None:
    squared = features()["conv4_2"].square()
    a = random_attention(6, 7)
    expected = torch.zeros(2, dtype=torch.float64)
    for i in range(6):
        for j in range(7):
            expected += a[:, 0, i, j] * squared[:, :, i, j].sum(1) / (5 * 6 * 7)
    close(weighted(squared, a), expected, 1e-10)


def test_attention_adds_its_covariance_with_the_error() -> None:
    squared = features()["conv4_2"].square()
    a, e = random_attention(6, 7), content_error(squared)
    covariance = ((a - 1) * (e - e.mean(dim=(2, 3), keepdim=True))).mean(dim=(1, 2, 3))
    close(weighted(squared, a), weighted(squared, None) + covariance, 1e-10)


def test_attention_of_one_everywhere_is_the_unweighted_loss_to_the_last_bit(
    dtype: torch.dtype,
) -> None:
    loss = ContentLoss([("conv4_2", 1.0)])
    squared = loss.squared_errors(features(dtype), features(dtype))
    assert torch.equal(loss(squared), loss(squared, torch.ones(2, 1, 6, 7)))


def test_attention_of_one_everywhere_stays_neutral_at_every_layer() -> None:
    loss = ContentLoss(PAPER_LAYERS)
    squared = loss.squared_errors(features(), features())
    close(loss(squared), loss(squared, torch.ones(2, 1, 6, 7)), 1e-6)


@pytest.mark.parametrize("size", [(6, 7), (3, 3), (5, 4), (1, 1), (12, 14), (13, 15), (31, 17)])
def test_attention_has_mean_one_at_every_layers_resolution(size: tuple[int, int]) -> None:
    there = attention_at(random_attention(6, 7), size)
    assert there.shape == (2, 1, *size)
    assert (there >= 0).all()
    close(there.mean(dim=(1, 2, 3)), torch.ones(2), 1e-12)


def test_attention_at_its_own_resolution_is_untouched() -> None:
    a = random_attention(6, 7)
    assert attention_at(a, (6, 7)) is a


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (17, 19)])
def test_attention_keeps_pointing_at_the_same_place(size: tuple[int, int]) -> None:
    a = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    a[..., 4:, :4] = 2.5
    there = attention_at(a, size)
    h, w = size[0] // 2, size[1] // 2
    quadrants = [there[..., :h, :w], there[..., :h, -w:], there[..., -h:, -w:]]
    assert all(there[..., -h:, :w].mean() > 2 * other.mean() for other in quadrants)


def test_attention_of_zero_survives_the_logarithm() -> None:
    a = torch.zeros(1, 1, 4, 4)
    a[..., 0, 0] = 16.0
    assert attention_at(a, (7, 7)).isfinite().all()


def test_channel_attention_weights_the_channels_inside_the_error() -> None:
    squared = features()["conv4_2"].square()
    channels = torch.randn(2, 5, dtype=torch.float64).softmax(1) * 5
    close(
        content_error(squared, channels),
        torch.einsum("bchw,bc->bhw", squared, channels)[:, None] / 5,
        1e-12,
    )


def test_channel_attention_of_one_is_the_unweighted_loss_to_the_last_bit() -> None:
    loss = ContentLoss(PAPER_LAYERS)
    squared = loss.squared_errors(features(), features())
    ones = {layer: torch.ones(2, SIZES[layer][0]) for layer in SIZES}
    assert torch.equal(loss(squared), loss(squared, channels=ones))


def test_spatial_and_channel_attention_multiply() -> None:
    loss = ContentLoss(PAPER_LAYERS, "none")
    squared = loss.squared_errors(features(), features())
    a = random_attention(6, 7)
    channels = {"conv5_2": torch.rand(2, 6, dtype=torch.float64)}
    expected = torch.zeros(2, dtype=torch.float64)
    for layer, weight in PAPER_LAYERS:
        e = squared[layer].double() * channels.get(layer, torch.ones(2, 1))[..., None, None]
        expected += weight * (attention_at(a, e.shape[-2:]) * e).mean(dim=(1, 2, 3))
    close(loss(squared, a, channels), expected)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_loss_is_zero_for_equal_features(normalization: str) -> None:
    loss = ContentLoss(PAPER_LAYERS, normalization)
    f = features()
    assert torch.equal(loss(loss.squared_errors(f, f)), torch.zeros(2))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weighted_loss_has_the_gradient_it_should(
    normalization: str, assert_gradient: Callable[..., None]
) -> None:
    loss = ContentLoss([("l", 0.7)], normalization)
    a = random_attention(2, 2)

    def of(f: Tensor, p: Tensor) -> Tensor:
        return loss(loss.squared_errors({"l": f}, {"l": p}), a)

    assert_gradient(of, torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_half_precision_features_do_not_overflow(normalization: str) -> None:
    loss = ContentLoss([("l", 1.0)], normalization)
    f, p = (1e3 * torch.randn(2, 2, 8, 16, 16)).half()
    measured = loss(loss.squared_errors({"l": f}, {"l": p}))
    assert measured.dtype == torch.float32
    assert measured.isfinite().all()
