import pytest
import torch
from underdrawing.losses.normalization import NORMALIZATIONS, l2

F64 = torch.float64
each_normalization = pytest.mark.parametrize("name", NORMALIZATIONS)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_l2_divides_by_the_norm_at_any_scale(scale: float) -> None:
    f = torch.randn(2, 3, 4, 5, dtype=F64)
    expected = f / f.flatten(1).norm(dim=1)[:, None, None, None] * (3 * 4 * 5) ** 0.5
    torch.testing.assert_close(l2(scale * f), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "dims"), [("batch", (0, 2, 3)), ("instance", (2, 3))])
def test_batch_and_instance_standardize_each_channel(name: str, dims: tuple[int, ...]) -> None:
    f = torch.randn(3, 4, 5, 6, dtype=F64) * 3 + 2
    mean, variance = f.mean(dims, keepdim=True), f.var(dims, keepdim=True, correction=0)
    torch.testing.assert_close(NORMALIZATIONS[name](f), (f - mean) / (variance + 1e-5).sqrt())


@each_normalization
def test_zero_features_stay_finite_with_finite_gradients(name: str) -> None:
    f = torch.zeros(2, 3, 4, 4, requires_grad=True)
    normalized = NORMALIZATIONS[name](f)
    normalized.square().sum().backward()
    assert normalized.isfinite().all()
    assert f.grad is not None
    assert f.grad.isfinite().all()
