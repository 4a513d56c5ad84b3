import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from underdrawing.models.normalization import instance_norm, mean_std


def test_instance_norm_equals_torchs() -> None:
    x = 3 + 2 * torch.randn(2, 5, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x))
    assert gradcheck(instance_norm, x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_mean_std_matches_float64_statistics(
    dtype: torch.dtype, layout: torch.memory_format, offset: float
) -> None:
    """E[x²] - E[x]² in float32 would keep no digit at 1e4."""
    x = (offset + 2 + torch.randn(2, 3, 35, 46)).to(dtype).contiguous(memory_format=layout)
    variance, mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    for found, expected in zip(mean_std(x), (mean, (variance + 1e-5).sqrt()), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 255.0])
def test_std_of_a_flat_image_is_its_floor(value: float) -> None:
    mean, std = mean_std(torch.full((1, 3, 61, 47), value))
    torch.testing.assert_close(mean, torch.full((1, 3), value))
    torch.testing.assert_close(std, torch.full((1, 3), 1e-5).sqrt(), rtol=1e-3, atol=0)
