"""Normalizations and statistics equal float64's, also for planes of megapixels in any layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from underdrawing.models.generator import Generator, code_size
from underdrawing.models.normalization import adain, instance_norm, mean_std
from underdrawing.models.tiles import stylize_in_tiles

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def large_planes(layout: torch.memory_format) -> Tensor:
    """Return two megapixels of noise, a gradient and two levels, with means far from zero.

    Rounding errors of noise average out; where neighbors are equal, they do not.
    """
    x = torch.randn(1, 3, 2000, 1000)
    x[:, 1] = torch.linspace(0, 1, 2000)[:, None] ** 4
    x[:, 2] = torch.linspace(0, 1, 2000)[:, None] > 0.7
    x += torch.tensor([-10.0, 3.3, 0.7])[:, None, None]
    return x.contiguous(memory_format=layout)


def reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (B,C,1,1) in float64."""
    variance, mean = torch.var_mean(x.double(), dim=(2, 3), correction=0, keepdim=True)
    return mean, (variance + 1e-5).sqrt()


# --- large planes ---------------------------------------------------------------------------


@LAYOUTS
def test_norms_and_statistics_of_large_planes_equal_float64(layout: torch.memory_format) -> None:
    x, scale, bias = large_planes(layout), torch.randn(1, 3), torch.randn(1, 3)
    mean, std = reference(x)
    expected = (x.double() - mean) / std
    assert (instance_norm(x) - expected).abs().max() < 1e-4
    expected = expected * (1 + scale[..., None, None]) + bias[..., None, None]
    assert (adain(x, scale, bias) - expected).abs().max() < 1e-4
    for found, exact in zip(mean_std(x), (mean, std), strict=True):
        torch.testing.assert_close(found.double(), exact[..., 0, 0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("height", "width"), [(768, 1024), pytest.param(3000, 4000, marks=pytest.mark.long)]
)
def test_generator_equals_float64_on_a_large_photo(height: int, width: int) -> None:
    generator = Generator(code_size({"relu1_1": 4}), width=4, blocks=1)
    nn.init.normal_(generator.to_residual.conv.weight, std=0.1)
    assert generator.attention is not None
    nn.init.normal_(generator.attention.head.weight)
    photo = F.interpolate(torch.rand(1, 3, 8, 8), (height, width), mode="bilinear")
    photo = torch.lerp(photo, torch.rand_like(photo), 0.4)
    code = torch.rand(1, code_size({"relu1_1": 4}))
    with torch.no_grad():
        expected = generator.double()(photo.double(), code.double())
        whole = generator.float()(photo, code)
    tiles = stylize_in_tiles(generator, photo, code)
    for found in (whole, tiles):
        assert (found.image - expected.image).abs().max() < 3e-5
        a = found.attention.double()
        torch.testing.assert_close(a, expected.attention.double(), rtol=5e-6, atol=0)
    assert (expected.image - photo).abs().mean() > 0.01


# --- any planes -----------------------------------------------------------------------------


@LAYOUTS
@DTYPES
@pytest.mark.parametrize("shape", [(2, 5, 7, 5), (1, 3, 1, 9), (2, 2, 601, 500)])
def test_norms_equal_float64_in_any_type(
    dtype: torch.dtype, layout: torch.memory_format, shape: tuple[int, ...]
) -> None:
    x = (3 + 2 * torch.randn(shape)).to(dtype).contiguous(memory_format=layout)
    scale, bias = torch.randn(2, *shape[:2]).to(dtype)
    mean, std = reference(x)
    normalized = (x.double() - mean) / std
    styled = normalized * (1 + scale[..., None, None]) + bias[..., None, None]
    # Within one rounding of the largest values; bfloat16 has 8 bits.
    rtol, atol = (0.01, 0.03) if dtype == torch.bfloat16 else (1e-5, 1e-5)
    with torch.no_grad():
        for found, expected in ((instance_norm(x), normalized), (adain(x, scale, bias), styled)):
            assert found.is_contiguous(memory_format=layout)
            torch.testing.assert_close(found, expected.to(dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("part", [(slice(None), slice(0, 1)), (..., slice(5, 295), slice(None))])
def test_norms_of_parts_of_a_tensor_equal_float64(part: tuple[slice, ...]) -> None:
    """A single channel is contiguous and in channels_last at once; some rows are neither."""
    x = 10 + torch.randn(1, 3, 300, 400)
    for y in (x[part], x.contiguous(memory_format=torch.channels_last)[part]):
        mean, std = reference(y)
        assert (instance_norm(y) - (y.double() - mean) / std).abs().max() < 1e-4


@LAYOUTS
@pytest.mark.parametrize("value", [0.0, 0.3, 255.0])
def test_flat_planes_become_zero(layout: torch.memory_format, value: float) -> None:
    x = torch.full((2, 3, 31, 17), value).contiguous(memory_format=layout)
    torch.testing.assert_close(instance_norm(x), torch.zeros_like(x), rtol=0, atol=0.01)


@LAYOUTS
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_those_of_finite_differences(layout: torch.memory_format, batch: int) -> None:
    x = torch.randn(batch, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout)
    scale, bias = torch.randn(2, batch, 3, dtype=torch.float64)
    assert gradcheck(instance_norm, x.requires_grad_())
    assert gradcheck(adain, (x, scale.requires_grad_(), bias.requires_grad_()))
    assert gradcheck(mean_std, x)


@LAYOUTS
@DTYPES
@pytest.mark.parametrize("offset", [0, 1e4])
def test_mean_std_matches_float64_statistics(
    dtype: torch.dtype, layout: torch.memory_format, offset: float
) -> None:
    """E[x²] - E[x]² in float32 would keep no digit at 1e4."""
    x = (offset + 2 + torch.randn(2, 3, 35, 46)).to(dtype).contiguous(memory_format=layout)
    wide = torch.promote_types(dtype, torch.float32)
    for found, expected in zip(mean_std(x), reference(x), strict=True):
        torch.testing.assert_close(found, expected[..., 0, 0].to(wide), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 255.0])
def test_std_of_a_flat_image_is_its_floor(value: float) -> None:
    mean, std = mean_std(torch.full((1, 3, 61, 47), value))
    torch.testing.assert_close(mean, torch.full((1, 3), value))
    torch.testing.assert_close(std, torch.full((1, 3), 1e-5).sqrt(), rtol=1e-3, atol=0)
