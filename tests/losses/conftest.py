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
    """Check autograd against finite differences, with steps wide enough for float32 losses."""

    def check(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
        inputs = tuple(x.double().requires_grad_() for x in inputs)
        assert gradcheck(lambda *x: loss(*x).double(), inputs, eps=3e-3, atol=2e-3, rtol=1e-2)

    return check
