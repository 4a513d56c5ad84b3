import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from underdrawing.models.generator import UpsampleConv, normalize


@pytest.mark.parametrize("size", [(1, 8), (7, 5), (32, 33)])
def test_normalize_is_instance_norm(size: tuple[int, int]) -> None:
    x = (3 + 2 * torch.randn(2, 5, *size)).requires_grad_()
    upstream = torch.randn_like(x)
    ours, theirs = normalize(x), F.instance_norm(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_normalize_has_the_gradient_it_should() -> None:
    assert gradcheck(normalize, torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True))


def enlarged_then_convolved(x: Tensor, layer: UpsampleConv) -> Tensor:
    """The same by the book: reflect, repeat each pixel, convolve, cut to size."""
    large = F.interpolate(F.pad(x, (1, 1, 1, 1), mode="reflect"), scale_factor=2.0)
    y = F.conv2d(large, layer.conv.weight, layer.conv.bias)
    cut = (5 - layer.conv.kernel_size[0]) // 2
    return y[..., cut : y.shape[-2] - cut, cut : y.shape[-1] - cut]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(2, 2), (5, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarging_at_the_small_size_is_resizing_and_then_convolving(
    kernel: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    layer = UpsampleConv(4, 6, kernel).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64).contiguous(memory_format=layout)
    leaves = (x.requires_grad_(), *layer.parameters())
    ours, theirs = layer(x), enlarged_then_convolved(x, layer)
    assert ours.shape == (2, 6, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(y, leaves, upstream) for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_enlarging_has_no_checkerboard_on_a_flat_map() -> None:
    flat = UpsampleConv(4, 3, 5)(torch.ones(1, 4, 6, 6))
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat))
