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


@pytest.mark.parametrize(("gan_loss", "side"), FORMULAS)
def test_losses_are_formulas_averaged_over_patches(
    gan_loss: str, side: str, dtype: torch.dtype
) -> None:
    logits = 3 * torch.randn(2, 1, 3, 4, dtype=dtype)
    formula = FORMULAS[gan_loss, side]
    expected = torch.tensor([sum(map(formula, x.flatten().tolist())) / 12 for x in logits])
    torch.testing.assert_close(SIDES[side](logits, gan_loss), expected)


@pytest.mark.parametrize("gan_loss", GAN_LOSSES)
def test_losses_of_half_precision_logits_are_finite_float32(gan_loss: str) -> None:
    logits = torch.full((1, 1, 2, 2), 1e3).half()
    for loss in SIDES.values():
        assert loss(logits, gan_loss).dtype == torch.float32
        assert loss(logits, gan_loss).isfinite().all()


@pytest.mark.parametrize(
    ("gan_loss", "threshold"), [("lsgan", 0.5), ("hinge", 0), ("nonsaturating", 0)]
)
def test_fraction_real_counts_patches_above_the_threshold(gan_loss: str, threshold: float) -> None:
    logits = threshold + torch.tensor([[-1.0, 2.0], [0.1, 3.0]]).view(2, 1, 1, 2)
    assert fraction_real(logits, gan_loss).tolist() == [0.5, 1.0]


def test_r1_is_the_squared_gradient_of_each_image_and_trains_the_weights() -> None:
    weight = torch.randn(4, 5, requires_grad=True)
    real = torch.rand(2, 3, 4, 5, requires_grad=True)
    logits = (weight * real.square()).sum(dim=(1, 2, 3), keepdim=True) / 2
    penalty = r1_penalty(logits, real)
    gradient = weight * real
    torch.testing.assert_close(penalty, gradient.square().sum(dim=(1, 2, 3)))
    penalty.sum().backward()
    torch.testing.assert_close(weight.grad, (2 * weight * real.square()).sum(dim=(0, 1)))


def features() -> list[Tensor]:
    sizes = (2, 4, 5, 5), (2, 6, 3, 3)
    return [torch.randn(size, dtype=F64, requires_grad=True) for size in sizes]


def test_feature_matching_is_the_mean_relative_distance_and_trains_the_output_only() -> None:
    output, photo = features(), features()
    terms = [
        (f - p).square().sum(dim=(1, 2, 3)) / p.square().sum(dim=(1, 2, 3))
        for f, p in zip(output, photo, strict=True)
    ]
    found = feature_matching(output, photo)
    torch.testing.assert_close(found, torch.stack(terms).mean(0).float())
    found.sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in output)
    assert all(p.grad is None for p in photo)
