import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from underdrawing.losses.adversarial import (
    GAN_LOSSES,
    fake_loss,
    feature_matching,
    fraction_real,
    generator_loss,
    mean_logit,
    r1_penalty,
    real_loss,
)

F64 = torch.float64
SIDES = {"real": real_loss, "fake": fake_loss, "generator": generator_loss}
FORMULAS: dict[tuple[str, str], Callable[[float], float]] = {
    ("lsgan", "real"): lambda x: (x - 1) ** 2 / 2,
    ("lsgan", "fake"): lambda x: x**2 / 2,
    ("lsgan", "generator"): lambda x: (x - 1) ** 2 / 2,
    ("hinge", "real"): lambda x: max(0, 1 - x),
    ("hinge", "fake"): lambda x: max(0, 1 + x),
    ("hinge", "generator"): lambda x: -x,
    ("nonsaturating", "real"): lambda x: -math.log(1 / (1 + math.exp(-x))),
    ("nonsaturating", "fake"): lambda x: -math.log(1 - 1 / (1 + math.exp(-x))),
    ("nonsaturating", "generator"): lambda x: -math.log(1 / (1 + math.exp(-x))),
}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("game", "side"), FORMULAS)
def test_each_game_is_its_formula_averaged_over_patches_then_scales(
    gan_loss: str, side: str, dtype: torch.dtype
) -> None:
    scales = [3 * torch.randn(2, 1, 3, 4, dtype=dtype), 3 * torch.randn(2, 1, 2, 1, dtype=dtype)]
    formula = FORMULAS[gan_loss, side]
    expected = torch.tensor(
        [
            sum(sum(map(formula, x[b].flatten().tolist())) / x[b].numel() for x in scales) / 2
            for b in range(2)
        ],
        dtype=F64,
    )
    measured = SIDES[side](scales, gan_loss)
    assert measured.shape == (2,)
    close(measured, expected)


@pytest.mark.parametrize(("game", "side"), FORMULAS)
def test_each_game_has_the_gradient_it_should(
    gan_loss: str, side: str, assert_gradient: Callable[..., None]
) -> None:
    # away from the hinge's kinks
    x = torch.tensor([-2.0, -0.4, 0.3, 1.7]).view(2, 1, 1, 2)
    assert_gradient(lambda x: SIDES[side]([x], gan_loss), x)


@pytest.mark.parametrize("game", GAN_LOSSES)
def test_the_generator_wants_what_the_discriminator_fears(gan_loss: str) -> None:
    logits = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1)
    assert (fake_loss([logits], gan_loss).diff() > 0).all()
    assert (generator_loss([logits], gan_loss).diff() < 0).all()
    assert (real_loss([logits], gan_loss).diff() < 0).all()


@pytest.mark.parametrize("game", GAN_LOSSES)
def test_half_precision_logits_are_judged_in_float32(gan_loss: str) -> None:
    logits = torch.full((1, 1, 2, 2), 1e3).half()
    for loss in SIDES.values():
        assert loss([logits], gan_loss).dtype == torch.float32
        assert loss([logits], gan_loss).isfinite().all()


def linear(real: Tensor, weight: Tensor) -> Tensor:
    return (real * weight).sum(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize(("game", "middle"), [("lsgan", 0.5), ("hinge", 0), ("nonsaturating", 0)])
def test_patches_over_the_middle_are_taken_for_real(gan_loss: str, middle: float) -> None:
    coarse = middle + torch.tensor([[-1.0, 2.0], [0.1, 3.0]]).view(2, 1, 1, 2)
    fine = middle + torch.tensor([[-1.0], [1.0]]).view(2, 1, 1, 1)
    assert fraction_real([coarse, fine], gan_loss).tolist() == [0.25, 1.0]


def test_the_score_is_the_mean_logit_over_patches_then_scales() -> None:
    coarse, fine = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2), torch.tensor([4.0]).view(1, 1, 1, 1)
    assert mean_logit([coarse, fine]).tolist() == [3.0]


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 5, dtype=F64)
    real = torch.rand(2, 3, 4, 5, dtype=F64, requires_grad=True)
    penalty = r1_penalty([linear(real, weight)], real)
    assert penalty.shape == (2,)
    close(penalty, weight.square().sum().expand(2))


def test_r1_of_several_scales_is_that_of_their_mean() -> None:
    weights = torch.randn(2, 3, 4, 5, dtype=F64)
    real = torch.rand(2, 3, 4, 5, dtype=F64, requires_grad=True)
    penalty = r1_penalty([linear(real, w) for w in weights], real)
    close(penalty, weights.mean(0).square().sum().expand(2))


def test_r1_is_per_picture() -> None:
    # D(x) = ||x||²/2 has gradient x
    real = torch.rand(3, 3, 4, 4, dtype=F64, requires_grad=True)
    mean_logit = real.square().sum(dim=(1, 2, 3), keepdim=True) / 2
    close(r1_penalty([mean_logit], real), real.detach().square().sum(dim=(1, 2, 3)))


def test_r1_can_be_descended() -> None:
    weight = torch.randn(3, 4, 4, dtype=F64, requires_grad=True)
    real = torch.rand(2, 3, 4, 4, dtype=F64, requires_grad=True)
    r1_penalty([linear(real, weight)], real).mean().backward()
    assert weight.grad is not None
    close(weight.grad, 2 * weight.detach())


def pyramid() -> list[list[Tensor]]:
    return [
        [torch.randn(2, 4, 5, 5, dtype=F64), torch.randn(2, 6, 3, 3, dtype=F64)],
        [torch.randn(2, 4, 2, 2, dtype=F64)],
    ]


def test_feature_matching_is_the_mean_relative_distance_of_layers() -> None:
    ours, photos = pyramid(), pyramid()
    terms = [
        (f - p).square().sum(dim=(1, 2, 3)) / p.square().sum(dim=(1, 2, 3))
        for scale, scale_ in zip(ours, photos, strict=True)
        for f, p in zip(scale, scale_, strict=True)
    ]
    measured = feature_matching(ours, photos)
    assert measured.shape == (2,)
    close(measured, torch.stack(terms).mean(0))


def test_feature_matching_is_zero_for_equal_features() -> None:
    photos = pyramid()
    assert torch.equal(feature_matching(photos, photos), torch.zeros(2))


def test_feature_matching_pulls_the_output_and_never_the_photo() -> None:
    ours, photos = pyramid(), pyramid()
    for f in [*ours[0], *ours[1], *photos[0], *photos[1]]:
        f.requires_grad_()
    feature_matching(ours, photos).sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for scale in ours for f in scale)
    assert all(p.grad is None for scale in photos for p in scale)


def test_feature_matching_has_the_gradient_it_should(
    assert_gradient: Callable[..., None],
) -> None:
    photo = torch.randn(2, 2, 3, 3)
    assert_gradient(lambda f: feature_matching([[f]], [[photo]]), torch.randn(2, 2, 3, 3))
