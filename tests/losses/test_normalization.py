import pytest
import torch
from underdrawing.losses.normalization import NORMALIZATIONS, batch, l2

F64 = torch.float64


def test_l2_divides_by_the_norm_and_gives_unit_mean_square() -> None:
    f = torch.randn(2, 3, 4, 5, dtype=F64)
    expected = f / f.flatten(1).norm(dim=1)[:, None, None, None] * (3 * 4 * 5) ** 0.5
    torch.testing.assert_close(l2(f), expected)
    torch.testing.assert_close(l2(f).square().mean(dim=(1, 2, 3)), torch.ones(2, dtype=F64))


@pytest.mark.parametrize("scale", [1e-2, 7.0, 1e4])
def test_l2_forgets_the_scale_of_each_picture(scale: float) -> None:
    f = torch.randn(2, 3, 4, 5, dtype=F64)
    torch.testing.assert_close(l2(f * scale), l2(f), rtol=1e-6, atol=1e-6)


def test_batch_is_batchnorm_over_all_pictures() -> None:
    f = torch.randn(3, 4, 5, 6, dtype=F64) * 3 + 2
    mean = f.mean(dim=(0, 2, 3), keepdim=True)
    variance = f.var(dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(batch(f), (f - mean) / (variance + 1e-5).sqrt())


def test_instance_is_standardized_per_picture_and_channel() -> None:
    f = torch.randn(3, 4, 5, 6, dtype=F64) * 3 + 2
    mean, variance = f.mean(dim=(2, 3), keepdim=True), f.var(dim=(2, 3), keepdim=True, correction=0)
    expected = (f - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(NORMALIZATIONS["instance"](f), expected)


def test_none_is_the_identity() -> None:
    f = torch.randn(1, 2, 3, 3)
    assert NORMALIZATIONS["none"](f) is f


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_only_batchnorm_lets_a_picture_see_its_neighbors(name: str) -> None:
    f = torch.randn(2, 3, 4, 4, dtype=F64)
    other = torch.stack([f[0], 5 * f[1] + 1])
    alike = torch.allclose(NORMALIZATIONS[name](f)[0], NORMALIZATIONS[name](other)[0])
    assert alike == (name != "batch")


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_dead_features_stay_finite_with_finite_gradients(name: str) -> None:
    f = torch.zeros(2, 3, 4, 4, requires_grad=True)
    normalized = NORMALIZATIONS[name](f)
    normalized.square().sum().backward()
    assert normalized.isfinite().all()
    assert f.grad is not None
    assert f.grad.isfinite().all()
