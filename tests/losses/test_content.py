import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from underdrawing.losses.content import (
    ContentLoss,
    attention_at,
    complexity,
    content_error,
    dynamic_layers,
    pixel_loss,
)
from underdrawing.losses.normalization import NORMALIZATIONS
from underdrawing.models.encoder import Features

F64 = torch.float64
PAPER_LAYERS = (("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3))
SIZES = {"conv3_2": (4, 12, 14), "conv4_2": (5, 6, 7), "conv5_2": (6, 3, 4)}
each_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS)


def features(dtype: torch.dtype = F64) -> Features:
    return {layer: torch.randn(2, *size, dtype=dtype) for layer, size in SIZES.items()}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def test_pixel_loss_is_the_mean_squared_difference(dtype: torch.dtype) -> None:
    x, y = torch.rand(2, 2, 3, 5, 4, dtype=dtype)
    torch.testing.assert_close(pixel_loss(x, y), (x - y).square().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("normalization", ["none", "l2"])
def test_loss_is_the_papers_sum_times_a_factor(normalization: str) -> None:
    """½Σ over the features, or Σ over features of length 1."""
    f, p = features()["conv4_2"], features()["conv4_2"]
    loss = ContentLoss([("conv4_2", 1.0)], normalization)
    found = loss(loss.squared_errors({"conv4_2": f}, {"conv4_2": p}))
    if normalization == "none":
        found = found * f[0].numel() / 2
        paper = 0.5 * (f - p).square().sum(dim=(1, 2, 3))
    else:
        paper = (F.normalize(f.flatten(1)) - F.normalize(p.flatten(1))).square().sum(1)
    close(found, paper)


@each_normalization
def test_multi_scale_loss_is_a_weighted_sum_of_layers(
    normalization: str, dtype: torch.dtype
) -> None:
    f, p, normalize = features(dtype), features(dtype), NORMALIZATIONS[normalization]
    loss = ContentLoss(PAPER_LAYERS, normalization)
    expected = torch.zeros(2, dtype=F64)
    for layer, weight in PAPER_LAYERS:
        difference = normalize(f[layer]) - normalize(p[layer])
        expected += weight * difference.square().mean(dim=(1, 2, 3)).double()
    close(loss(loss.squared_errors(f, p)), expected)
    assert torch.equal(loss(loss.squared_errors(f, f)), torch.zeros(2))


@each_normalization
def test_half_precision_features_do_not_overflow(normalization: str) -> None:
    loss = ContentLoss([("l", 1.0)], normalization)
    f, p = (1e3 * torch.randn(2, 2, 8, 16, 16)).half()
    value = loss(loss.squared_errors({"l": f}, {"l": p}))
    assert value.dtype == torch.float32
    assert value.isfinite().all()


# --- attention ------------------------------------------------------------------------------


def test_spatial_and_channel_attention_multiply() -> None:
    loss = ContentLoss(PAPER_LAYERS, "none")
    squared = loss.squared_errors(features(), features())
    a = torch.rand(2, 1, 6, 7, dtype=F64)
    channels = {"conv5_2": torch.rand(2, 6, dtype=F64)}
    expected = torch.zeros(2, dtype=F64)
    for layer, weight in PAPER_LAYERS:
        c, h, w = SIZES[layer]
        per_channel = channels.get(layer, torch.ones(2, c, dtype=F64))
        total = torch.einsum(
            "bchw,bhw,bc->b", squared[layer].double(), attention_at(a, (h, w))[:, 0], per_channel
        )
        expected += weight * total / (c * h * w)
    close(loss(squared, a, channels), expected)


def test_content_error_is_the_mean_over_weighted_channels() -> None:
    squared, channels = features()["conv4_2"].square(), torch.rand(2, 5, dtype=F64)
    expected = torch.einsum("bchw,bc->bhw", squared, channels)[:, None] / 5
    close(content_error(squared, channels), expected, 1e-12)
    assert torch.equal(content_error(squared), squared.mean(1, keepdim=True))


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (12, 14), (31, 17)])
def test_resized_attention_keeps_mean_one_and_the_place_of_its_peak(
    size: tuple[int, int],
) -> None:
    a = torch.zeros(2, 1, 8, 8, dtype=F64)
    a[..., 4:, :4] = 4
    resized = attention_at(a, size)
    assert resized.shape == (2, 1, *size)
    assert (resized >= 0).all()
    close(resized.mean(dim=(1, 2, 3)), torch.ones(2), 1e-12)
    quadrants = F.adaptive_avg_pool2d(resized, 2)[0].flatten()
    assert size == (1, 1) or (quadrants[2] > 2 * quadrants[[0, 1, 3]]).all()


# --- dynamic layer selection ------------------------------------------------------------------


def textured(contrast: float) -> Tensor:
    """Photos whose gradients get more diverse with the contrast."""
    return 0.5 + contrast * (torch.rand(2, 3, 64, 64) - 0.5)


def test_complexity_is_zero_for_a_flat_photo_and_rises_with_the_texture() -> None:
    flat, some, much = (complexity(textured(c)) for c in (0.0, 0.2, 1.0))
    assert torch.equal(flat, torch.zeros(2))
    assert (some < much).all()
    assert (much <= 1).all()


def test_dynamic_layers_shift_to_deep_layers_in_complex_photos() -> None:
    layers = dict(PAPER_LAYERS)
    simple, rich = (dynamic_layers(textured(c), layers) for c in (0.0, 1.0))
    assert (simple["conv3_2"] > rich["conv3_2"]).all()
    assert (simple["conv5_2"] < rich["conv5_2"]).all()
    for weights in (simple, rich):
        close(torch.stack(list(weights.values())).sum(0), torch.ones(2))
    assert dynamic_layers(textured(1.0), {"conv4_2": 0.7})["conv4_2"].tolist() == pytest.approx(
        [0.7] * 2
    )


def test_the_loss_uses_the_weights_of_each_photo() -> None:
    loss = ContentLoss(PAPER_LAYERS, "none")
    errors = loss.squared_errors(features(), features())
    weights = {layer: torch.rand(2, dtype=F64) for layer, _ in PAPER_LAYERS}
    terms = [w * content_error(errors[k]).mean(dim=(1, 2, 3)) for k, w in weights.items()]
    close(loss(errors, layers=weights), torch.stack(terms).sum(0))
