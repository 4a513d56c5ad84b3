from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def assert_gradient() -> Callable[..., None]:
    """Autograd against finite differences; steps wide enough for losses computed in float32."""

    def check(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
        inputs = tuple(x.double().requires_grad_() for x in inputs)
        assert gradcheck(lambda *x: loss(*x).double(), inputs, eps=3e-3, atol=2e-3, rtol=1e-2)

    return check


@pytest.fixture
def damaged() -> Callable[[Tensor, int, int], Tensor]:
    """``damaged(photo, row, column)``: the photo with one quadrant repainted."""

    def repaint(photo: Tensor, row: int, column: int) -> Tensor:
        h, w = photo.shape[-2] // 2, photo.shape[-1] // 2
        box = (..., slice(row * h, (row + 1) * h), slice(column * w, (column + 1) * w))
        stylized = photo.clone()
        stylized[box] = torch.rand_like(stylized[box])
        return stylized

    return repaint
