from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from underdrawing.losses.style import KINDS, StyleLoss, gram, gram_loss, statistics_loss

F64 = torch.float64


def pair(batch: int = 2, c: int = 3, h: int = 4, w: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, c, h, w, dtype=F64), torch.randn(batch, c, h + 1, w, dtype=F64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def mean_std(f: Tensor) -> tuple[Tensor, Tensor]:
    return f.mean(dim=(2, 3)), (f.var(dim=(2, 3), correction=0) + 1e-5).sqrt()


def test_gram_is_the_inner_product_of_channels() -> None:
    f, _ = pair()
    expected = torch.zeros(2, 3, 3, dtype=F64)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                expected[b, i, j] = torch.einsum("hw,hw->", f[b, i], f[b, j]) / (3 * 4 * 5)
    close(gram(f), expected)


def test_gram_is_symmetric_and_positive() -> None:
    g = gram(pair()[0])
    assert torch.equal(g, g.mT)
    assert (torch.linalg.eigvalsh(g) > -1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_style_forgets_where_things_are(kind: str) -> None:
    f, _ = pair()
    shuffled = f.flatten(2)[..., torch.randperm(20)].view_as(f)
    assert KINDS[kind](shuffled, f).max() < 1e-8


def test_published_gram_loss_is_the_mean_squared_difference_of_grams() -> None:
    f, p = pair()
    expected = (gram(f) - gram(p)).square().sum(dim=(1, 2)) / 3**2
    close(gram_loss(f, p, relative=False), expected)


def test_relative_gram_loss_is_in_units_of_the_paintings_gram() -> None:
    f, p = pair()
    expected = (gram(f) - gram(p)).square().sum(dim=(1, 2)) / gram(p).square().sum(dim=(1, 2))
    close(gram_loss(f, p), expected)


def test_published_statistics_loss_compares_means_and_deviations() -> None:
    f, p = pair()
    (mean, std), (mean_, std_) = mean_std(f), mean_std(p)
    expected = ((mean - mean_) ** 2 + (std - std_) ** 2).sum(1) / 3
    close(statistics_loss(f, p, relative=False), expected)


def test_relative_statistics_loss_is_in_units_of_the_paintings_statistics() -> None:
    f, p = pair()
    (mean, std), (mean_, std_) = mean_std(f), mean_std(p)
    distance = ((mean - mean_) ** 2 + (std - std_) ** 2).sum(1)
    close(statistics_loss(f, p), distance / (mean_**2 + std_**2).sum(1))


def test_statistics_of_features_far_from_zero_keep_their_digits() -> None:
    far = (1e4 + torch.randn(2, 3, 32, 32)).float(), (1e4 + 2 * torch.randn(2, 3, 32, 32)).float()
    (mean, std), (mean_, std_) = (mean_std(x.double()) for x in far)
    expected = ((mean - mean_) ** 2 + (std - std_) ** 2).mean(1)
    measured = statistics_loss(*far, relative=False)
    torch.testing.assert_close(measured.double(), expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-1, 1e2])
def test_relative_style_forgets_the_scale_of_a_layer(kind: str, scale: float) -> None:
    f, p = pair()
    torch.testing.assert_close(
        KINDS[kind](scale * f, scale * p), KINDS[kind](f, p), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_relative_style_of_nothing_painted_is_about_one(kind: str) -> None:
    _, p = pair()
    assert KINDS[kind](torch.zeros_like(p), p).sub(1).abs().max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [True, False])
def test_style_loss_is_the_mean_over_layers(kind: str, relative: bool, dtype: torch.dtype) -> None:
    pairs = {"relu1_1": pair(), "relu2_1": pair(c=5)}
    ours = {layer: f.to(dtype) for layer, (f, _) in pairs.items()}
    theirs = {layer: p.to(dtype) for layer, (_, p) in pairs.items()}
    measured = StyleLoss(tuple(pairs), kind, relative)(ours, theirs)
    expected = torch.stack([KINDS[kind](f, p, relative) for f, p in pairs.values()]).mean(0)
    assert measured.shape == (2,)
    close(measured, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [True, False])
def test_style_loss_is_zero_for_equal_features(kind: str, relative: bool) -> None:
    f, _ = pair()
    assert torch.equal(KINDS[kind](f, f, relative), torch.zeros(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [True, False])
def test_style_loss_has_the_gradient_it_should(
    kind: str, relative: bool, assert_gradient: Callable[..., None]
) -> None:
    f, p = torch.randn(2, 2, 2, 3, 3)
    assert_gradient(lambda x: KINDS[kind](x, p, relative), f)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [True, False])
def test_half_precision_features_do_not_overflow(kind: str, relative: bool) -> None:
    f, p = (1e3 * torch.rand(2, 2, 8, 32, 32)).half()
    distance = KINDS[kind](f, p, relative)
    assert distance.dtype == torch.float32
    assert distance.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_painting_gives_a_finite_distance_and_gradient(kind: str) -> None:
    f, blank = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 3, 4, 4)
    distance = KINDS[kind](f, blank)
    distance.sum().backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()
    assert distance.isfinite().all()
